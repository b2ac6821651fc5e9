import { describe, expect, it } from "vitest";
import { formatRanges, formatView, initialView, parseRanges, parseView, type ViewState } from "../src/ui/urlState";
import { createCamera, createRandom, createSite } from "./helpers";

const SITE = createSite({
  columns: [
    { name: "text", kind: "text", in_tiles: false },
    { name: "topic", kind: "category", in_tiles: true },
    { name: "year & month", kind: "number", in_tiles: true },
  ],
});
const INITIAL = initialView(SITE, { x: 0.5, y: 0.5, zoom: 0 });

describe("initialView", () => {
  it("shows the whole map, colored by the first column that has colors", () => {
    expect(INITIAL).toEqual({ x: 0.5, y: 0.5, zoom: 0, column: "topic", hidden: [], query: "", pins: [] });
    expect(initialView(createSite(), INITIAL).column).toBeNull();
  });
});

describe("formatView", () => {
  it("omits what equals the initial view", () => {
    expect(formatView(INITIAL, INITIAL, 1)).toBe("");
    expect(formatView({ ...INITIAL, query: "chess" }, INITIAL, 1)).toBe("search=chess");
  });

  it("writes all parts of a view", () => {
    const view = {
      ...{ x: 0.123456, y: -2, zoom: 3.14159, column: "year & month" },
      ...{ hidden: [3, 1, 2, 7], query: "a&b=c", pins: [9, 4] },
    };
    // At 100 pixels per unit three digits are a tenth of a pixel.
    expect(formatView(view, INITIAL, 100)).toBe(
      "x=0.123&y=-2&zoom=3.142&color=year+%26+month&hide=1-3.7&search=a%26b%3Dc&pin=9.4",
    );
    expect(formatView({ ...INITIAL, column: null }, INITIAL, 100)).toBe("color=");
  });
});

describe("parseView", () => {
  it("reads what formatView writes, with positions to a tenth of a pixel", () => {
    const random = createRandom(1);
    const camera = createCamera(1000, 800);
    for (let i = 0; i < 200; i++) {
      const view: ViewState = {
        x: random(),
        y: random(),
        zoom: 13 * random() - 1,
        column: [null, "topic", "year & month"][Math.floor(3 * random())],
        hidden: Array.from({ length: 20 }, (_, k) => k).filter(() => random() < 0.5),
        query: "50% of #ß &",
        pins: [Math.floor(1000 * random())],
      };
      const scale = camera.scaleAt(view.zoom);
      const parsed = parseView(`#${formatView(view, INITIAL, scale)}`, INITIAL, SITE);
      expect(Math.abs(parsed.x - view.x) * scale).toBeLessThan(0.1);
      expect(Math.abs(parsed.y - view.y) * scale).toBeLessThan(0.1);
      expect(parsed.zoom).toBeCloseTo(view.zoom, 2);
      const { x, y, zoom } = view;
      expect({ ...parsed, x, y, zoom }).toEqual(view);
    }
  });

  it.each(["", "#", "#x=&y=NaN&zoom=Infinity", "#color=unknown", "#color=text", "#hide=a.-1.2-&pin=1e3.x", "#other=1"])(
    "uses the initial view in place of what is invalid: %s",
    (fragment) => {
      expect(parseView(fragment, INITIAL, SITE)).toEqual(INITIAL);
    },
  );

  it("accepts no column, and each row as a pin once", () => {
    expect(parseView("#color=", INITIAL, SITE).column).toBeNull();
    // The map has 1,000 rows.
    expect(parseView("#pin=5.5.3.999.1000", INITIAL, SITE).pins).toEqual([5, 3, 999]);
    expect(parseView("#pin=0-200", INITIAL, SITE).pins).toHaveLength(100);
    expect(parseView("#hide=250-400", INITIAL, SITE).hidden).toEqual([250, 251, 252, 253, 254, 255]);
  });
});

describe("ranges", () => {
  it.each([
    [[], ""],
    [[5], "5"],
    [[1, 2, 3, 7], "1-3.7"],
    [[10, 9, 1], "1.9-10"],
  ])("of %j are written as %s", (values, text) => {
    expect(formatRanges(values)).toBe(text);
    expect(parseRanges(text)).toEqual([...values].sort((a, b) => a - b));
  });

  it("ignore what is invalid and do not grow without limit", () => {
    expect(parseRanges(null)).toEqual([]);
    expect(parseRanges("1.x.3-.-4.5-6-7.8")).toEqual([1, 8]);
    expect(parseRanges("7-5")).toEqual([]);
    expect(parseRanges("0-999")).toHaveLength(256);
  });
});
