// The colors of the dark and the light theme.

import type { Column } from "../data/site";

export type Theme = "dark" | "light";
export type Rgb = readonly [number, number, number];

interface Palette {
  /** Background of the map, as in the style sheet. */
  background: string;
  /** Points when no column is chosen. */
  plain: string;
  missing: string;
  /** The overview behind points. */
  overview: string;
  /** Safe for color-blind readers: after Okabe and Ito on the dark theme, Paul Tol on the light one. */
  categories: string[];
  /** Oklab lightness and chroma of generated colors, used in turn. */
  lightness: number[];
  chroma: number[];
  /** Start and end of the part of the ramp that has contrast with the background. */
  rampRange: [number, number];
}

const PALETTES: Record<Theme, Palette> = {
  dark: {
    background: "#101318",
    plain: "#6fb1f0",
    missing: "#5c616a",
    overview: "#8a94a3",
    categories: ["#e69f00", "#56b4e9", "#00c290", "#f0e442", "#5a7dff", "#ef6a1a", "#e58fbe"],
    lightness: [0.76, 0.66, 0.84],
    chroma: [0.13, 0.16, 0.09],
    rampRange: [0.3, 1],
  },
  light: {
    background: "#ffffff",
    plain: "#2f6db5",
    missing: "#b4b8be",
    overview: "#8d96a3",
    categories: ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#7f5f3a"],
    lightness: [0.58, 0.48, 0.68],
    chroma: [0.15, 0.12, 0.14],
    rampRange: [0.95, 0],
  },
};

// Viridis (CC0), at equal steps.
const RAMP = [
  "#440154",
  "#482878",
  "#3e4989",
  "#31688e",
  "#26828e",
  "#1f9e89",
  "#35b779",
  "#6ece58",
  "#b5de2b",
  "#fde725",
];

const GOLDEN_ANGLE = 137.508;

/** Returns the color of points when no column is chosen. */
export function plainColor(theme: Theme): string {
  return PALETTES[theme].plain;
}

export function missingColor(theme: Theme): string {
  return PALETTES[theme].missing;
}

/** Returns the color of the overview behind points. */
export function overviewColor(theme: Theme): string {
  return PALETTES[theme].overview;
}

/** Returns the color behind the points, as red, green and blue from 0 to 1. */
export function backgroundColor(theme: Theme): readonly number[] {
  return parseHex(PALETTES[theme].background).map((v) => v / 255);
}

/** Returns the colors of the categories of a column, in order. */
export function categoryColors(column: Column, theme: Theme): string[] {
  const palette = PALETTES[theme];
  const categories = column.categories ?? [];
  const nNamed = categories.filter((category) => !category.other).length;
  return categories.map((category, i) => {
    if (category.other) return palette.missing;
    return nNamed <= palette.categories.length ? palette.categories[i] : generatedColor(i, palette);
  });
}

/** Returns the color at a share of the ramp for numbers. */
export function rampColor(share: number, theme: Theme): string {
  const [start, end] = PALETTES[theme].rampRange;
  const position = (start + (end - start) * share) * (RAMP.length - 1);
  const i = Math.min(Math.floor(position), RAMP.length - 2);
  const low = parseHex(RAMP[i]);
  const high = parseHex(RAMP[i + 1]);
  return toHex(low.map((v, k) => v + (high[k] - v) * (position - i)));
}

export function parseHex(color: string): Rgb {
  const channel = (start: number): number => parseInt(color.slice(start, start + 2), 16);
  return [channel(1), channel(3), channel(5)];
}

/** Returns distinct colors for any number of categories: steps of the golden angle, at three levels of lightness. */
function generatedColor(i: number, palette: Palette): string {
  const level = i % palette.lightness.length;
  const hue = ((i * GOLDEN_ANGLE + 40) * Math.PI) / 180;
  const chroma = palette.chroma[level];
  return toHex(oklabToSrgb(palette.lightness[level], chroma * Math.cos(hue), chroma * Math.sin(hue)));
}

/** Converts Oklab (Björn Ottosson, 2020) to sRGB from 0 to 255. */
export function oklabToSrgb(lightness: number, a: number, b: number): number[] {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((v) => {
    const inGamut = Math.max(0, Math.min(1, v));
    return 255 * (inGamut <= 0.0031308 ? 12.92 * inGamut : 1.055 * inGamut ** (1 / 2.4) - 0.055);
  });
}

function toHex(color: readonly number[]): string {
  return `#${color.map((v) => Math.round(v).toString(16).padStart(2, "0")).join("")}`;
}
