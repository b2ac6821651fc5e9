import { describe, expect, it } from "vitest";
import { colorRange, paletteIndices, paletteTexture } from "../src/map/colorMapping";
import { backgroundColor, categoryColors, oklabToSrgb, parseHex, rampColor } from "../src/map/palettes";
import { createPoints, createTile } from "./helpers";

const YEAR = { name: "year", kind: "number", in_tiles: true, min: -50, max: 2000 } as const;

function pointsWith(values: Float32Array | Uint8Array): ReturnType<typeof createPoints> {
  return createPoints(
    createTile("root", 0, 0, 1),
    Array.from(values, () => ({ x: 0, y: 0 })),
    [["year", values]],
  );
}

describe("colorRange", () => {
  it("leaves out 1% of the values at either end, and missing ones", () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) => (i * 7) % 1000);
    expect(colorRange(YEAR, pointsWith(values))).toEqual([10, 990]);
    const withMissing = Float32Array.from([...values, ...Array<number>(500).fill(NaN)]);
    expect(colorRange(YEAR, pointsWith(withMissing))).toEqual([10, 990]);
  });

  it("is that of the whole column for few values, or for equal ones", () => {
    expect(colorRange(YEAR, pointsWith(Float32Array.of(1, 2, 3)))).toEqual([-50, 2000]);
    expect(colorRange(YEAR, pointsWith(new Float32Array(1000)))).toEqual([-50, 2000]);
  });
});

describe("paletteIndices", () => {
  it("divides the range into 255 steps, and has an index for missing values", () => {
    const points = pointsWith(Float32Array.of(0, 127, 254, -1000, 1000, NaN));
    expect([...paletteIndices(points, YEAR, [0, 254])]).toEqual([0, 127, 254, 0, 254, 255]);
  });

  it("are the categories themselves, or 0 without a column", () => {
    const points = pointsWith(Uint8Array.of(3, 1));
    expect([...paletteIndices(points, { ...YEAR, kind: "category" }, [0, 1])]).toEqual([3, 1]);
    expect([...paletteIndices(points, null, [0, 1])]).toEqual([0, 0]);
  });
});

describe("palettes", () => {
  it("make hidden categories transparent", () => {
    const column = {
      ...YEAR,
      kind: "category" as const,
      categories: ["a", "b", "c"].map((label) => ({ label, n: 1 })),
    };
    const texture = paletteTexture(column, "dark", new Set([1]));
    expect([texture[3], texture[7], texture[11]]).toEqual([255, 0, 255]);
    expect([...texture.slice(0, 3)]).toEqual([0xe6, 0x9f, 0x00]);
  });

  it.each(["dark", "light"] as const)("have distinct colors for 100 categories on the %s theme", (theme) => {
    const categories = Array.from({ length: 100 }, (_, i) => ({ label: String(i), n: 1 }));
    expect(new Set(categoryColors({ ...YEAR, kind: "category", categories }, theme)).size).toBe(100);
  });

  it("interpolate Viridis, from its part that the background sets off", () => {
    expect(rampColor(1, "dark")).toBe("#fde725");
    expect(rampColor(1, "light")).toBe("#440154");
    // 0.3 + 0.7 / 7 is 0.4, and Viridis is given at steps of 1 / 9: 0.4 is 0.6 of the way from the 4th to the 5th.
    const expected = [0, 1, 2].map((k) => {
      const [low, high] = [parseHex("#31688e")[k], parseHex("#26828e")[k]];
      return Math.round(0.4 * low + 0.6 * high);
    });
    expect(parseHex(rampColor(1 / 7, "dark"))).toEqual(expected);
  });

  it("convert Oklab as its author's reference values say", () => {
    const rounded = (l: number, a: number, b: number): number[] => oklabToSrgb(l, a, b).map(Math.round);
    expect(rounded(1, 0, 0)).toEqual([255, 255, 255]);
    expect(rounded(0, 0, 0)).toEqual([0, 0, 0]);
    expect(rounded(0.627955, 0.224863, 0.125846)).toEqual([255, 0, 0]);
    expect(rounded(0.86644, -0.233888, 0.179498)).toEqual([0, 255, 0]);
    expect(rounded(0.452014, -0.032457, -0.311528)).toEqual([0, 0, 255]);
  });

  it("give the background as shares", () => {
    expect(backgroundColor("light")).toEqual([1, 1, 1]);
  });
});
