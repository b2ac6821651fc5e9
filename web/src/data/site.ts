// What an exported site says of itself: the part "site".

export interface Category {
  label: string;
  n: number;
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
  extent: [number, number, number, number];
  tile_rows: number;
  /** Steps of the whole square that positions have at least; tiles deeper down have finer ones. */
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

/** Reads the part "site". */
export function readSite(bytes: Uint8Array): Site {
  const site = JSON.parse(new TextDecoder().decode(bytes)) as Site;
  if (site.version !== VERSION) {
    throw new Error(
      `This page reads sites of version ${VERSION}, and this one has version ${site.version}: export the map again.`,
    );
  }
  return site;
}

/** Columns that points can be coloured by. */
export function colorColumns(site: Site): Column[] {
  return site.columns.filter((c) => c.in_tiles && c.kind !== "text");
}
