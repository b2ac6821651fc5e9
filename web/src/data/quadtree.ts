// The tree of tiles, and which of them a view wants.

import type { Table } from "@uwdata/flechette";
import { clamp, type Box, type Camera } from "../map/camera";

export interface Tile extends Box {
  name: string;
  z: number;
  n: number;
  /** Steps of its side in which it has positions. */
  steps: number;
  children: Tile[];
}

/** Steps of a tile: a position takes two bytes, or four in the first levels. */
const STEPS = 65536;

export interface Wanted {
  tile: Tile;
  /** How many of its points to draw: the first ones, which are a fair sample of it. */
  count: number;
}

/** How much to draw. A view gets `base` points, and more where its tiles are large; never more than `most`. */
export interface Limits {
  base: number;
  most: number;
  /** Side in pixels from which a tile begins to be drawn; at twice that it is drawn whole. */
  finest: number;
}

/** Builds the tree from the part "index" and returns its root, or null for a map without points. */
export function readTree(index: Table, whole: Box, leastSteps: number): Tile | null {
  const [z, x, y, n] = ["z", "x", "y", "n"].map((name) => index.getChild(name).toArray() as ArrayLike<number>);
  const known = new Map<string, Tile>();
  let root: Tile | null = null;
  for (let i = 0; i < n.length; i++) {
    const side = whole.side / 2 ** z[i];
    const tile: Tile = {
      name: `tiles/${z[i]}/${x[i]}-${y[i]}`,
      z: z[i],
      n: n[i],
      left: whole.left + x[i] * side,
      bottom: whole.bottom + y[i] * side,
      side,
      steps: Math.max(STEPS, leastSteps / 2 ** z[i]),
      children: [],
    };
    known.set(`${z[i]}/${x[i]}-${y[i]}`, tile);
    if (z[i] === 0) root = tile;
    else known.get(`${z[i] - 1}/${Math.floor(x[i] / 2)}-${Math.floor(y[i] / 2)}`)?.children.push(tile);
  }
  return root;
}

/**
 * Returns the tiles of a view, coarsest first and nearest to the centre first.
 *
 * All tiles of a level are drawn to the same share, which grows as the view comes nearer, so that no square of the
 * map looks denser than its neighbour and nothing pops up at once.
 */
export function choose(root: Tile, camera: Camera, limits: Limits): Wanted[] {
  const chosen: Wanted[] = [];
  let total = 0;
  let level = [root];
  while (level.length) {
    const seen = level.filter((tile) => camera.sees(tile));
    if (!seen.length) break;
    seen.sort((a, b) => distance(a, camera) - distance(b, camera));
    const sum = seen.reduce((all, tile) => all + tile.n, 0);
    const near = clamp((seen[0].side * camera.scale) / limits.finest - 1, 0, 1);
    const room = clamp((limits.base - total) / sum, 0, 1);
    let share = seen[0] === root ? 1 : Math.max(near, room);
    share = Math.min(share, Math.max(0, (limits.most - total) / sum));
    if (share <= 0) break;
    for (const tile of seen) chosen.push({ tile, count: Math.ceil(tile.n * share) });
    total += sum * share;
    if (share < 1) break;
    level = seen.flatMap((tile) => tile.children);
  }
  return chosen;
}

/** Returns the level of the deepest tile at a place. */
export function depthAt(root: Tile, x: number, y: number): number {
  let tile: Tile | undefined = root;
  let depth = 0;
  while (tile) {
    depth = tile.z;
    tile = tile.children.find((t) => x >= t.left && y >= t.bottom && x < t.left + t.side && y < t.bottom + t.side);
  }
  return depth;
}

function distance(tile: Tile, camera: Camera): number {
  return (tile.left + tile.side / 2 - camera.x) ** 2 + (tile.bottom + tile.side / 2 - camera.y) ** 2;
}
