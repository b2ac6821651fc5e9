// Which categories are hidden after a click on one of them.

/** Hides or shows category `i` of `n`; with `isExclusive` shows only it, or all again if it is the only one. */
export function toggleCategory(
  hidden: ReadonlySet<number>,
  i: number,
  n: number,
  isExclusive: boolean,
): ReadonlySet<number> {
  if (isExclusive) {
    const others = Array.from({ length: n }, (_, k) => k).filter((k) => k !== i);
    const isOnlyOne = others.every((k) => hidden.has(k)) && !hidden.has(i);
    return new Set(isOnlyOne ? [] : others);
  }
  const toggled = new Set(hidden);
  if (!toggled.delete(i)) toggled.add(i);
  return toggled;
}
