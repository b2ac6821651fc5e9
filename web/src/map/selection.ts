// The rows inside a polygon, all of them: tiles that are not in memory are loaded one after the other.

import type { Point } from "../data/geometry";
import type { Tile } from "../data/quadtree";
import type { RowText } from "../data/rowText";
import { mapX, mapY, type TilePoints } from "../data/tilePoints";
import type { CategoryFilter } from "./categoryFilter";
import { edgesOf, intersectingEdges, intersects, isInside, type Edge } from "./polygon";

/** The selected points of one tile. */
export interface TileSelection {
  row: Uint32Array;
  values: Map<string, Uint8Array | Float32Array>;
  x: Float64Array;
  y: Float64Array;
}

export interface Selection {
  n: number;
  tiles: TileSelection[];
}

/** Reports how much of a task is done. */
export type ReportProgress = (done: number, total: number) => void;

const MAX_CONCURRENT = 4;

/** Finds the rows inside polygons. */
export class SelectionSearch {
  /**
   * @param loadPoints returns the points of a tile, from memory or from its chunk
   * @param rowText decides about points at the edge of a polygon, as it has exact positions
   */
  constructor(
    private readonly root: Tile,
    private readonly loadPoints: (tile: Tile) => TilePoints | Promise<TilePoints>,
    private readonly rowText: RowText,
  ) {}

  /** Returns the rows inside a polygon that a filter does not hide, or null when the search was aborted. */
  async run(
    polygon: readonly Point[],
    filter: CategoryFilter,
    reportProgress: ReportProgress,
    signal: AbortSignal,
  ): Promise<Selection | null> {
    const candidates = intersectingTiles(this.root, polygon);
    const tiles: TileSelection[] = [];
    let next = 0;
    let done = 0;
    reportProgress(0, candidates.length);
    const processTiles = async (): Promise<void> => {
      while (next < candidates.length && !signal.aborted) {
        const i = next++;
        const { tile, edges } = candidates[i];
        const points = await this.loadPoints(tile);
        tiles[i] = takePoints(points, await this.indicesInside(points, polygon, edges, filter));
        reportProgress(++done, candidates.length);
      }
    };
    await Promise.all(Array.from({ length: MAX_CONCURRENT }, processTiles));
    if (signal.aborted) return null;
    return { n: tiles.reduce((sum, tile) => sum + tile.row.length, 0), tiles };
  }

  /** Returns the indices of the points of a tile that lie in a polygon, of which `edges` intersect the tile. */
  private async indicesInside(
    points: TilePoints,
    polygon: readonly Point[],
    edges: readonly Edge[],
    filter: CategoryFilter,
  ): Promise<number[]> {
    const values = filter.valuesOf(points);
    const step = points.tile.side / points.tile.steps;
    const indices: number[] = [];
    for (let i = 0; i < points.n; i++) {
      if (values && filter.hidden.has(values[i])) continue;
      let [x, y] = [mapX(points, i), mapY(points, i)];
      if (edges.some((edge) => intersects(edge, x - step / 2, y - step / 2, step))) {
        // The edge crosses the quantization step of this point, so only its exact position decides.
        ({ x, y } = await this.rowText.get(points.row[i]));
      }
      if (!edges.length || isInside(polygon, x, y)) indices.push(i);
    }
    return indices;
  }
}

/** Returns the tiles that overlap a polygon, with the edges of the polygon that intersect them. */
export function intersectingTiles(root: Tile, polygon: readonly Point[]): { tile: Tile; edges: Edge[] }[] {
  const tiles: { tile: Tile; edges: Edge[] }[] = [];
  const visit = (tile: Tile, parentEdges: Edge[]): void => {
    const edges = intersectingEdges(parentEdges, tile);
    const { left, bottom, side } = tile;
    if (!edges.length && !isInside(polygon, left + side / 2, bottom + side / 2)) return;
    tiles.push({ tile, edges });
    for (const child of tile.children) visit(child, edges);
  };
  visit(root, edgesOf(polygon));
  return tiles;
}

function takePoints(points: TilePoints, indices: readonly number[]): TileSelection {
  const values = new Map<string, Uint8Array | Float32Array>();
  for (const [name, all] of points.values) {
    const taken = all instanceof Uint8Array ? new Uint8Array(indices.length) : new Float32Array(indices.length);
    indices.forEach((i, k) => (taken[k] = all[i]));
    values.set(name, taken);
  }
  return {
    row: Uint32Array.from(indices, (i) => points.row[i]),
    values,
    x: Float64Array.from(indices, (i) => mapX(points, i)),
    y: Float64Array.from(indices, (i) => mapY(points, i)),
  };
}
