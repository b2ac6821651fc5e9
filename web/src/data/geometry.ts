// Positions and squares in map units (y points up) or in screen pixels (y points down).

export interface Point {
  x: number;
  y: number;
}

/** A square in map units. */
export interface Box {
  left: number;
  bottom: number;
  side: number;
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}
