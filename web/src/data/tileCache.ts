// The tiles in memory: fetched nearest first, dropped when the view has been elsewhere for long.

import type { Column as ArrowColumn } from "@uwdata/flechette";
import { table } from "./chunks";
import type { Column } from "./site";
import type { Tile, Wanted } from "./quadtree";

/** The rows of a tile, in order of priority. */
export interface Points {
  tile: Tile;
  n: number;
  row: Uint32Array;
  x: Uint16Array | Uint32Array;
  y: Uint16Array | Uint32Array;
  /** For each column in tiles: the number of the category, or the value. */
  values: Map<string, Uint8Array | Float32Array>;
  /** When it came, in milliseconds, for fading in. */
  since: number;
}

export interface Drawn {
  points: Points;
  count: number;
}

const AT_ONCE = 6;

/** Reads a tile. */
export async function readPoints(tile: Tile, columns: readonly Column[]): Promise<Points> {
  const found = await table(tile.name);
  const values = new Map<string, Uint8Array | Float32Array>();
  for (const column of columns) {
    const child = found.getChild(`c.${column.name}`) as ArrowColumn<number | null> | undefined;
    if (!child) throw new Error(`The part ${tile.name}.js of the map has no column ${column.name}: export it again.`);
    const raw = child.toArray() as ArrayLike<number | null>;
    // A column with nulls comes as a plain array.
    if (column.kind === "category") values.set(column.name, raw instanceof Uint8Array ? raw : new Uint8Array(raw as ArrayLike<number>));
    else if (raw instanceof Float32Array) values.set(column.name, raw);
    else values.set(column.name, Float32Array.from({ length: raw.length }, (_, i) => raw[i] ?? NaN));
  }
  return {
    tile,
    n: found.numRows,
    row: found.getChild("row").toArray() as Uint32Array,
    x: found.getChild("x").toArray() as Uint16Array | Uint32Array,
    y: found.getChild("y").toArray() as Uint16Array | Uint32Array,
    values,
    since: performance.now(),
  };
}

/** Position of a point of a tile in the units of the map: the middle of its step. */
export function mapX(points: Points, i: number): number {
  return points.tile.left + ((points.x[i] + 0.5) / points.tile.steps) * points.tile.side;
}

export function mapY(points: Points, i: number): number {
  return points.tile.bottom + ((points.y[i] + 0.5) / points.tile.steps) * points.tile.side;
}

export class Store {
  private readonly here = new Map<Tile, Points>();
  private readonly coming = new Set<Tile>();
  private readonly failed = new Set<Tile>();
  private wanted: Wanted[] = [];
  private total = 0;

  /**
   * @param columns those in tiles
   * @param most points to keep; those of the view are kept in any case
   */
  constructor(
    private readonly columns: readonly Column[],
    private readonly most: number,
    private readonly on: {
      came: (points: Points) => void;
      dropped: (points: Points) => void;
      failed: (error: Error) => void;
    },
  ) {}

  get busy(): boolean {
    return this.coming.size > 0 || this.wanted.some((w) => !this.here.has(w.tile) && !this.failed.has(w.tile));
  }

  /** Asks for the tiles of a view, in order. */
  want(wanted: Wanted[]): void {
    this.wanted = wanted;
    for (const { tile } of wanted) {
      const points = this.here.get(tile);
      if (!points) continue;
      // A map keeps the order of insertion: the tiles used last are at its end.
      this.here.delete(tile);
      this.here.set(tile, points);
    }
    this.ask();
    this.drop();
  }

  /** The tiles of the view that are here. */
  drawn(): Drawn[] {
    const drawn: Drawn[] = [];
    for (const { tile, count } of this.wanted) {
      const points = this.here.get(tile);
      if (points) drawn.push({ points, count: Math.min(count, points.n) });
    }
    return drawn;
  }

  held(tile: Tile): Points | undefined {
    return this.here.get(tile);
  }

  /** All tiles that are here, of the view or not. */
  all(): Iterable<Points> {
    return this.here.values();
  }

  /** Tries failed tiles again. */
  retry(): void {
    this.failed.clear();
    this.ask();
  }

  private ask(): void {
    for (const { tile } of this.wanted) {
      if (this.coming.size >= AT_ONCE) return;
      if (this.here.has(tile) || this.coming.has(tile) || this.failed.has(tile)) continue;
      this.coming.add(tile);
      void readPoints(tile, this.columns)
        .then(
          (points) => {
            this.here.set(tile, points);
            this.total += points.n;
            this.coming.delete(tile);
            this.on.came(points);
          },
          (error: Error) => {
            this.failed.add(tile);
            this.coming.delete(tile);
            this.on.failed(error);
          },
        )
        .then(() => this.ask());
    }
  }

  private drop(): void {
    if (this.total <= this.most) return;
    const needed = new Set(this.wanted.map((w) => w.tile));
    for (const [tile, points] of this.here) {
      if (this.total <= this.most) return;
      if (needed.has(tile)) continue;
      this.here.delete(tile);
      this.total -= points.n;
      this.on.dropped(points);
    }
  }
}
