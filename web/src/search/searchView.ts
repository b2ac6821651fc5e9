// The search field and its list of hits.

import { count, h, icon, iconButton, plural, textButton } from "../ui/dom";
import type { Hits } from "./searchIndex";
import type { Site } from "../data/site";
import type { Row } from "../data/rowText";

export class SearchBox {
  readonly element: HTMLElement;
  readonly field = h("input", { type: "search", id: "search", placeholder: "Search", autocomplete: "off", spellcheck: "false", "aria-label": "Search all rows" });
  private readonly clear = iconButton("close", "Clear the search", () => this.on.search("", false));
  private readonly note = h("p", { class: "note" });
  private readonly list = h("ol", { class: "hits", "aria-label": "Hits" });
  private readonly more = textButton("More", () => this.on.more(), "link");
  private readonly found = h("div", { class: "found", hidden: true });
  private timer = 0;

  constructor(
    private readonly site: Site,
    private readonly on: { search: (text: string, fly: boolean) => void; fly: (row: Row) => void; more: () => void },
  ) {
    const form = h("form", { role: "search", class: "search" }, icon("search"), this.field, this.clear);
    this.field.disabled = site.search === null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.timer);
      on.search(this.field.value, true);
    });
    this.field.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => on.search(this.field.value, false), 250);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") on.search("", false);
    });
    this.found.append(this.note, this.list, this.more);
    this.element = h("div", { class: "searching" }, form, this.found);
    this.element.hidden = site.search === null;
    this.clear.hidden = true;
  }

  /** Shows what was searched for, before there are hits. */
  ask(text: string): void {
    clearTimeout(this.timer);
    if (this.field.value !== text) this.field.value = text;
    this.clear.hidden = text === "";
    this.found.hidden = text === "";
    if (text === "") {
      this.list.replaceChildren();
      this.note.textContent = "";
    }
  }

  /** Shows hits. Returns what was found in words. */
  show(hits: Hits, rows: readonly Row[], done: boolean): string {
    this.note.textContent = inWords(hits, rows.length, done);
    this.more.hidden = done;
    this.list.replaceChildren(
      ...rows.map((row) => {
        const button = h("button", { type: "button", class: "hit" }, ...this.hitLines(row, hits.words));
        button.addEventListener("click", () => this.on.fly(row));
        return h("li", {}, button);
      }),
    );
    return this.note.textContent;
  }

  private hitLines(row: Row, words: readonly string[]): Node[] {
    const head = row.values[0] || `Row ${count(row.row)}`;
    const searched = this.site.search?.columns ?? [];
    const texts = this.site.hover.map((name, i) => (i > 0 && searched.includes(name) ? (row.values[i] ?? "") : ""));
    const told = texts.map((text) => around(text, words)).find((text) => text !== "");
    const lines = [h("span", { class: "name", dir: "auto" }, head)];
    if (told) lines.push(h("span", { class: "told", dir: "auto" }, told));
    return lines;
  }
}

function inWords(hits: Hits, shown: number, done: boolean): string {
  if (!hits.words.length) return "Type words made of letters and digits.";
  if (done && shown === 0) return "No row has all these words.";
  if (hits.total !== null) return plural(hits.total, "row");
  // Words that very many rows have: their lists are cut, so the number is a bound.
  if (!hits.unsure.length) return `At least ${plural(hits.rows.length, "row")}`;
  return done ? plural(shown, "row") : `At most ${plural(hits.rows.length, "row")}`;
}

/** Returns the part of a text around the first word that is found in it, or "". */
function around(text: string, words: readonly string[]): string {
  const low = text.toLowerCase();
  const at = Math.min(...words.map((word) => low.indexOf(word)).filter((i) => i >= 0));
  if (!Number.isFinite(at)) return "";
  const from = at < 40 ? 0 : Math.max(0, text.lastIndexOf(" ", at - 30) + 1);
  return `${from ? "…" : ""}${text.slice(from, from + 160)}`;
}
