// A view as the fragment of the address, so that a link shows what its sender saw.

import { colorColumns, type Site } from "../data/site";
import type { ViewTarget } from "../map/camera";

export interface ViewState extends ViewTarget {
  /** Name of the column that points are colored by; null for none. */
  column: string | null;
  hidden: readonly number[];
  query: string;
  pins: readonly number[];
}

const MAX_PINS = 100;
const MAX_CATEGORIES = 256;
const MAX_COORDINATE_DIGITS = 12;

/** Returns the view of a site that is opened without a fragment. */
export function initialView(site: Site, center: ViewTarget): ViewState {
  const { x, y, zoom } = center;
  return { x, y, zoom, column: colorColumns(site)[0]?.name ?? null, hidden: [], query: "", pins: [] };
}

/**
 * Formats a view as a fragment without "#"; whatever equals the initial view is omitted.
 *
 * @param scale pixels for one map unit, which determine the precision of positions
 */
export function formatView(view: ViewState, initial: ViewState, scale: number): string {
  const params = new URLSearchParams();
  // A tenth of a pixel is precise enough.
  const digits = Math.min(MAX_COORDINATE_DIGITS, Math.max(0, Math.ceil(Math.log10(scale)) + 1));
  if (view.x !== initial.x || view.y !== initial.y || view.zoom !== initial.zoom) {
    params.set("x", String(Number(view.x.toFixed(digits))));
    params.set("y", String(Number(view.y.toFixed(digits))));
    params.set("zoom", String(Number(view.zoom.toFixed(3))));
  }
  if (view.column !== initial.column) params.set("color", view.column ?? "");
  if (view.hidden.length) params.set("hide", formatRanges(view.hidden));
  if (view.query) params.set("search", view.query);
  if (view.pins.length) params.set("pin", view.pins.join("."));
  return params.toString();
}

/** Parses a fragment; whatever is missing or invalid is as in the initial view. */
export function parseView(fragment: string, initial: ViewState, site: Site): ViewState {
  const params = new URLSearchParams(fragment.replace(/^#/, ""));
  return {
    x: parseNumber(params.get("x")) ?? initial.x,
    y: parseNumber(params.get("y")) ?? initial.y,
    zoom: parseNumber(params.get("zoom")) ?? initial.zoom,
    column: parseColumn(params.get("color"), initial, site),
    hidden: parseRanges(params.get("hide")).filter((i) => i < MAX_CATEGORIES),
    query: params.get("search") ?? "",
    pins: [...new Set(parseRanges(params.get("pin")).filter((row) => row < site.n))].slice(0, MAX_PINS),
  };
}

function parseNumber(text: string | null): number | null {
  if (text === null || text.trim() === "") return null;
  const number = Number(text);
  return Number.isFinite(number) ? number : null;
}

function parseColumn(text: string | null, initial: ViewState, site: Site): string | null {
  if (text === "") return null;
  return colorColumns(site).some((column) => column.name === text) ? text : initial.column;
}

/** Formats integers compactly: 1, 2, 3, 7 as "1-3.7". */
export function formatRanges(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const ranges: [number, number][] = [];
  for (const value of sorted) {
    const last = ranges.at(-1);
    if (last?.[1] === value - 1) last[1] = value;
    else ranges.push([value, value]);
  }
  return ranges.map(([start, end]) => (start === end ? `${start}` : `${start}-${end}`)).join(".");
}

/** Parses what `formatRanges` writes; ranges are cut after 256 integers, and invalid parts are ignored. */
export function parseRanges(text: string | null): number[] {
  const parts = (text ?? "").split(".").filter((part) => /^\d{1,10}(-\d{1,3})?$/.test(part));
  return parts.flatMap((part) => {
    const [start, end = start] = part.split("-").map(Number);
    const length = Math.max(0, Math.min(end - start, MAX_CATEGORIES - 1) + 1);
    return Array.from({ length }, (_, i) => start + i);
  });
}
