// A view as the part of the address after "#", so that a link shows what its sender saw.

import type { Site } from "../data/site";

export interface View {
  x: number;
  y: number;
  zoom: number;
  /** Name of the colour column; null for none. */
  column: string | null;
  hidden: number[];
  query: string;
  pins: number[];
}

const MOST_PINS = 100;

/** Writes a view; what is as it was at first is left out. */
export function write(view: View, first: View, scale: number): string {
  const found = new URLSearchParams();
  // A tenth of a pixel is enough.
  const digits = Math.min(12, Math.max(0, Math.ceil(Math.log10(scale)) + 1));
  const moved = view.x !== first.x || view.y !== first.y || view.zoom !== first.zoom;
  if (moved) {
    found.set("x", String(Number(view.x.toFixed(digits))));
    found.set("y", String(Number(view.y.toFixed(digits))));
    found.set("zoom", String(Number(view.zoom.toFixed(3))));
  }
  if (view.column !== first.column) found.set("color", view.column ?? "");
  if (view.hidden.length) found.set("hide", ranges(view.hidden));
  if (view.query) found.set("search", view.query);
  if (view.pins.length) found.set("pin", view.pins.join("."));
  return found.toString();
}

/** Reads a view; what is missing or makes no sense is as in the first one. */
export function read(hash: string, first: View, site: Site): View {
  const found = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name: string, instead: number): number => {
    const text = found.get(name);
    return text !== null && text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : instead;
  };
  const color = found.get("color");
  const known = site.columns.some((c) => c.name === color && c.in_tiles && c.kind !== "text");
  return {
    x: number("x", first.x),
    y: number("y", first.y),
    zoom: number("zoom", first.zoom),
    column: color === "" ? null : known ? color : first.column,
    hidden: numbers(found.get("hide")).filter((i) => i < 256),
    query: found.get("search") ?? "",
    pins: [...new Set(numbers(found.get("pin")).filter((row) => row < site.n))].slice(0, MOST_PINS),
  };
}

/** Writes 1, 2, 3, 7 as "1-3.7". */
function ranges(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const runs: [number, number][] = [];
  for (const value of sorted) {
    const last = runs.at(-1);
    if (last && last[1] === value - 1) last[1] = value;
    else runs.push([value, value]);
  }
  return runs.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(".");
}

function numbers(text: string | null): number[] {
  const parts = (text ?? "").split(".").filter((p) => /^\d{1,10}(-\d{1,3})?$/.test(p));
  return parts.flatMap((p) => {
    const [from, to = from] = p.split("-").map(Number);
    return Array.from({ length: Math.max(0, Math.min(to - from, 255) + 1) }, (_, i) => from + i);
  });
}
