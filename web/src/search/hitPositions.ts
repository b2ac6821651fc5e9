// The positions of search hits among the points of tiles.

import type { Point } from "../data/geometry";
import { mapX, mapY, type TilePoints } from "../data/tilePoints";

export interface HitPosition extends Point {
  row: number;
  /** Index of the point in its tile. */
  index: number;
}

export class HitPositions {
  /** Each tile is searched only once. */
  private readonly cache = new WeakMap<TilePoints, HitPosition[]>();
  private readonly rows: ReadonlySet<number>;

  constructor(rows: Iterable<number>) {
    this.rows = new Set(rows);
  }

  /** Returns the hits among the points of a tile. */
  inTile(points: TilePoints): HitPosition[] {
    if (!this.rows.size) return [];
    let positions = this.cache.get(points);
    if (!positions) {
      positions = [];
      for (let index = 0; index < points.n; index++) {
        const row = points.row[index];
        if (this.rows.has(row)) positions.push({ x: mapX(points, index), y: mapY(points, index), row, index });
      }
      this.cache.set(points, positions);
    }
    return positions;
  }
}
