import { describe, expect, it } from "vitest";
import { clamp } from "../src/data/geometry";
import { MAX_ZOOM, MIN_ZOOM } from "../src/map/camera";
import { createCamera, createRandom } from "./helpers";

const EXTENT = { left: -10, bottom: 20, side: 40 };

describe("Camera", () => {
  it("starts in the center of the map, which takes 94% of the shorter side", () => {
    const camera = createCamera(800, 600, EXTENT);
    expect([camera.x, camera.y]).toEqual([10, 40]);
    expect(camera.scale).toBeCloseTo(14.1, 10); // 0.94 · 600 / 40
  });

  it("doubles the scale with each zoom level", () => {
    const camera = createCamera(800, 600, EXTENT);
    expect(camera.scaleAt(3)).toBeCloseTo(112.8, 10);
    expect(camera.scaleAt(-1)).toBeCloseTo(7.05, 10);
  });

  it("projects positions to pixels, with y pointing down", () => {
    const camera = createCamera(800, 600, EXTENT);
    const { x, y } = camera.toScreen(20, 50);
    expect(x).toBeCloseTo(541, 10); // 400 + 10 · 14.1
    expect(y).toBeCloseTo(159, 10); // 300 - 10 · 14.1
  });

  it("projects pixels back to positions", () => {
    const random = createRandom(1);
    const camera = createCamera(800, 600, EXTENT);
    for (let i = 0; i < 100; i++) {
      camera.moveTo(30 * random() - 10, 20 + 30 * random(), 14 * random() - 1);
      const [x, y] = [100 * random(), 100 * random()];
      const pixel = camera.toScreen(x, y);
      const position = camera.toMap(pixel.x, pixel.y);
      expect(position.x).toBeCloseTo(x, 8);
      expect(position.y).toBeCloseTo(y, 8);
    }
  });

  it("moves the map with a drag", () => {
    const camera = createCamera(800, 600, EXTENT);
    camera.panBy(141, -28.2);
    expect(camera.x).toBeCloseTo(0, 10); // 10 - 141 / 14.1
    expect(camera.y).toBeCloseTo(38, 10); // 40 - 28.2 / 14.1
  });

  it("keeps the position under the cursor when it zooms", () => {
    const random = createRandom(2);
    const camera = createCamera(800, 600, EXTENT);
    for (let i = 0; i < 100; i++) {
      camera.moveTo(10, 40, 2);
      // The cursor is near the center, so the center stays in the map.
      const [px, py] = [300 + 200 * random(), 200 + 200 * random()];
      const before = camera.toMap(px, py);
      camera.zoomAt(px, py, 4 * random() - 2);
      const after = camera.toMap(px, py);
      expect(after.x).toBeCloseTo(before.x, 8);
      expect(after.y).toBeCloseTo(before.y, 8);
    }
  });

  it("stays within the map and the zoom levels", () => {
    const camera = createCamera(800, 600, EXTENT);
    camera.moveTo(1000, -1000, 100);
    expect([camera.x, camera.y, camera.zoom]).toEqual([30, 20, MAX_ZOOM]);
    camera.zoomAt(0, 0, -100);
    expect(camera.zoom).toBe(MIN_ZOOM);
    expect(camera.x).toBeGreaterThanOrEqual(-10);
    expect(camera.y).toBeLessThanOrEqual(60);
  });

  it("finds the squares on the screen: those whose nearest position to the center is", () => {
    const random = createRandom(3);
    const camera = createCamera(300, 200);
    let nVisible = 0;
    for (let i = 0; i < 1000; i++) {
      camera.moveTo(random(), random(), 3 * random());
      const box = { left: random(), bottom: random(), side: 0.3 * random() };
      const nearestX = clamp(camera.x, box.left, box.left + box.side);
      const nearestY = clamp(camera.y, box.bottom, box.bottom + box.side);
      const { x, y } = camera.toScreen(nearestX, nearestY);
      const isVisible = x >= 0 && x <= 300 && y >= 0 && y <= 200;
      expect(camera.isVisible(box)).toBe(isVisible);
      nVisible += Number(isVisible);
    }
    expect(nVisible).toBeGreaterThan(100);
    expect(nVisible).toBeLessThan(900);
  });

  it("computes the visible share of a square as counting its positions does", () => {
    const random = createRandom(4);
    const camera = createCamera(300, 200);
    const n = 100;
    for (let i = 0; i < 20; i++) {
      camera.moveTo(random(), random(), 2 * random());
      const box = { left: 0.8 * random(), bottom: 0.8 * random(), side: 0.5 };
      let nVisible = 0;
      for (let k = 0; k < n * n; k++) {
        const { x, y } = camera.toScreen(
          box.left + (((k % n) + 0.5) / n) * box.side,
          box.bottom + ((Math.floor(k / n) + 0.5) / n) * box.side,
        );
        nVisible += Number(x >= 0 && x <= 300 && y >= 0 && y <= 200);
      }
      // The edges of the screen may each miss half a row of the grid.
      expect(Math.abs(camera.visibleShare(box) - nVisible / n ** 2)).toBeLessThan(2.1 / n);
    }
  });
});
