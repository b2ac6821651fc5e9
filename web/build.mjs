// Builds the page and the live map into the Python package, or into a copy of its folders named as argument.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const web = dirname(fileURLToPath(import.meta.url));
const output = resolve(process.argv[2] ?? join(web, "../nomad_dask"));
const pageFolder = join(output, "site/web");
const liveFolder = join(output, "callbacks/live");

/** Bundles entry points into a folder and returns the names of the npm packages in the bundles. */
async function bundle(entryPoints, outdir, format) {
  const { metafile } = await build({
    absWorkingDir: web,
    entryPoints,
    outdir,
    format,
    bundle: true,
    minify: true,
    target: "es2022",
    legalComments: "none",
    metafile: true,
    logLevel: "warning",
  });
  const names = Object.keys(metafile.inputs).map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined))].sort();
}

/** Returns the license of a package, with its version. */
function licenseOf(name) {
  const folder = join(web, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
  if (!file) throw new Error(`${name} is bundled but has no license file: add its license before you ship it.`);
  return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
}

mkdirSync(pageFolder, { recursive: true });
const packages = await bundle({ app: "src/main.ts" }, pageFolder, "iife");
await bundle({ app: "src/app.css" }, pageFolder);
cpSync(join(web, "src/index.html"), join(pageFolder, "index.html"));
// Written from the bundle itself, so that the list is always complete.
const head = "app.js is part of nomad-dask (Apache-2.0) and contains code of these packages:\n\n";
writeFileSync(join(pageFolder, "LICENSES.txt"), head + packages.map(licenseOf).join(`\n${"-".repeat(80)}\n\n`));

const livePackages = await bundle({ live: "src/live/index.ts" }, liveFolder, "esm");
await bundle({ live: "src/live/live.css" }, liveFolder);
if (livePackages.length) throw new Error(`live.js bundles ${livePackages.join(", ")}: ship their licenses beside it.`);
