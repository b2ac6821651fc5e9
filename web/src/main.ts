// Where the page begins.

import { App } from "./app";
import { h } from "./dom";
import { part, setEdition, table } from "./parts";
import { hashOf } from "./search";
import { readSite } from "./site";
import { Themes } from "./themes";
import { readTree } from "./tiles";

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
