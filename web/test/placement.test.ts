import { describe, expect, it } from "vitest";
import { placeCard, type Rectangle } from "../src/ui/placement";
import { createRandom } from "./helpers";

const VIEW = { width: 1280, height: 800 };
const CARD = { width: 300, height: 150 };
const HEAD = { left: 12, top: 12, right: 332, bottom: 110 };
const LEGEND = { left: 1020, top: 12, right: 1268, bottom: 540 };
const TOOLS = { left: 1228, top: 570, right: 1268, bottom: 788 };

function isClear(corner: { x: number; y: number }, panel: Rectangle): boolean {
  const [right, bottom] = [corner.x + CARD.width, corner.y + CARD.height];
  return corner.x >= panel.right || right <= panel.left || corner.y >= panel.bottom || bottom <= panel.top;
}

describe("placeCard", () => {
  it.each([
    [{ x: 600, y: 400 }, { x: 614, y: 414 }, "the lower right"],
    [{ x: 600, y: 700 }, { x: 614, y: 536 }, "the upper right, at the lower edge"],
    [{ x: 900, y: 400 }, { x: 586, y: 414 }, "the lower left, beside the legend"],
    [{ x: 1100, y: 760 }, { x: 786, y: 596 }, "the upper left, in the corner of the tools"],
  ])("of %j is %j: %s", (point, corner) => {
    expect(placeCard(CARD, point, VIEW, [HEAD, LEGEND, TOOLS])).toEqual(corner);
  });

  it("covers neither panels nor the point, wherever that is, and stays inside the window", () => {
    const random = createRandom(4);
    for (let i = 0; i < 500; i++) {
      const point = { x: random() * VIEW.width, y: random() * VIEW.height };
      const corner = placeCard(CARD, point, VIEW, [HEAD, LEGEND, TOOLS]);
      for (const panel of [HEAD, LEGEND, TOOLS]) expect(isClear(corner, panel)).toBe(true);
      expect(isClear(corner, { left: point.x, top: point.y, right: point.x + 1, bottom: point.y + 1 })).toBe(true);
      expect(corner.x).toBeGreaterThanOrEqual(8);
      expect(corner.x + CARD.width).toBeLessThanOrEqual(VIEW.width - 8);
      expect(corner.y).toBeGreaterThanOrEqual(8);
      expect(corner.y + CARD.height).toBeLessThanOrEqual(VIEW.height - 8);
    }
  });

  it("moves away from a point under a panel", () => {
    const panel = { left: 0, top: 0, right: 320, bottom: 400 };
    const corner = placeCard(CARD, { x: 50, y: 60 }, VIEW, [panel]);
    expect(isClear(corner, panel)).toBe(true);
  });

  it("stays inside the window where panels take all of it", () => {
    const corner = placeCard(CARD, { x: 50, y: 60 }, VIEW, [{ left: 0, top: 0, right: 1280, bottom: 800 }]);
    expect(corner).toEqual({ x: 64, y: 8 });
  });
});
