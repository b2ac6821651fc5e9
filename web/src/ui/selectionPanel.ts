// The panel of a lasso selection: its size, the progress of its search, and the button that saves it.

import { Emitter } from "../data/emitter";
import { h, iconButton, textButton } from "./dom";
import { formatCount, plural } from "./format";

export class SelectionPanel {
  /** Emitted with whether to include the text of rows. */
  readonly onSave = new Emitter<boolean>();
  readonly onClear = new Emitter();
  readonly element: HTMLElement;
  private readonly note = h("p", { class: "note" });
  private readonly progressBar = h("progress", { "aria-label": "Progress" });
  private readonly textCheckbox = h("input", { type: "checkbox", id: "with-text" });
  private readonly saveButton = textButton("Save CSV", () => this.onSave.emit(this.textCheckbox.checked), "primary");

  constructor() {
    const checkboxLabel = h("label", { for: "with-text" }, this.textCheckbox, " with text");
    const clearButton = iconButton("close", "Clear the selection", () => this.onClear.emit());
    this.element = h(
      "section",
      { class: "selection panel", "aria-label": "Selection", hidden: true },
      this.note,
      this.progressBar,
      h("div", { class: "actions" }, this.saveButton, checkboxLabel, clearButton),
    );
  }

  showProgress(task: string, done: number, total: number): void {
    this.element.hidden = false;
    this.note.textContent = `${task}: ${formatCount(done)} of ${formatCount(total)}`;
    this.progressBar.hidden = false;
    this.progressBar.max = Math.max(total, 1);
    this.progressBar.value = done;
    this.saveButton.disabled = true;
  }

  /** Shows how many rows are selected and returns it in words. */
  showResult(n: number, isFiltered: boolean): string {
    const description = `${plural(n, "row")} selected${isFiltered ? ", without hidden categories" : ""}`;
    this.element.hidden = false;
    this.progressBar.hidden = true;
    this.saveButton.disabled = n === 0;
    this.note.textContent = description;
    return description;
  }

  hide(): void {
    this.element.hidden = true;
  }
}
