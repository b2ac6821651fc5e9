// What was selected with the lasso, how far its search is, and the button that saves it.

import { count, h, iconButton, plural, textButton } from "./dom";

export class SelectionPanel {
  readonly element = h("section", { class: "selection panel", "aria-label": "Selection", hidden: true });
  private readonly note = h("p", { class: "note" });
  private readonly bar = h("progress", { "aria-label": "Progress" });
  private readonly save = textButton("Save CSV", () => this.on.save(this.texts.checked), "main");
  private readonly texts = h("input", { type: "checkbox", id: "with-texts" });
  private readonly choice = h("label", { for: "with-texts" }, this.texts, " with texts");

  constructor(private readonly on: { save: (texts: boolean) => void; close: () => void }) {
    this.element.append(
      this.note,
      this.bar,
      h("div", { class: "actions" }, this.save, this.choice, iconButton("close", "Drop the selection", () => on.close())),
    );
  }

  progress(what: string, done: number, all: number): void {
    this.element.hidden = false;
    this.note.textContent = `${what}: ${count(done)} of ${count(all)}`;
    this.bar.hidden = false;
    this.bar.max = Math.max(all, 1);
    this.bar.value = done;
    this.save.disabled = true;
  }

  /** Shows how many rows were found and returns it in words. */
  done(n: number, someHidden: boolean): string {
    this.element.hidden = false;
    this.bar.hidden = true;
    this.save.disabled = n === 0;
    this.note.textContent = `${plural(n, "row")} selected${someHidden ? ", hidden entries left out" : ""}`;
    return this.note.textContent;
  }

  hide(): void {
    this.element.hidden = true;
  }
}
