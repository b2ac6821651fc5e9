// The rows inside a polygon, all of them: tiles that are not drawn are fetched for it, one after the other.

import type { Point } from "../map/camera";
import { edgesOf, inside, touches, touching, type Edge } from "../map/polygon";
import { colorColumns, type Column, type Site } from "../data/site";
import { mapX, mapY, type Points } from "../data/tileCache";
import type { Tile } from "../data/quadtree";
import type { Texts } from "../data/rowText";

export interface Selected {
  n: number;
  chunks: Chunk[];
}

interface Chunk {
  points: Pick<Points, "row" | "values">;
  x: Float64Array;
  y: Float64Array;
}

const AT_ONCE = 4;
const LINES = 50_000;

/** A filter on a category column: entries that are not wanted. */
export interface Hidden {
  column: Column | null;
  entries: ReadonlySet<number>;
}

/** Finds the rows inside a polygon, tile by tile. `tell` hears how many tiles are done; an aborted search gives null. */
export async function select(
  root: Tile,
  read: (tile: Tile) => Points | Promise<Points>,
  texts: Texts,
  polygon: Point[],
  hidden: Hidden,
  tell: (done: number, all: number) => void,
  signal: AbortSignal,
): Promise<Selected | null> {
  const tiles: { tile: Tile; edges: Edge[] }[] = [];
  const visit = (tile: Tile, among: Edge[]): void => {
    const edges = touching(among, tile);
    const { left, bottom, side } = tile;
    if (!edges.length && !inside(polygon, left + side / 2, bottom + side / 2)) return;
    tiles.push({ tile, edges });
    for (const child of tile.children) visit(child, edges);
  };
  visit(root, edgesOf(polygon));

  const chunks: Chunk[] = [];
  let next = 0;
  let done = 0;
  tell(0, tiles.length);
  const work = async (): Promise<void> => {
    while (next < tiles.length && !signal.aborted) {
      const i = next++;
      const { tile, edges } = tiles[i];
      const points = await read(tile);
      chunks[i] = chunkOf(points, await within(points, polygon, edges, hidden, texts));
      tell(++done, tiles.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (signal.aborted) return null;
  return { n: chunks.reduce((n, chunk) => n + chunk.x.length, 0), chunks };
}

/** The points of a tile that lie in a polygon, of which some edges touch the tile. */
async function within(points: Points, polygon: readonly Point[], edges: readonly Edge[], hidden: Hidden, texts: Texts): Promise<number[]> {
  const values = hidden.column && hidden.entries.size ? points.values.get(hidden.column.name) : undefined;
  const side = points.tile.side / points.tile.steps;
  const kept: number[] = [];
  for (let i = 0; i < points.n; i++) {
    if (values && hidden.entries.has(values[i])) continue;
    let [x, y] = [mapX(points, i), mapY(points, i)];
    if (edges.some((edge) => touches(edge, x - side / 2, y - side / 2, side))) {
      // The line runs through the step in which the tile has this point: its row tells where it is.
      ({ x, y } = await texts.row(points.row[i]));
    }
    if (!edges.length || inside(polygon, x, y)) kept.push(i);
  }
  return kept;
}

function chunkOf(points: Points, kept: readonly number[]): Chunk {
  const picked = new Map<string, Uint8Array | Float32Array>();
  for (const [name, all] of points.values) {
    const few = all instanceof Uint8Array ? new Uint8Array(kept.length) : new Float32Array(kept.length);
    kept.forEach((i, k) => (few[k] = all[i]));
    picked.set(name, few);
  }
  return {
    points: { row: Uint32Array.from(kept, (i) => points.row[i]), values: picked },
    x: Float64Array.from(kept, (i) => mapX(points, i)),
    y: Float64Array.from(kept, (i) => mapY(points, i)),
  };
}

/** Writes the selected rows as CSV, in the order of the map: with `texts` as people read them, else as tiles hold them. */
export async function csv(
  selected: Selected,
  site: Site,
  texts: Texts | null,
  tell: (done: number, all: number) => void,
): Promise<Blob> {
  const columns = colorColumns(site).filter((c) => !texts || !site.hover.includes(c.name));
  const names = [...(texts ? site.hover : []), ...columns.map((c) => c.name)];
  const lines: string[] = [["row", "x", "y", ...names].map(quoted).join(",")];
  const pieces: string[] = [];
  let done = 0;
  for (const { chunk, i } of ordered(selected)) {
    const row = chunk.points.row[i];
    const read = texts ? await texts.row(row) : null;
    const { x, y } = read ?? { x: chunk.x[i], y: chunk.y[i] };
    const cells: (string | null)[] = [String(row), shortest(x), shortest(y), ...(read?.values ?? [])];
    for (const column of columns) {
      const value = (chunk.points.values.get(column.name) as Uint8Array | Float32Array)[i];
      if (column.kind === "category") cells.push(column.categories?.[value]?.label ?? null);
      else cells.push(Number.isNaN(value) ? null : shortest(value));
    }
    lines.push(cells.map(quoted).join(","));
    if (lines.length >= LINES) pieces.push(`${lines.splice(0).join("\r\n")}\r\n`);
    if (++done % 1000 === 0) tell(done, selected.n);
  }
  pieces.push(`${lines.join("\r\n")}\r\n`);
  return new Blob(pieces, { type: "text/csv;charset=utf-8" });
}

/** The rows in the order of the map. */
function* ordered(selected: Selected): Generator<{ chunk: Chunk; i: number }> {
  // Row and place in one number: both stay below 2**32 and their product below 2**53 for maps that fit a page.
  const keys = new Float64Array(selected.n);
  const starts: number[] = [];
  let at = 0;
  for (const chunk of selected.chunks) {
    starts.push(at);
    for (const row of chunk.points.row) keys[at] = row * selected.n + at++;
  }
  keys.sort();
  for (const key of keys) {
    const place = key % selected.n;
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= place) low = middle;
      else high = middle;
    }
    yield { chunk: selected.chunks[low], i: place - starts[low] };
  }
}

/** Writes a number in the digits that a 32-bit float has. */
function shortest(value: number): string {
  return String(Number(value.toPrecision(7)));
}

function quoted(cell: string | null): string {
  if (cell === null) return "";
  return /[",\r\n]/.test(cell) || cell === "" ? `"${cell.replaceAll('"', '""')}"` : cell;
}
