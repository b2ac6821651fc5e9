// Where the card of a point goes: beside the point, inside the window, and clear of the panels.

import { clamp, type Point } from "../data/geometry";

export interface Size {
  width: number;
  height: number;
}

export interface Rectangle {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Pixels between the card and its point. */
const OFFSET = 14;
/** Pixels between the card and panels, or the edges of the window. */
const MARGIN = 8;

/**
 * Returns the upper left corner of a card near a point.
 *
 * The card goes to the lower right of the point, or to another side where there is no room. Where no side is free it
 * moves away from the point, next to a panel, and it covers a panel only where nothing else is possible.
 */
export function placeCard(card: Size, point: Point, view: Size, panels: readonly Rectangle[]): Point {
  const lefts = [point.x + OFFSET, point.x - OFFSET - card.width];
  const tops = [point.y + OFFSET, point.y - OFFSET - card.height];
  const limits = { x: view.width - card.width - MARGIN, y: view.height - card.height - MARGIN };
  for (const y of tops) {
    for (const x of lefts) {
      const isInside = x >= MARGIN && y >= MARGIN && x <= limits.x && y <= limits.y;
      if (isInside && !panels.some((panel) => overlap(areaOf(card, x, y), panel))) return { x, y };
    }
  }
  for (const panel of panels) {
    lefts.push(panel.left - MARGIN - card.width, panel.right + MARGIN);
    tops.push(panel.top - MARGIN - card.height, panel.bottom + MARGIN);
  }
  const corners = lefts.flatMap((left) =>
    tops.map((top) => ({
      x: Math.max(MARGIN, Math.min(left, limits.x)),
      y: Math.max(MARGIN, Math.min(top, limits.y)),
    })),
  );
  const costs = corners.map(({ x, y }) => cost(areaOf(card, x, y), point, panels));
  return corners[costs.indexOf(Math.min(...costs))];
}

/** Returns how bad a place is: covered panels come first, then the covered point, then the distance from that. */
function cost(area: Rectangle, point: Point, panels: readonly Rectangle[]): number {
  const covered = panels.reduce((sum, panel) => sum + overlap(area, panel), 0);
  const around = { left: point.x, top: point.y, right: point.x + 1, bottom: point.y + 1 };
  return covered * 1e6 + overlap(area, around) * 1e5 + distance(area, point);
}

function areaOf({ width, height }: Size, left: number, top: number): Rectangle {
  return { left, top, right: left + width, bottom: top + height };
}

/** Returns the area that two rectangles share. */
function overlap(a: Rectangle, b: Rectangle): number {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return Math.max(0, width) * Math.max(0, height);
}

/** Returns the distance of a point from the nearest one of a rectangle. */
function distance(area: Rectangle, point: Point): number {
  const x = clamp(point.x, area.left, area.right);
  const y = clamp(point.y, area.top, area.bottom);
  return Math.hypot(point.x - x, point.y - y);
}
