// Density images of points: how many of them touch each pixel, and the color of that number.

/** Positions are sent as 16-bit integers: the side of the square that contains all points. */
const POSITION_RANGE = 65535;
const MAX_COUNT = 65535;
/** Pixels of the screen that a point may take. */
const MAX_POINT_SIDE = 3;
/** Share of the image that points cover together. */
const POINT_COVERAGE = 0.3;

export type Ramp = readonly (readonly [number, number, number])[];

/** From low to high density. */
export const RAMPS: Readonly<Record<"dark" | "light", Ramp>> = {
  dark: [
    [38, 92, 168],
    [64, 158, 224],
    [214, 240, 255],
  ],
  light: [
    [130, 180, 228],
    [40, 104, 178],
    [8, 34, 82],
  ],
};

/** The part of the map that an image shows. */
export interface DensityView {
  width: number;
  height: number;
  /** Pixels for the side of the square that contains all points. */
  scale: number;
  /** Position at the center of the image, from 0 to 1 on each axis. */
  center: readonly [number, number];
  pixelRatio: number;
}

/** Returns the side in pixels of the square that stands for a point: larger for fewer points. */
export function pointSide(n: number, { width, height, pixelRatio }: DensityView): number {
  const side = Math.round(Math.sqrt((POINT_COVERAGE * width * height) / n));
  return Math.max(1, Math.min(Math.round(MAX_POINT_SIDE * pixelRatio), side));
}

/** Returns how many points touch each pixel; `points` has pairs of x and y, with y pointing up. */
export function countPoints(points: Uint16Array, view: DensityView): Uint16Array {
  const { width, height, scale, center } = view;
  const counts = new Uint16Array(width * height);
  const n = points.length / 2;
  const side = pointSide(n, view);
  const step = scale / POSITION_RANGE;
  const left = width / 2 - center[0] * scale - side / 2;
  const top = height / 2 + center[1] * scale - side / 2;
  for (let p = 0; p < n; p++) {
    const x = Math.round(left + points[2 * p] * step);
    const y = Math.round(top - points[2 * p + 1] * step);
    if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
    for (let dy = 0; dy < side; dy++) {
      const start = (y + dy) * width + x;
      for (let i = start; i < start + side; i++) if (counts[i] < MAX_COUNT) counts[i]++;
    }
  }
  return counts;
}

/** Writes the colors of counts into RGBA pixels, on a logarithmic scale; pixels without points stay as they are. */
export function colorCounts(counts: Uint16Array, ramp: Ramp, pixels: Uint8ClampedArray): void {
  let maxCount = 1;
  for (const count of counts) if (count > maxCount) maxCount = count;
  const nSegments = ramp.length - 1;
  const logScale = nSegments / Math.log(1 + maxCount);
  for (let i = 0; i < counts.length; i++) {
    if (!counts[i]) continue;
    const position = maxCount === 1 ? nSegments / 2 : Math.log(1 + counts[i]) * logScale;
    const segment = Math.min(Math.floor(position), nSegments - 1);
    const share = position - segment;
    for (let channel = 0; channel < 3; channel++) {
      const low = ramp[segment][channel];
      pixels[4 * i + channel] = low + share * (ramp[segment + 1][channel] - low);
    }
    pixels[4 * i + 3] = 255;
  }
}
