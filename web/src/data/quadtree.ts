// The quadtree of tiles.

import type { Table } from "@uwdata/flechette";
import type { Box } from "./geometry";

export interface Tile extends Box {
  name: string;
  /** Level in the tree, 0 for the root. */
  z: number;
  /** Number of points in the tile itself, without its children. */
  n: number;
  /** Number of quantization steps along its side. */
  steps: number;
  children: Tile[];
}

/** Minimum number of steps of a tile: positions take two bytes, or four in the first levels. */
const MIN_STEPS = 65536;

/** Builds the tree from the chunk "index" and returns its root, or null for a map without points. */
export function parseQuadtree(index: Table, extent: Box, rootSteps: number): Tile | null {
  const [z, x, y, n] = ["z", "x", "y", "n"].map((name) => index.getChild(name).toArray() as ArrayLike<number>);
  const tiles = new Map<string, Tile>();
  let root: Tile | null = null;
  for (let i = 0; i < n.length; i++) {
    const side = extent.side / 2 ** z[i];
    const tile: Tile = {
      name: `tiles/${z[i]}/${x[i]}-${y[i]}`,
      z: z[i],
      n: n[i],
      left: extent.left + x[i] * side,
      bottom: extent.bottom + y[i] * side,
      side,
      steps: Math.max(MIN_STEPS, rootSteps / 2 ** z[i]),
      children: [],
    };
    tiles.set(`${z[i]}/${x[i]}-${y[i]}`, tile);
    if (z[i] === 0) root = tile;
    else tiles.get(`${z[i] - 1}/${Math.floor(x[i] / 2)}-${Math.floor(y[i] / 2)}`)?.children.push(tile);
  }
  return root;
}

/** Returns the level of the deepest tile that contains a position. */
export function depthAt(root: Tile, x: number, y: number): number {
  let tile: Tile | undefined = root;
  let depth = 0;
  while (tile) {
    depth = tile.z;
    tile = tile.children.find((t) => x >= t.left && y >= t.bottom && x < t.left + t.side && y < t.bottom + t.side);
  }
  return depth;
}
