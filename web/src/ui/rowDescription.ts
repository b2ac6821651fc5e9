// A row in words, for screen readers.

import type { Row } from "../data/rowText";
import type { Site } from "../data/site";
import { formatCount } from "./format";

const MAX_VALUE_LENGTH = 200;

/** Returns the values of a row as "name: value" pairs, or its number where it has none. */
export function describeRow(row: Row, site: Site): string {
  const pairs = site.hover.flatMap((name, i) => {
    const value = row.values[i];
    return value ? [`${name}: ${value.slice(0, MAX_VALUE_LENGTH)}`] : [];
  });
  return pairs.join(", ") || `Row ${formatCount(row.row)}`;
}
