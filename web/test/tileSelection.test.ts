import { describe, expect, it } from "vitest";
import type { TileRequest } from "../src/data/tileCache";
import { selectTiles } from "../src/map/tileSelection";
import { allTiles, createCamera, createQuadtree, createRandom } from "./helpers";

const ALL = { basePoints: 1e9, maxPoints: 1e9, minTilePixels: 192 };

function countsByLevel(requests: readonly TileRequest[]): Record<number, number[]> {
  const counts: Record<number, number[]> = {};
  for (const { tile, count } of requests) (counts[tile.z] ??= []).push(count);
  return counts;
}

describe("selectTiles", () => {
  it("draws everything that the limits allow", () => {
    const requests = selectTiles(createQuadtree(1), createCamera(1000, 1000), ALL);
    expect(countsByLevel(requests)).toEqual({ 0: [100], 1: [100, 100, 100, 100] });
  });

  it("draws a share of a level that grows with the size of its tiles", () => {
    // A tile of level 1 takes 470 pixels: 0.94 · 1000 / 2. It is drawn to 470 / 376 - 1, a quarter.
    const limits = { basePoints: 0, maxPoints: 1e9, minTilePixels: 376 };
    const requests = selectTiles(createQuadtree(2), createCamera(1000, 1000), limits);
    expect(countsByLevel(requests)).toEqual({ 0: [100], 1: [25, 25, 25, 25] });
  });

  it("draws small tiles as far as the budget of a view reaches", () => {
    // 100 of 300 points are drawn by the root, 200 are left for the 400 of level 1.
    const limits = { basePoints: 300, maxPoints: 1e9, minTilePixels: 1000 };
    const requests = selectTiles(createQuadtree(2), createCamera(1000, 1000), limits);
    expect(countsByLevel(requests)).toEqual({ 0: [100], 1: [50, 50, 50, 50] });
  });

  it("never draws more than the maximum", () => {
    const limits = { basePoints: 0, maxPoints: 140, minTilePixels: 1 };
    const requests = selectTiles(createQuadtree(2), createCamera(1000, 1000), limits);
    expect(countsByLevel(requests)).toEqual({ 0: [100], 1: [10, 10, 10, 10] });
    const few = selectTiles(createQuadtree(2), createCamera(1000, 1000), { ...limits, maxPoints: 30 });
    expect(countsByLevel(few)).toEqual({ 0: [30] });
  });

  it("requests exactly the visible tiles, level by level and nearest to the center first", () => {
    const random = createRandom(1);
    const root = createQuadtree(4);
    const camera = createCamera(900, 600);
    for (let i = 0; i < 50; i++) {
      camera.moveTo(random(), random(), 4 * random());
      const distance = (left: number, bottom: number, side: number): number =>
        Math.hypot(left + side / 2 - camera.x, bottom + side / 2 - camera.y);
      const expected = allTiles(root)
        .filter((tile) => camera.isVisible(tile))
        .map((tile) => ({ tile, distance: distance(tile.left, tile.bottom, tile.side) }))
        .sort((a, b) => a.tile.z - b.tile.z || a.distance - b.distance);
      const requests = selectTiles(root, camera, ALL);
      expect(new Set(requests.map(({ tile }) => tile.name))).toEqual(new Set(expected.map(({ tile }) => tile.name)));
      // Tiles at equal distance may come in any order.
      requests.forEach(({ tile }, k) => {
        expect(tile.z).toBe(expected[k].tile.z);
        expect(distance(tile.left, tile.bottom, tile.side)).toBeCloseTo(expected[k].distance, 10);
      });
    }
  });

  it("draws all tiles of a level to the same share, and nothing below a level that is not complete", () => {
    const random = createRandom(2);
    const root = createQuadtree(4, 1000);
    const camera = createCamera(900, 600);
    for (let i = 0; i < 100; i++) {
      camera.moveTo(random(), random(), 4 * random());
      const limits = { basePoints: 5000 * random(), maxPoints: 5000 + 20000 * random(), minTilePixels: 192 };
      const requests = selectTiles(root, camera, limits);
      const levels = Object.values(countsByLevel(requests));
      for (const counts of levels) expect(new Set(counts).size).toBe(1);
      for (const counts of levels.slice(0, -1)) expect(counts[0]).toBe(1000);
      const total = requests.reduce((sum, { count }) => sum + count, 0);
      // Counts are rounded up, by less than one point per tile.
      expect(total).toBeLessThan(limits.maxPoints + requests.length);
    }
  });

  it("adds points gradually while the view zooms in", () => {
    const root = createQuadtree(3, 1000);
    const camera = createCamera(900, 600);
    const limits = { basePoints: 2000, maxPoints: 1e9, minTilePixels: 192 };
    let previous = 0;
    for (let zoom = 0; zoom < 1; zoom += 0.01) {
      camera.moveTo(0.5, 0.5, zoom);
      const counts = countsByLevel(selectTiles(root, camera, limits))[1];
      expect(counts[0]).toBeGreaterThanOrEqual(previous);
      if (previous) expect(counts[0] - previous).toBeLessThan(30);
      previous = counts[0];
    }
    expect(previous).toBe(1000);
  });
});
