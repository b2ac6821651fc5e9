// The points of one tile, as its chunk stores them.

import type { Column as ArrowColumn } from "@uwdata/flechette";
import { loadTable } from "./chunks";
import type { Tile } from "./quadtree";
import type { Column } from "./site";

/** The points of a tile, in random order: the first ones are a fair sample of all. */
export interface TilePoints {
  tile: Tile;
  n: number;
  row: Uint32Array;
  /** Positions in quantization steps of the tile. */
  x: Uint16Array | Uint32Array;
  y: Uint16Array | Uint32Array;
  /** For each column in tiles: the index of the category, or the value. */
  values: Map<string, Uint8Array | Float32Array>;
  /** Time at which the tile was loaded in milliseconds, for fading in. */
  loadedAt: number;
}

/** Tiles with the number of their points that is drawn. */
export interface VisibleTile {
  points: TilePoints;
  count: number;
}

/** Loads the points of a tile. */
export async function loadTile(tile: Tile, columns: readonly Column[]): Promise<TilePoints> {
  const table = await loadTable(tile.name);
  const values = new Map<string, Uint8Array | Float32Array>();
  for (const column of columns) {
    const child = table.getChild(`c.${column.name}`) as ArrowColumn<number | null> | undefined;
    if (!child) throw new Error(`The file ${tile.name}.js of the map has no column ${column.name}: export it again.`);
    values.set(column.name, toTypedArray(child.toArray(), column));
  }
  return {
    tile,
    n: table.numRows,
    row: table.getChild("row").toArray() as Uint32Array,
    x: table.getChild("x").toArray() as Uint16Array | Uint32Array,
    y: table.getChild("y").toArray() as Uint16Array | Uint32Array,
    values,
    loadedAt: performance.now(),
  };
}

/** Returns the x position of a point in map units: the middle of its quantization step. */
export function mapX(points: TilePoints, i: number): number {
  return points.tile.left + ((points.x[i] + 0.5) / points.tile.steps) * points.tile.side;
}

export function mapY(points: TilePoints, i: number): number {
  return points.tile.bottom + ((points.y[i] + 0.5) / points.tile.steps) * points.tile.side;
}

/** Converts a column with nulls, which Arrow returns as a plain array. */
function toTypedArray(raw: ArrayLike<number | null>, column: Column): Uint8Array | Float32Array {
  if (column.kind === "category") return raw instanceof Uint8Array ? raw : new Uint8Array(raw as ArrayLike<number>);
  return raw instanceof Float32Array ? raw : Float32Array.from({ length: raw.length }, (_, i) => raw[i] ?? NaN);
}
