// The panel of a lasso selection: its size, the progress of its search, and the button that saves it.

import { Emitter } from "../data/emitter";
import { h, iconButton, textButton } from "./dom";
import { formatCount, plural } from "./format";

/** What to write into a CSV. */
export interface CsvOptions {
  includesText: boolean;
  /** Whether text that a spreadsheet would run as a formula stays as it is. */
  keepsFormulas: boolean;
}

const FORMULAS_HINT =
  "Text that starts with =, +, -, @, a tab or a line break gets an apostrophe in front, so that spreadsheets do not run " +
  "it as a formula. Check this to leave it as it is.";

export class SelectionPanel {
  readonly onSave = new Emitter<CsvOptions>();
  readonly onClear = new Emitter();
  readonly element: HTMLElement;
  private readonly note = h("p", { class: "note" });
  private readonly progressBar = h("progress", { "aria-label": "Progress" });
  private readonly textCheckbox = h("input", { type: "checkbox", id: "with-text" });
  private readonly formulasCheckbox = h("input", { type: "checkbox", id: "keep-formulas" });
  private readonly saveButton = textButton(
    "Save CSV",
    () => this.onSave.emit({ includesText: this.textCheckbox.checked, keepsFormulas: this.formulasCheckbox.checked }),
    "primary",
  );

  constructor() {
    const textLabel = h("label", { for: "with-text" }, this.textCheckbox, " with text");
    const formulasLabel = h(
      "label",
      { for: "keep-formulas", title: FORMULAS_HINT },
      this.formulasCheckbox,
      " keep formulas",
    );
    const clearButton = iconButton("close", "Clear the selection", () => this.onClear.emit());
    this.element = h(
      "section",
      { class: "selection panel", "aria-label": "Selection", hidden: true },
      this.note,
      this.progressBar,
      h("div", { class: "actions" }, this.saveButton, textLabel, formulasLabel, clearButton),
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
