// Numbers as people read them.

/** Formats a count, as in "12,000". */
export function formatCount(n: number): string {
  return n.toLocaleString("en-US");
}

/** Formats a count with a noun, as in "1 point" and "2 points". */
export function plural(n: number, noun: string): string {
  return `${formatCount(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** Formats a value with as few digits as distinguish it from others within a span. */
export function formatValue(value: number, span: number): string {
  const digits = Math.max(0, 1 - Math.floor(Math.log10(span || Math.abs(value) || 1)));
  if (Math.abs(value) >= 1e6 || digits > 4) return value.toExponential(1);
  return value.toLocaleString("en-US", { maximumFractionDigits: digits, useGrouping: Math.abs(value) >= 1e4 });
}
