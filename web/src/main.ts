// Entry point: reads the metadata of the site and starts the page.

import { App } from "./app";
import { loadChunk, loadTable, setCacheKey } from "./data/chunks";
import { parseQuadtree } from "./data/quadtree";
import { extentOf, parseSite } from "./data/site";
import { fnv1a } from "./search/tokenizer";
import { h } from "./ui/dom";
import { ThemeSwitch } from "./ui/theme";

async function main(): Promise<void> {
  // The theme comes first, so that the page does not flash in the other one.
  const theme = new ThemeSwitch();
  try {
    const bytes = await loadChunk("site");
    const site = parseSite(bytes);
    setCacheKey(fnv1a(bytes).toString(36));
    const root = parseQuadtree(await loadTable(site.tiles), extentOf(site), site.steps);
    new App(site, root, theme);
  } catch (error) {
    document.body.replaceChildren(h("p", { class: "fatal-error", role: "alert" }, (error as Error).message));
  }
}

void main();
