// What the points are coloured with: palettes of the two themes, and the index of each point in one of 256 entries.

import type { Points } from "../data/tileCache";
import type { Column } from "../data/site";

export type Theme = "dark" | "light";
type Rgb = readonly [number, number, number];

/** Entry of points without a value. */
const MISSING = 255;
const NUMBERS = 255;

interface Paint {
  /** As in the style sheet. */
  ground: string;
  /** Points without a colour column. */
  plain: string;
  missing: string;
  /** Told apart by people who see fewer colours, too: Okabe and Ito on the dark, Paul Tol on the light. */
  few: string[];
  lightness: number[];
  chroma: number[];
  /** Share of the ramp that can be seen on the ground. */
  part: [number, number];
}

const PAINTS: Record<Theme, Paint> = {
  dark: {
    ground: "#101318",
    plain: "#6fb1f0",
    missing: "#5c616a",
    few: ["#e69f00", "#56b4e9", "#00c290", "#f0e442", "#5a7dff", "#ef6a1a", "#e58fbe"],
    lightness: [0.76, 0.66, 0.84],
    chroma: [0.13, 0.16, 0.09],
    part: [0.3, 1],
  },
  light: {
    ground: "#ffffff",
    plain: "#2f6db5",
    missing: "#b4b8be",
    few: ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#7f5f3a"],
    lightness: [0.58, 0.48, 0.68],
    chroma: [0.15, 0.12, 0.14],
    part: [0.95, 0],
  },
};

// Viridis (CC0), at equal steps.
const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

/** Colour of the points where there is no column. */
export function plainColor(theme: Theme): string {
  return PAINTS[theme].plain;
}

/** The colour behind the points, from 0 to 1. */
export function groundColor(theme: Theme): readonly number[] {
  return parsed(PAINTS[theme].ground).map((v) => v / 255);
}

/** Colours of the categories of a column, in order. */
export function categoryColors(column: Column, theme: Theme): string[] {
  const paint = PAINTS[theme];
  const categories = column.categories ?? [];
  const named = categories.filter((c) => !c.other).length;
  return categories.map((category, i) => {
    if (category.other) return paint.missing;
    return named <= paint.few.length ? paint.few[i] : spread(i, paint);
  });
}

/** Colour at a share of the ramp of numbers. */
export function rampColor(share: number, theme: Theme): string {
  const [low, high] = PAINTS[theme].part;
  const at = (low + (high - low) * share) * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  const [a, b] = [parsed(RAMP[i]), parsed(RAMP[i + 1])];
  return hex(a.map((v, k) => v + (b[k] - v) * (at - i)) as unknown as Rgb);
}

/** The 256 colours of a column, with the hidden ones transparent. */
export function paletteOf(column: Column | null, theme: Theme, hidden: ReadonlySet<number>): Uint8Array {
  const palette = new Uint8Array(256 * 4);
  const set = (i: number, color: string): void => palette.set([...parsed(color), hidden.has(i) ? 0 : 255], 4 * i);
  if (!column) for (let i = 0; i < 256; i++) set(i, plainColor(theme));
  else if (column.kind === "category") categoryColors(column, theme).forEach((color, i) => set(i, color));
  else {
    for (let i = 0; i < NUMBERS; i++) set(i, rampColor(i / (NUMBERS - 1), theme));
    set(MISSING, PAINTS[theme].missing);
  }
  return palette;
}

/** Values between which a column of numbers changes colour: without the outermost hundredths of a fair sample. */
export function rangeOf(column: Column, sample: Points): [number, number] {
  const whole: [number, number] = [column.min ?? 0, column.max ?? 1];
  const values = (sample.values.get(column.name) as Float32Array).filter((v) => !Number.isNaN(v)).sort();
  if (values.length < 100) return whole;
  const range: [number, number] = [values[Math.floor(values.length * 0.01)], values[Math.floor(values.length * 0.99)]];
  return range[0] < range[1] ? range : whole;
}

/** Index of each point among the colours of its column. */
export function indicesOf(points: Points, column: Column | null, range: [number, number]): Uint8Array {
  if (!column) return new Uint8Array(points.n);
  const values = points.values.get(column.name);
  if (!values) throw new Error(`The tiles of the map have no column ${column.name}.`);
  if (values instanceof Uint8Array) return values;
  const [low, high] = range;
  const span = high - low || 1;
  return Uint8Array.from(values, (v) =>
    Number.isNaN(v) ? MISSING : Math.round(Math.max(0, Math.min(1, (v - low) / span)) * (NUMBERS - 1)),
  );
}

/** Colours far apart for any number of categories: steps of the golden angle, on three levels of lightness. */
function spread(i: number, paint: Paint): string {
  const level = i % paint.lightness.length;
  const angle = ((i * 137.508 + 40) * Math.PI) / 180;
  const [l, c] = [paint.lightness[level], paint.chroma[level]];
  return hex(oklab(l, c * Math.cos(angle), c * Math.sin(angle)));
}

/** Oklab (Björn Ottosson, 2020) to sRGB. */
function oklab(l: number, a: number, b: number): Rgb {
  const [x, y, z] = [
    (l + 0.3963377774 * a + 0.2158037573 * b) ** 3,
    (l - 0.1055613458 * a - 0.0638541728 * b) ** 3,
    (l - 0.0894841775 * a - 1.291485548 * b) ** 3,
  ];
  const linear = [
    4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
    -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z,
  ];
  return linear.map((v) => {
    const at = Math.max(0, Math.min(1, v));
    return 255 * (at <= 0.0031308 ? 12.92 * at : 1.055 * at ** (1 / 2.4) - 0.055);
  }) as unknown as Rgb;
}

function parsed(color: string): Rgb {
  return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)) as unknown as Rgb;
}

function hex(color: Rgb): string {
  return `#${color.map((v) => Math.round(v).toString(16).padStart(2, "0")).join("")}`;
}
