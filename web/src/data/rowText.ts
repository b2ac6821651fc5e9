// The rows as people read them: text parts, fetched when a row is looked at.

import type { Table } from "@uwdata/flechette";
import { table } from "./chunks";
import type { Site } from "./site";

/** A row with its place; a value that is missing is null. */
export interface Row {
  row: number;
  x: number;
  y: number;
  values: (string | null)[];
}

const KEPT = 48;

export class Texts {
  private readonly held = new Map<number, Promise<Table>>();

  constructor(private readonly site: Site) {}

  /** Returns a row of the map. */
  async row(row: number): Promise<Row> {
    const number = Math.floor(row / this.site.text_rows);
    const found = await this.part(number);
    const i = row - number * this.site.text_rows;
    // The place comes first, then the columns of the card in their order, whatever they are called.
    if (found.numCols !== this.site.hover.length + 2) {
      throw new Error(`The part text/${number}.js of the map has other columns than the map: export it again.`);
    }
    const at = (column: number): unknown => found.getChildAt(column).at(i);
    return {
      row,
      x: Number(at(0)),
      y: Number(at(1)),
      values: this.site.hover.map((_, k) => at(k + 2) as string | null),
    };
  }

  private part(number: number): Promise<Table> {
    let found = this.held.get(number);
    if (!found) {
      found = table(`text/${number}`);
      found.catch(() => this.held.delete(number));
    }
    // Last used last: the first ones are forgotten.
    this.held.delete(number);
    this.held.set(number, found);
    for (const old of this.held.keys()) {
      if (this.held.size <= KEPT) break;
      this.held.delete(old);
    }
    return found;
  }
}
