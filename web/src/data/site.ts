// The metadata of an exported site: the chunk "site".

import type { Box } from "./geometry";

export interface Category {
  label: string;
  n: number;
  /** Set for the entry that collects missing and rare values. */
  other?: boolean;
}

export interface Column {
  name: string;
  kind: "category" | "number" | "text";
  in_tiles: boolean;
  categories?: Category[];
  min?: number;
  max?: number;
}

export interface Site {
  version: number;
  title: string;
  n: number;
  /** Left, bottom, right and top of the square that holds all points. */
  extent: [number, number, number, number];
  tile_rows: number;
  /** Minimum number of quantization steps along the side of the whole map; deeper tiles have finer steps. */
  steps: number;
  depth: number;
  columns: Column[];
  hover: string[];
  text_rows: number;
  search: { columns: string[]; parts: number } | null;
  overview: { name: string; pixels: number }[] | null;
  tiles: string;
}

export const VERSION = 1;

/** Parses the chunk "site". */
export function parseSite(bytes: Uint8Array): Site {
  const site = JSON.parse(new TextDecoder().decode(bytes)) as Site;
  if (site.version !== VERSION) {
    throw new Error(
      `This page reads sites of version ${VERSION}, and this one has version ${site.version}: export the map again.`,
    );
  }
  return site;
}

/** Returns the square that holds all points. */
export function extentOf(site: Site): Box {
  const [left, bottom, right] = site.extent;
  return { left, bottom, side: right - left || 1 };
}

/** Returns the columns that points can be colored by. */
export function colorColumns(site: Site): Column[] {
  return site.columns.filter((column) => column.in_tiles && column.kind !== "text");
}
