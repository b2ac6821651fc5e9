// Builds the page into the folder that the Python package ships, or into the one named as argument.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../nomad_dask/site/web"));

const result = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.ts" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/app.css" },
  outdir: out,
  minify: true,
  target: "es2022",
  logLevel: "warning",
});
mkdirSync(out, { recursive: true });
cpSync(join(here, "src/index.html"), join(out, "index.html"));

// One entry for each package whose code is in the bundle, so that the list cannot fall behind it.
const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
  if (found) packages.add(found[1]);
}
const entries = [...packages].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
  if (!file) throw new Error(`${name} is bundled and has no licence file: add its licence before you ship it.`);
  return `${name} ${about.version} (${about.license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
});
const head = "app.js is part of nomad-dask (Apache-2.0) and contains code of these packages:\n\n";
writeFileSync(join(out, "LICENSES.txt"), head + entries.join(`\n${"-".repeat(80)}\n\n`));
