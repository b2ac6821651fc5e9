// Maps the values of a column to indices into a palette of 256 colors.

import type { Column } from "../data/site";
import type { TilePoints } from "../data/tilePoints";
import { categoryColors, missingColor, parseHex, plainColor, rampColor, type Theme } from "./palettes";

const N_COLORS = 256;
/** Entries of the ramp for numbers; the last entry of the palette is for missing values. */
const N_RAMP = 255;
const MISSING = 255;
/** Share of the values at either end that does not widen the range of colors. */
const TAIL_SHARE = 0.01;
/** With fewer values the range is the whole range of the column. */
const MIN_SAMPLE = 100;

/** The values at the ends of the color ramp. */
export type ColorRange = readonly [number, number];

/** Returns the 256 colors of a column as RGBA, with hidden categories transparent. */
export function paletteTexture(column: Column | null, theme: Theme, hidden: ReadonlySet<number>): Uint8Array {
  const texture = new Uint8Array(N_COLORS * 4);
  const set = (i: number, color: string): void => texture.set([...parseHex(color), hidden.has(i) ? 0 : 255], 4 * i);
  if (!column) {
    for (let i = 0; i < N_COLORS; i++) set(i, plainColor(theme));
  } else if (column.kind === "category") {
    categoryColors(column, theme).forEach((color, i) => set(i, color));
  } else {
    for (let i = 0; i < N_RAMP; i++) set(i, rampColor(i / (N_RAMP - 1), theme));
    set(MISSING, missingColor(theme));
  }
  return texture;
}

/** Returns the 1st and 99th percentile of a numeric column, estimated from a fair sample. */
export function colorRange(column: Column, sample: TilePoints): ColorRange {
  const whole: ColorRange = [column.min ?? 0, column.max ?? 1];
  const values = (sample.values.get(column.name) as Float32Array).filter((v) => !Number.isNaN(v)).sort();
  if (values.length < MIN_SAMPLE) return whole;
  const low = values[Math.floor(values.length * TAIL_SHARE)];
  const high = values[Math.floor(values.length * (1 - TAIL_SHARE))];
  return low < high ? [low, high] : whole;
}

/** Returns the palette index of each point. */
export function paletteIndices(points: TilePoints, column: Column | null, range: ColorRange): Uint8Array {
  if (!column) return new Uint8Array(points.n);
  const values = points.values.get(column.name);
  if (!values) throw new Error(`The tiles of the map have no column ${column.name}.`);
  if (values instanceof Uint8Array) return values;
  const [low, high] = range;
  const span = high - low || 1;
  return Uint8Array.from(values, (v) =>
    Number.isNaN(v) ? MISSING : Math.round(Math.max(0, Math.min(1, (v - low) / span)) * (N_RAMP - 1)),
  );
}
