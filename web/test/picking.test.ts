import { describe, expect, it } from "vitest";
import type { Point } from "../src/data/geometry";
import { mapX, mapY } from "../src/data/tilePoints";
import { CategoryFilter } from "../src/map/categoryFilter";
import { pickNearest } from "../src/map/picking";
import { createCamera, createPoints, createRandom, createTile } from "./helpers";

const COLUMN = { name: "kind", kind: "category", in_tiles: true } as const;

describe("pickNearest", () => {
  it("finds the same point as a comparison with all drawn points that are not hidden", () => {
    const random = createRandom(1);
    const camera = createCamera(500, 500);
    const tiles = [createTile("root", 0, 0, 1), createTile("a", 0, 0, 0.5), createTile("b", 0.5, 0, 0.5)].map(
      (tile, k) => {
        // A step takes some two pixels, so that it matters where in its step a point is.
        tile.steps = 256;
        const positions: Point[] = Array.from({ length: 200 }, () => ({
          x: tile.left + random() * tile.side,
          y: tile.bottom + random() * tile.side,
        }));
        const kinds = Uint8Array.from(positions, () => Math.floor(3 * random()));
        return { points: createPoints(tile, positions, [["kind", kinds]], 1000 * k), count: 150 };
      },
    );
    for (const hidden of [new Set<number>(), new Set([1])]) {
      let nFound = 0;
      for (let i = 0; i < 200; i++) {
        const pixel = { x: 500 * random(), y: 500 * random() };
        let nearestRow: number | null = null;
        let minDistance = 10;
        for (const { points, count } of tiles) {
          for (let k = 0; k < count; k++) {
            const { x, y } = camera.toScreen(mapX(points, k), mapY(points, k));
            const distance = Math.hypot(x - pixel.x, y - pixel.y);
            if (distance > minDistance || hidden.has(points.values.get("kind")?.[k] ?? -1)) continue;
            [nearestRow, minDistance] = [points.row[k], distance];
          }
        }
        const picked = pickNearest(tiles, camera, pixel, 10, new CategoryFilter(COLUMN, hidden));
        expect(picked?.row ?? null).toBe(nearestRow);
        nFound += Number(nearestRow !== null);
      }
      expect(nFound).toBeGreaterThan(20);
      expect(nFound).toBeLessThan(200);
    }
  });
});
