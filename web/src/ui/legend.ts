// What the colours mean: a choice of column, and entries that show and hide categories.

import { categoryColors, rampColor, type Theme } from "../map/palettes";
import { brief, count, h, textButton } from "./dom";
import { colorColumns, type Column, type Site } from "../data/site";

export interface LegendState {
  column: Column | null;
  hidden: ReadonlySet<number>;
  /** Ends of the colours of a column of numbers. */
  range: [number, number];
  theme: Theme;
}

export class Legend {
  readonly element = h("aside", { class: "legend panel", "aria-label": "Colours", id: "legend" });
  private readonly choice = h("select", { id: "color" });
  private readonly body = h("div", { class: "entries" });
  private readonly all = textButton("Show all", () => this.on.hide(new Set()), "link");
  private shown: Column | null | undefined;

  constructor(
    site: Site,
    private readonly on: { choose: (name: string | null) => void; hide: (hidden: ReadonlySet<number>) => void },
  ) {
    const columns = colorColumns(site);
    this.choice.append(h("option", { value: "" }, "One colour"));
    columns.forEach((column, i) => this.choice.append(h("option", { value: String(i) }, column.name)));
    this.choice.addEventListener("change", () => on.choose(columns[Number(this.choice.value || -1)]?.name ?? null));
    this.element.append(h("div", { class: "choice" }, h("label", { for: "color" }, "Colour by"), this.choice), this.body);
    this.element.hidden = columns.length === 0;
  }

  show(state: LegendState): void {
    const { column } = state;
    const options = [...this.choice.options];
    this.choice.value = options.find((o) => o.value !== "" && o.text === column?.name)?.value ?? "";
    if (column !== this.shown || column?.kind === "number") this.body.replaceChildren();
    if (column?.kind === "category") this.showCategories(column, state);
    else if (column) this.showNumbers(column, state);
    this.shown = column;
  }

  private showCategories(column: Column, { hidden, theme }: LegendState): void {
    const categories = column.categories ?? [];
    const colors = categoryColors(column, theme);
    if (!this.body.firstChild) {
      const list = h("ul", { "aria-label": `Categories of ${column.name}` });
      categories.forEach((category, i) => {
        const button = h(
          "button",
          { type: "button", class: "entry", title: "Click to hide or show, Shift-click to show no other" },
          h("span", { class: "swatch" }),
          h("span", { class: "label", dir: "auto", title: category.label }, category.label || "(empty)"),
          h("span", { class: "count" }, count(category.n)),
        );
        button.addEventListener("click", (event) => this.toggle(i, categories.length, event.shiftKey));
        list.append(h("li", {}, button));
      });
      this.body.append(list, this.all);
    }
    this.hidden = hidden;
    this.all.hidden = hidden.size === 0;
    this.body.querySelectorAll<HTMLElement>(".entry").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(!hidden.has(i)));
      (button.firstChild as HTMLElement).style.background = colors[i];
    });
  }

  private hidden: ReadonlySet<number> = new Set();

  private toggle(i: number, n: number, alone: boolean): void {
    const hidden = new Set(this.hidden);
    if (alone) {
      const others = Array.from({ length: n }, (_, k) => k).filter((k) => k !== i);
      // A second time brings the others back.
      const already = others.every((k) => hidden.has(k)) && !hidden.has(i);
      this.on.hide(new Set(already ? [] : others));
      return;
    }
    if (!hidden.delete(i)) hidden.add(i);
    this.on.hide(hidden);
  }

  private showNumbers(column: Column, { range: [low, high], theme }: LegendState): void {
    const ramp = h("canvas", { class: "ramp", width: "256", height: "1", "aria-hidden": "true" });
    const pen = ramp.getContext("2d");
    for (let i = 0; i < 256 && pen; i++) {
      pen.fillStyle = rampColor(i / 255, theme);
      pen.fillRect(i, 0, 1, 1);
    }
    const below = (column.min ?? low) < low ? "≤ " : "";
    const above = (column.max ?? high) > high ? "≥ " : "";
    const write = (value: number): string => brief(value, high - low);
    const ends = [below + write(low), write((low + high) / 2), above + write(high)];
    this.body.append(ramp, h("div", { class: "ends" }, ...ends.map((text) => h("span", {}, text))));
  }
}
