// Selects the tiles that a view needs, and how many points of each.

import { clamp } from "../data/geometry";
import type { Tile } from "../data/quadtree";
import type { TileRequest } from "../data/tileCache";
import type { Camera } from "./camera";

/** How many points to draw. A view gets `basePoints`, and more where its tiles are large, up to `maxPoints`. */
export interface DetailLimits {
  basePoints: number;
  maxPoints: number;
  /** Side in pixels at which the points of a tile start to appear; at twice that all of them are drawn. */
  minTilePixels: number;
}

/**
 * Returns the tiles of a view, coarsest first and nearest to the center first.
 *
 * All tiles of a level are drawn to the same share, which grows as the view zooms in, so that no square of the map
 * looks denser than its neighbor and points appear gradually.
 */
export function selectTiles(root: Tile, camera: Camera, limits: DetailLimits): TileRequest[] {
  const requests: TileRequest[] = [];
  let total = 0;
  let level = [root];
  while (level.length) {
    const visible = level.filter((tile) => camera.isVisible(tile));
    if (!visible.length) break;
    visible.sort((a, b) => squaredDistance(a, camera) - squaredDistance(b, camera));
    const levelPoints = visible.reduce((sum, tile) => sum + tile.n, 0);
    const sizeShare = clamp((visible[0].side * camera.scale) / limits.minTilePixels - 1, 0, 1);
    const budgetShare = clamp((limits.basePoints - total) / levelPoints, 0, 1);
    let share = visible[0] === root ? 1 : Math.max(sizeShare, budgetShare);
    share = Math.min(share, Math.max(0, (limits.maxPoints - total) / levelPoints));
    if (share <= 0) break;
    for (const tile of visible) requests.push({ tile, count: Math.ceil(tile.n * share) });
    total += levelPoints * share;
    if (share < 1) break;
    level = visible.flatMap((tile) => tile.children);
  }
  return requests;
}

function squaredDistance(tile: Tile, camera: Camera): number {
  return (tile.left + tile.side / 2 - camera.x) ** 2 + (tile.bottom + tile.side / 2 - camera.y) ** 2;
}
