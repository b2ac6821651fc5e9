import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Tile } from "../src/data/quadtree";
import { TileCache } from "../src/data/tileCache";
import type { TilePoints } from "../src/data/tilePoints";
import { createPoints, createTile } from "./helpers";

interface Download {
  name: string;
  succeed: () => void;
  fail: () => void;
}

const downloads: Download[] = [];
vi.mock("../src/data/tilePoints", async (importOriginal) => ({
  ...(await importOriginal<object>()),
  loadTile: (tile: Tile) =>
    new Promise<TilePoints>((resolve, reject) => {
      const points = createPoints(tile, Array<{ x: number; y: number }>(tile.n).fill({ x: 0, y: 0 }));
      downloads.push({ name: tile.name, succeed: () => resolve(points), fail: () => reject(new Error(tile.name)) });
    }),
}));

const TILES = Array.from({ length: 10 }, (_, i) => createTile(String(i), 0, 0, 1, 0, 100));

function request(cache: TileCache, indices: number[]): void {
  cache.request(indices.map((i) => ({ tile: TILES[i], count: 60 })));
}

/** Completes all downloads, also those that start meanwhile. */
async function completeAll(): Promise<void> {
  while (downloads.length) {
    for (const download of downloads.splice(0)) download.succeed();
    await new Promise((resolve) => setTimeout(resolve));
  }
}

beforeEach(() => {
  downloads.length = 0;
});

describe("TileCache", () => {
  it("loads six tiles at a time, in the order of the request", async () => {
    const cache = new TileCache([], 1e6);
    request(cache, [3, 1, 4, 0, 5, 9, 2, 6]);
    expect(downloads.map(({ name }) => name)).toEqual(["3", "1", "4", "0", "5", "9"]);
    downloads[2].succeed();
    await new Promise((resolve) => setTimeout(resolve));
    expect(downloads.map(({ name }) => name).slice(6)).toEqual(["2"]);
    expect(cache.isLoading).toBe(true);
  });

  it("shows the loaded tiles of the view, with no more points than they have", async () => {
    const cache = new TileCache([], 1e6);
    request(cache, [0, 1]);
    await completeAll();
    expect(cache.isLoading).toBe(false);
    cache.request([
      { tile: TILES[1], count: 1000 },
      { tile: TILES[2], count: 5 },
    ]);
    expect(cache.visibleTiles().map(({ points, count }) => [points.tile.name, count])).toEqual([["1", 100]]);
  });

  it("evicts the tiles that were used least recently, and none of the view", async () => {
    const evicted: string[] = [];
    const cache = new TileCache([], 300);
    cache.onEvict.subscribe((points) => evicted.push(points.tile.name));
    request(cache, [0, 1, 2]);
    await completeAll();
    request(cache, [0]);
    request(cache, [3, 4]);
    await completeAll();
    // 500 points are in memory. The last view used 3 and 4, the one before it 0.
    request(cache, [3, 4]);
    expect(evicted).toEqual(["1", "2"]);
    expect(cache.get(TILES[0])).toBeDefined();
    request(cache, [0, 3, 4, 5, 6]);
    await completeAll();
    request(cache, [0, 3, 4, 5, 6]);
    expect(evicted).toEqual(["1", "2"]);
  });

  it("does not load a failed tile again until it is asked to retry", async () => {
    const errors: string[] = [];
    const cache = new TileCache([], 1e6);
    cache.onFail.subscribe((error) => errors.push(error.message));
    request(cache, [0]);
    downloads.splice(0)[0].fail();
    await new Promise((resolve) => setTimeout(resolve));
    request(cache, [0]);
    expect(errors).toEqual(["0"]);
    expect(downloads).toEqual([]);
    expect(cache.isLoading).toBe(false);
    cache.retry();
    await completeAll();
    expect(cache.get(TILES[0])).toBeDefined();
  });
});
