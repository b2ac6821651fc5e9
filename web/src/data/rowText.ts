// The text of rows, loaded chunk by chunk when a row is shown.

import type { Table } from "@uwdata/flechette";
import { loadTable } from "./chunks";
import type { Point } from "./geometry";
import type { Site } from "./site";

/** A row with its exact position and the values of the tooltip's columns; a missing value is null. */
export interface Row extends Point {
  row: number;
  values: (string | null)[];
}

const MAX_CHUNKS = 48;

export class RowText {
  private readonly chunks = new Map<number, Promise<Table>>();

  constructor(private readonly site: Site) {}

  /** Returns a row of the map. */
  async get(row: number): Promise<Row> {
    const chunk = Math.floor(row / this.site.text_rows);
    const table = await this.load(chunk);
    const i = row - chunk * this.site.text_rows;
    // The position comes first, then the columns of the tooltip in their order, whatever their names are.
    if (table.numCols !== this.site.hover.length + 2) {
      throw new Error(`The file text/${chunk}.js has other columns than the map: export the map again.`);
    }
    const value = (column: number): unknown => table.getChildAt(column).at(i);
    return {
      row,
      x: Number(value(0)),
      y: Number(value(1)),
      values: this.site.hover.map((_, k) => value(k + 2) as string | null),
    };
  }

  private load(chunk: number): Promise<Table> {
    let table = this.chunks.get(chunk);
    if (!table) {
      table = loadTable(`text/${chunk}`);
      table.catch(() => this.chunks.delete(chunk));
    }
    // Moves the chunk to the end of the Map, whose first entries are evicted.
    this.chunks.delete(chunk);
    this.chunks.set(chunk, table);
    for (const oldest of this.chunks.keys()) {
      if (this.chunks.size <= MAX_CHUNKS) break;
      this.chunks.delete(oldest);
    }
    return table;
  }
}
