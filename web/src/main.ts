// Where the page begins.

import { App } from "./app";
import { h } from "./ui/dom";
import { part, setEdition, table } from "./data/chunks";
import { hashOf } from "./search/searchIndex";
import { readSite } from "./data/site";
import { Themes } from "./ui/theme";
import { readTree } from "./data/quadtree";

async function begin(): Promise<void> {
  // The first thing, so that the page does not flash in the other theme.
  const themes = new Themes();
  try {
    const bytes = await part("site");
    const site = readSite(bytes);
    setEdition(hashOf(bytes).toString(36));
    const [left, bottom, right] = site.extent;
    const tree = readTree(await table(site.tiles), { left, bottom, side: right - left || 1 }, site.steps);
    new App(site, tree, themes);
  } catch (error) {
    document.body.replaceChildren(h("p", { class: "broken", role: "alert" }, (error as Error).message));
  }
}

void begin();
