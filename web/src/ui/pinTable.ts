// The pinned rows as a table, which is also how readers who cannot see the map read them.

import { Emitter } from "../data/emitter";
import type { Row } from "../data/rowText";
import type { Site } from "../data/site";
import { h, iconButton } from "./dom";
import { formatCount } from "./format";

export class PinTable {
  readonly onSelect = new Emitter<Row>();
  readonly onRemove = new Emitter<Row>();
  readonly onClear = new Emitter();
  readonly element: HTMLElement;
  private readonly heading = h("h2", { id: "pins-heading" });
  private readonly body = h("tbody");

  constructor(site: Site) {
    const columns = site.hover.map((name) => h("th", { scope: "col" }, name));
    const head = h(
      "tr",
      {},
      h("th", { scope: "col" }, "Pin"),
      ...columns,
      h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Remove")),
    );
    this.element = h(
      "section",
      { class: "pins panel", "aria-labelledby": "pins-heading", hidden: true },
      h(
        "header",
        {},
        this.heading,
        iconButton("close", "Remove all pins", () => this.onClear.emit()),
      ),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "pins-heading" },
        h("table", {}, h("thead", {}, head), this.body),
      ),
    );
  }

  show(rows: readonly Row[]): void {
    this.element.hidden = rows.length === 0;
    this.heading.textContent = `Pinned points: ${formatCount(rows.length)}`;
    this.body.replaceChildren(...rows.map((row, i) => this.tableRow(row, i + 1)));
  }

  private tableRow(row: Row, pin: number): HTMLElement {
    const rowLabel = `row ${formatCount(row.row)}`;
    const goButton = h(
      "button",
      {
        type: "button",
        class: "pin-number",
        title: `Show ${rowLabel} on the map`,
        "aria-label": `Show pin ${pin}, ${rowLabel}, on the map`,
      },
      String(pin),
    );
    goButton.addEventListener("click", () => this.onSelect.emit(row));
    const cells = row.values.map((value) =>
      h(
        "td",
        {},
        value === null ? h("span", { class: "missing" }, "(none)") : h("div", { class: "clip", dir: "auto" }, value),
      ),
    );
    const removeButton = iconButton("close", `Remove pin ${pin}`, () => this.onRemove.emit(row));
    return h("tr", {}, h("th", { scope: "row" }, goButton), ...cells, h("td", {}, removeButton));
  }
}
