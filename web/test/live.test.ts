import { describe, expect, it } from "vitest";
import { colorCounts, countPoints, pointSide, type DensityView } from "../src/live/density";
import { formatDuration, formatNumber } from "../src/live/format";
import { curvePoints } from "../src/live/lossCurve";
import { createRandom } from "./helpers";

const VIEW: DensityView = { width: 60, height: 40, scale: 38, center: [0.5, 0.5], pixelRatio: 1 };

describe("pointSide", () => {
  it("covers 30% of the image, within one to three screen pixels", () => {
    expect(pointSide(180, VIEW)).toBe(2); // √(0.3 · 2400 / 180)
    expect(pointSide(1, VIEW)).toBe(3);
    expect(pointSide(1, { ...VIEW, pixelRatio: 2 })).toBe(6);
    expect(pointSide(1e6, VIEW)).toBe(1);
  });
});

describe("countPoints", () => {
  it("puts corners where they belong, with y pointing up", () => {
    // Of many equal points each takes one pixel. The map takes 38 pixels in the middle of 60 by 40.
    const pixelsOf = (x: number, y: number): [number, number][] => {
      const points = Uint16Array.from({ length: 2000 }, (_, i) => (i % 2 ? y : x));
      return [...countPoints(points, VIEW).entries()].filter(([, count]) => count > 0);
    };
    expect(pixelsOf(65535, 0)).toEqual([[39 * 60 + 49, 1000]]);
    expect(pixelsOf(0, 65535)).toEqual([[1 * 60 + 11, 1000]]);
  });

  it("counts as many pixels as the points within the image take", () => {
    const random = createRandom(1);
    const n = 300;
    const points = Uint16Array.from({ length: 2 * n }, () => Math.floor(65536 * random()));
    const side = pointSide(n, VIEW);
    const counts = countPoints(points, VIEW);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(n * side * side);
    const zoomed = countPoints(points, { ...VIEW, scale: 380 });
    expect(zoomed.reduce((sum, count) => sum + count, 0)).toBeLessThan((n * side * side) / 3);
  });
});

describe("colorCounts", () => {
  const ramp = [
    [0, 0, 0],
    [100, 100, 100],
    [200, 200, 200],
  ] as const;

  it("is logarithmic, and leaves pixels without points as they are", () => {
    const pixels = new Uint8ClampedArray(16);
    // With a maximum of 8, a count of 2 is log 3 / log 9 of the ramp: the middle.
    colorCounts(Uint16Array.of(0, 2, 8, 0), ramp, pixels);
    expect([...pixels]).toEqual([0, 0, 0, 0, 100, 100, 100, 255, 200, 200, 200, 255, 0, 0, 0, 0]);
  });

  it("uses the middle of the ramp where no pixel has more than one point", () => {
    const pixels = new Uint8ClampedArray(4);
    colorCounts(Uint16Array.of(1), ramp, pixels);
    expect([...pixels]).toEqual([100, 100, 100, 255]);
  });
});

describe("curvePoints", () => {
  it("spans the epochs from left to right, with the highest loss at the top", () => {
    const losses: [number, number][] = [
      [0, 3],
      [50, 1],
      [100, 2],
    ];
    // The image is 320 by 90 pixels, with margins of 4 and 8.
    expect(curvePoints(losses, 100)).toEqual([
      [4, 8],
      [160, 82],
      [316, 45],
    ]);
    expect(curvePoints([[10, 5]], 100)).toEqual([[35.2, 8]]);
  });
});

describe("formats", () => {
  it.each([
    [null, ""],
    [12.345, "12.3"],
    [0.5, "0.5"],
    [1234.5, "1,235"],
    [4_560_000, "4.56M"],
  ])("write the number %j as %j", (value, text) => {
    expect(formatNumber(value)).toBe(text);
  });

  it.each([
    [3.21, "3.2 s"],
    [125, "02:05"],
    [3599.6, "1:00:00"],
    [3725, "1:02:05"],
  ])("write %d seconds as %s", (seconds, text) => {
    expect(formatDuration(seconds)).toBe(text);
  });
});
