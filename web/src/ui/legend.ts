// The legend: a choice of column, and the meaning of its colors. Entries of categories hide and show their points.

import { Emitter } from "../data/emitter";
import { colorColumns, type Column, type Site } from "../data/site";
import type { Coloring } from "../map/mapView";
import { categoryColors, rampColor } from "../map/palettes";
import { h, textButton } from "./dom";
import { formatCount, formatValue } from "./format";
import { toggleCategory } from "./legendState";

export class Legend {
  /** Emitted with the name of the chosen column, or null for none. */
  readonly onColumn = new Emitter<string | null>();
  /** Emitted with the categories to hide. */
  readonly onHide = new Emitter<ReadonlySet<number>>();
  readonly element = h("aside", { class: "legend panel", "aria-label": "Colors", id: "legend" });
  private readonly select = h("select", { id: "color" });
  private readonly body = h("div", { class: "entries" });
  private readonly showAllButton = textButton("Show all", () => this.onHide.emit(new Set()), "link");
  private shownColumn: Column | null = null;
  private hidden: ReadonlySet<number> = new Set();

  constructor(site: Site) {
    const columns = colorColumns(site);
    this.select.append(h("option", { value: "" }, "One color"));
    columns.forEach((column, i) => this.select.append(h("option", { value: String(i) }, column.name)));
    this.select.addEventListener("change", () =>
      this.onColumn.emit(columns[Number(this.select.value || -1)]?.name ?? null),
    );
    this.element.append(
      h("div", { class: "column-choice" }, h("label", { for: "color" }, "Color by"), this.select),
      this.body,
    );
    this.element.hidden = columns.length === 0;
  }

  show(coloring: Coloring): void {
    const { column } = coloring.filter;
    const option = [...this.select.options].find((o) => o.value !== "" && o.text === column?.name);
    this.select.value = option?.value ?? "";
    if (column !== this.shownColumn || column?.kind === "number") this.body.replaceChildren();
    if (column?.kind === "category") this.showCategories(column, coloring);
    else if (column) this.showRamp(column, coloring);
    this.shownColumn = column;
  }

  private showCategories(column: Column, { filter: { hidden }, theme }: Coloring): void {
    // Entries are kept while the column stays the same, so that they keep the keyboard focus.
    if (!this.body.firstChild) this.createEntries(column);
    this.hidden = hidden;
    this.showAllButton.hidden = hidden.size === 0;
    const colors = categoryColors(column, theme);
    this.body.querySelectorAll<HTMLElement>(".entry").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(!hidden.has(i)));
      (button.firstChild as HTMLElement).style.background = colors[i];
    });
  }

  private createEntries(column: Column): void {
    const categories = column.categories ?? [];
    const list = h("ul", { "aria-label": `Categories of ${column.name}` });
    categories.forEach((category, i) => {
      const button = h(
        "button",
        { type: "button", class: "entry", title: "Click to hide or show, Shift-click to show only this one" },
        h("span", { class: "swatch" }),
        h("span", { class: "label", dir: "auto", title: category.label }, category.label || "(empty)"),
        h("span", { class: "count" }, formatCount(category.n)),
      );
      button.addEventListener("click", (event) =>
        this.onHide.emit(toggleCategory(this.hidden, i, categories.length, event.shiftKey)),
      );
      list.append(h("li", {}, button));
    });
    this.body.append(list, this.showAllButton);
  }

  private showRamp(column: Column, { range: [low, high], theme }: Coloring): void {
    const ramp = h("canvas", { class: "ramp", width: "256", height: "1", "aria-hidden": "true" });
    const context = ramp.getContext("2d");
    for (let i = 0; i < 256 && context; i++) {
      context.fillStyle = rampColor(i / 255, theme);
      context.fillRect(i, 0, 1, 1);
    }
    const hasLower = (column.min ?? low) < low;
    const hasHigher = (column.max ?? high) > high;
    const format = (value: number): string => formatValue(value, high - low);
    const labels = [
      `${hasLower ? "≤ " : ""}${format(low)}`,
      format((low + high) / 2),
      `${hasHigher ? "≥ " : ""}${format(high)}`,
    ];
    this.body.append(ramp, h("div", { class: "ramp-labels" }, ...labels.map((label) => h("span", {}, label))));
  }
}
