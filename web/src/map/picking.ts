// Finds the drawn point nearest to a position on the screen.

import type { Point } from "../data/geometry";
import { mapX, mapY, type TilePoints, type VisibleTile } from "../data/tilePoints";
import type { Camera } from "./camera";
import type { CategoryFilter } from "./categoryFilter";

export interface PickedPoint extends Point {
  row: number;
  points: TilePoints;
  /** Index of the point in its tile. */
  index: number;
}

/** Returns the nearest point within some pixels, or null. Tiles farther away are skipped. */
export function pickNearest(
  tiles: readonly VisibleTile[],
  camera: Camera,
  pixel: Point,
  maxPixels: number,
  filter: CategoryFilter,
): PickedPoint | null {
  const target = camera.toMap(pixel.x, pixel.y);
  const maxDistance = maxPixels / camera.scale;
  let minSquared = maxDistance * maxDistance;
  let nearest: { points: TilePoints; index: number } | null = null;
  for (const { points, count } of tiles) {
    const { tile, x, y } = points;
    if (
      target.x < tile.left - maxDistance ||
      target.y < tile.bottom - maxDistance ||
      target.x > tile.left + tile.side + maxDistance ||
      target.y > tile.bottom + tile.side + maxDistance
    ) {
      continue;
    }
    // Distances are compared in quantization steps of the tile.
    const step = tile.side / tile.steps;
    const targetX = (target.x - tile.left) / step - 0.5;
    const targetY = (target.y - tile.bottom) / step - 0.5;
    const values = filter.valuesOf(points);
    let minSteps = minSquared / step ** 2;
    for (let i = 0; i < count; i++) {
      const squared = (x[i] - targetX) ** 2 + (y[i] - targetY) ** 2;
      if (squared <= minSteps && !(values && filter.hidden.has(values[i]))) {
        minSteps = squared;
        nearest = { points, index: i };
      }
    }
    minSquared = Math.min(minSquared, minSteps * step ** 2);
  }
  if (!nearest) return null;
  const { points, index } = nearest;
  return { row: points.row[index], points, index, x: mapX(points, index), y: mapY(points, index) };
}
