// The pinned rows: their numbers at once, their text and position when they are loaded.

import { Emitter } from "../data/emitter";
import type { Row, RowText } from "../data/rowText";
import type { Site } from "../data/site";
import type { Notifications } from "./notifications";
import { PinTable } from "./pinTable";

export class PinController {
  readonly table: PinTable;
  /** Numbers of the pinned rows, in the order of the pins. */
  rows: readonly number[] = [];
  /** The pinned rows that the table and the map show. */
  loaded: readonly Row[] = [];
  /** Emitted when the reader pinned or unpinned rows. */
  readonly onEdit = new Emitter();
  /** Emitted when the loaded rows changed. */
  readonly onLoad = new Emitter();

  constructor(
    site: Site,
    private readonly rowText: RowText,
    private readonly notifications: Notifications,
  ) {
    this.table = new PinTable(site);
    this.table.onRemove.subscribe(({ row }) => this.edit(this.rows.filter((r) => r !== row)));
    this.table.onClear.subscribe(() => this.edit([]));
  }

  has(row: number): boolean {
    return this.rows.includes(row);
  }

  /** Pins a row, or unpins a pinned one. */
  toggle(row: number): void {
    const wasPinned = this.has(row);
    this.edit(wasPinned ? this.rows.filter((r) => r !== row) : [...this.rows, row]);
    this.notifications.announce(wasPinned ? "Pin removed" : "Pinned");
  }

  /** Replaces the pins, without a step in the browser's history. */
  set(rows: readonly number[]): void {
    this.rows = rows;
    void this.load(rows);
  }

  private edit(rows: readonly number[]): void {
    this.set(rows);
    this.onEdit.emit();
  }

  private async load(rows: readonly number[]): Promise<void> {
    try {
      const loaded = await Promise.all(rows.map((row) => this.rowText.get(row)));
      if (this.rows !== rows) return;
      this.loaded = loaded;
      this.table.show(loaded);
      this.onLoad.emit();
    } catch (error) {
      this.notifications.fail(error as Error);
    }
  }
}
