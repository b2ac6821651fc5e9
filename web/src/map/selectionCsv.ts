// Writes the selected rows as CSV.

import type { RowText } from "../data/rowText";
import { colorColumns, type Column, type Site } from "../data/site";
import type { ReportProgress, Selection, TileSelection } from "./selection";

const LINES_PER_BLOB_PART = 50_000;
const ROWS_PER_REPORT = 1000;

/** Text that a spreadsheet would run as a formula, also in the full-width forms that some take for the others. */
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

/**
 * Writes rows in the order of the map: with `rowText` as the tooltip shows them, else as tiles store them.
 *
 * Text that a spreadsheet would take for a formula gets an apostrophe in front, unless `keepsFormulas`. Numbers are
 * never changed.
 */
export async function writeCsv(
  selection: Selection,
  site: Site,
  rowText: RowText | null,
  reportProgress: ReportProgress,
  keepsFormulas = false,
): Promise<Blob> {
  const textColumns = rowText ? site.hover : [];
  const columns = colorColumns(site).filter((column) => !textColumns.includes(column.name));
  const names = [...textColumns, ...columns.map((column) => column.name)];
  const numeric = new Set(site.columns.filter(isNumeric).map((column) => column.name));
  const defuse = (text: string): string => (!keepsFormulas && FORMULA.test(text) ? `'${text}` : text);
  const formatCell = (cell: string | null, i: number): string | null =>
    cell === null || (numeric.has(names[i]) && NUMBER.test(cell)) ? cell : defuse(cell);
  const lines: string[] = [["row", "x", "y", ...names.map(defuse)].map(quote).join(",")];
  const parts: string[] = [];
  let done = 0;
  for (const { tile, i } of inRowOrder(selection)) {
    const row = tile.row[i];
    const text = rowText ? await rowText.get(row) : null;
    const { x, y } = text ?? { x: tile.x[i], y: tile.y[i] };
    const cells = [...(text?.values ?? []), ...columns.map((column) => formatValue(column, tile, i))];
    const position = [String(row), formatFloat32(x), formatFloat32(y)];
    lines.push([...position, ...cells.map(formatCell)].map(quote).join(","));
    if (lines.length >= LINES_PER_BLOB_PART) parts.push(`${lines.splice(0).join("\r\n")}\r\n`);
    if (++done % ROWS_PER_REPORT === 0) reportProgress(done, selection.n);
  }
  parts.push(`${lines.join("\r\n")}\r\n`);
  return new Blob(parts, { type: "text/csv;charset=utf-8" });
}

/** Yields the selected points in the order of their rows in the map. */
function* inRowOrder(selection: Selection): Generator<{ tile: TileSelection; i: number }> {
  // Row and position in one number: both are below 2**32, and their product below 2**53 for maps that fit a page.
  const keys = new Float64Array(selection.n);
  const offsets: number[] = [];
  let position = 0;
  for (const tile of selection.tiles) {
    offsets.push(position);
    for (const row of tile.row) {
      keys[position] = row * selection.n + position;
      position++;
    }
  }
  keys.sort();
  for (const key of keys) {
    const sorted = key % selection.n;
    const k = lastIndexNotAbove(offsets, sorted);
    yield { tile: selection.tiles[k], i: sorted - offsets[k] };
  }
}

/** Returns the last index of sorted offsets whose value is at most `value`, by bisection. */
function lastIndexNotAbove(offsets: readonly number[], value: number): number {
  let low = 0;
  let high = offsets.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (offsets[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}

function formatValue(column: Column, tile: TileSelection, i: number): string | null {
  const value = tile.values.get(column.name)?.[i] ?? NaN;
  if (column.kind === "category") return column.categories?.[value]?.label ?? null;
  return Number.isNaN(value) ? null : formatFloat32(value);
}

/** Returns whether all values of a column are numbers: also the labels of a category, such as those of clusters. */
function isNumeric(column: Column): boolean {
  if (column.kind !== "category") return column.kind === "number";
  const named = (column.categories ?? []).filter((category) => !category.other);
  return named.length > 0 && named.every(({ label }) => NUMBER.test(label));
}

/** Writes a number with the digits that a 32-bit float has. */
function formatFloat32(value: number): string {
  return String(Number(value.toPrecision(7)));
}

/** Quotes a cell where CSV needs it, and empty text, to tell it from a missing value. */
function quote(cell: string | null): string {
  if (cell === null) return "";
  return /[",\r\n]/.test(cell) || cell === "" ? `"${cell.replaceAll('"', '""')}"` : cell;
}
