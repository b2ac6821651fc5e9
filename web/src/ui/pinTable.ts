// The pinned rows as a table, which is also how those who cannot see the map read it.

import { count, h, iconButton } from "./dom";
import type { Site } from "../data/site";
import type { Row } from "../data/rowText";

export class Pins {
  private readonly heading = h("h2", { id: "pins-heading" });
  private readonly rows = h("tbody");
  readonly element = h("section", { class: "pins panel", "aria-labelledby": "pins-heading", hidden: true });

  constructor(
    site: Site,
    private readonly on: { fly: (row: Row) => void; remove: (row: number) => void; clear: () => void },
  ) {
    const names = site.hover.map((name) => h("th", { scope: "col" }, name));
    const head = h("tr", {}, h("th", { scope: "col" }, "Pin"), ...names, h("th", { scope: "col" }, h("span", { class: "unseen" }, "Remove")));
    this.element.append(
      h("header", {}, this.heading, iconButton("close", "Remove all pins", () => on.clear())),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "pins-heading" }, h("table", {}, h("thead", {}, head), this.rows)),
    );
  }

  show(rows: readonly Row[]): void {
    this.element.hidden = rows.length === 0;
    this.heading.textContent = `Pinned points: ${count(rows.length)}`;
    this.rows.replaceChildren(
      ...rows.map((row, i) => {
        const go = h("button", { type: "button", class: "number", title: `Show row ${count(row.row)} on the map` }, String(i + 1));
        go.setAttribute("aria-label", `Show pin ${i + 1}, row ${count(row.row)}, on the map`);
        go.addEventListener("click", () => this.on.fly(row));
        const cells = row.values.map((value) =>
          h("td", {}, value === null ? h("span", { class: "missing" }, "(none)") : h("div", { class: "clip", dir: "auto" }, value)),
        );
        const remove = iconButton("close", `Remove pin ${i + 1}`, () => this.on.remove(row.row));
        return h("tr", {}, h("th", { scope: "row" }, go), ...cells, h("td", {}, remove));
      }),
    );
  }
}
