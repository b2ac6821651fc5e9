// Hides the points of some categories of a column.

import type { Column } from "../data/site";
import type { TilePoints } from "../data/tilePoints";

export class CategoryFilter {
  /**
   * @param column the column that points are colored by
   * @param hidden indices of its hidden categories
   */
  constructor(
    readonly column: Column | null,
    readonly hidden: ReadonlySet<number>,
  ) {}

  /** Returns the categories of a tile's points, or undefined where nothing is hidden. */
  valuesOf(points: Pick<TilePoints, "values">): ArrayLike<number> | undefined {
    if (this.column?.kind !== "category" || !this.hidden.size) return undefined;
    return points.values.get(this.column.name);
  }
}
