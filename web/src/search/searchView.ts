// The search field and its list of hits.

import { Emitter } from "../data/emitter";
import type { Row } from "../data/rowText";
import type { Site } from "../data/site";
import { h, icon, iconButton, textButton } from "../ui/dom";
import { describeHits, summarizeHit } from "./hitText";
import type { SearchHits } from "./postings";

/** Milliseconds after the last letter until the search starts. */
const TYPING_MS = 250;

/** A query that the reader typed; `isSubmitted` after Enter, which also goes to the first hit. */
export interface TypedQuery {
  text: string;
  isSubmitted: boolean;
}

export class SearchView {
  readonly onQuery = new Emitter<TypedQuery>();
  readonly onSelect = new Emitter<Row>();
  readonly onMore = new Emitter();
  readonly element: HTMLElement;
  readonly field = h("input", {
    type: "search",
    id: "search",
    placeholder: "Search",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Search all rows",
  });
  private readonly clearButton = iconButton("close", "Clear the search", () => this.clear());
  private readonly note = h("p", { class: "note" });
  private readonly list = h("ol", { class: "hits", "aria-label": "Search hits" });
  private readonly moreButton = textButton("More", () => this.onMore.emit(), "link");
  private readonly results = h("div", { class: "results", hidden: true }, this.note, this.list, this.moreButton);
  private typingTimer = 0;

  constructor(private readonly site: Site) {
    const form = h("form", { role: "search", class: "search" }, icon("search"), this.field, this.clearButton);
    this.field.disabled = site.search === null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.typingTimer);
      this.onQuery.emit({ text: this.field.value, isSubmitted: true });
      // The keyboard on the screen of a phone would cover the map.
      if (matchMedia("(pointer: coarse)").matches) this.field.blur();
    });
    this.field.addEventListener("input", () => {
      clearTimeout(this.typingTimer);
      this.typingTimer = setTimeout(() => this.onQuery.emit({ text: this.field.value, isSubmitted: false }), TYPING_MS);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      // The keys of the map work again once the field has lost the focus.
      if (this.field.value === "") this.field.blur();
      else this.clear();
    });
    this.element = h("div", { class: "search-panel" }, form, this.results);
    this.element.hidden = site.search === null;
    this.clearButton.hidden = true;
  }

  /** Shows a query before its hits are there. */
  showQuery(text: string): void {
    clearTimeout(this.typingTimer);
    if (this.field.value !== text) this.field.value = text;
    this.clearButton.hidden = text === "";
    this.results.hidden = text === "";
    if (text === "") {
      this.list.replaceChildren();
      this.note.textContent = "";
    }
  }

  /** Shows hits and returns their number in words. */
  showHits(hits: SearchHits, rows: readonly Row[], isDone: boolean): string {
    const description = describeHits(hits, rows.length, isDone);
    this.note.textContent = description;
    this.moreButton.hidden = isDone;
    this.list.replaceChildren(...rows.map((row) => h("li", {}, this.hitButton(row, hits.words))));
    return description;
  }

  private clear(): void {
    this.onQuery.emit({ text: "", isSubmitted: false });
  }

  private hitButton(row: Row, words: readonly string[]): HTMLButtonElement {
    const { title, snippet } = summarizeHit(row, words, this.site);
    const button = h("button", { type: "button", class: "hit" }, h("span", { class: "title", dir: "auto" }, title));
    if (snippet) button.append(h("span", { class: "snippet", dir: "auto" }, snippet));
    button.addEventListener("click", () => this.onSelect.emit(row));
    return button;
  }
}
