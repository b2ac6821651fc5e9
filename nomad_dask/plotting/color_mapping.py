"""The colors of a column: one for each frequent value, or a scale of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.plotting.column_values import as_arrow, check_groupable, finite_numbers, group_values, is_continuous
from nomad_dask.plotting.palettes import MAX_CATEGORIES, Theme, color_map, palette


@dataclass(frozen=True)
class CategoryColors:
    """Points colored by category.

    Attributes
    ----------
    codes : ndarray of int64 (n_rows,)
        For each row, the index of its category in the lists below.
    names, colors : list of str
        The most frequent values first, then ``other (n)`` for the n remaining values and ``missing``, both gray.
    counts : list of int
        Number of rows.
    """

    codes: np.ndarray
    names: list[str]
    colors: list[str]
    counts: list[int]


@dataclass(frozen=True)
class NumberColors:
    """Points colored by a value.

    Attributes
    ----------
    values : ndarray of float64 (n_rows,)
        NaN for a missing value.
    low, high : float
        Values of the first and the last color.
    colors : ndarray of float32 (256, 3)
        sRGB colors from low to high.
    """

    values: np.ndarray
    low: float
    high: float
    colors: np.ndarray

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Return where each value is on the scale: 0 at its low end, 1 at its high end; NaN stays NaN."""
        # Halved, as the difference of the largest numbers overflows; no sum of shares does.
        low, high = self.low / 2, self.high / 2
        with np.errstate(over="ignore"):
            return np.clip((values / 2 - low) / ((high - low) or 1.0), -1e9, 1e9)

    def colors_of(self, shares: np.ndarray) -> np.ndarray:
        """Return the color at each place of the scale; NaN has the first color."""
        colors: np.ndarray = self.colors[(np.clip(np.nan_to_num(shares), 0, 1) * 255).round().astype(np.uint8)]
        return colors


def select_rows(data: Any, rows: np.ndarray) -> Any:
    """Return some rows of an Arrow column or table, in their original order.

    Arrow's ``take`` would join the chunks of a column first, and one array cannot hold more than 2 GB of text.
    """
    import pyarrow as pa

    mask = np.zeros(len(data), bool)
    mask[rows] = True
    return data.filter(pa.array(mask))


def map_colors(column: Any, theme: Theme, name: str | None = None) -> CategoryColors | NumberColors:
    """Return the colors of a column.

    Names, booleans and up to 20 different whole numbers are categories. Other numbers have a scale from their 1st to
    their 99th percentile, so that a few extreme values do not leave the same color for all others.

    Parameters
    ----------
    column : array-like or Arrow array
    theme : Theme
    name : str, optional
        Name of the column in messages.

    Raises
    ------
    InputError
        The column holds lists, bytes or values of mixed types.
    """
    called = "The column of colors" if name is None else f"The column {name!r}"
    column = as_arrow(column, called)
    check_groupable(column, called, "colors")
    if is_continuous(column, MAX_CATEGORIES):
        values = finite_numbers(column)
        present = values[~np.isnan(values)]
        low, high = np.percentile(present, [1, 99])
        if low == high:
            low, high = present.min(), present.max()
        return NumberColors(values, float(low), float(high), color_map(theme.numbers, theme.numbers_range))
    groups = group_values(column)
    by_count = groups.most_frequent(len(groups.counts))
    kept, rest = by_count[:MAX_CATEGORIES], by_count[MAX_CATEGORIES:]
    colors, names = palette(len(kept), theme), groups.names(kept)
    sizes = [int(n) for n in groups.counts[kept]]
    # The last item is for the code -1, a missing value.
    category = np.empty(len(groups.counts) + 1, np.int64)
    category[kept] = np.arange(len(kept))
    if rest.size:
        category[rest] = len(names)
        names.append(f"other ({rest.size:,})")
        colors.append(theme.gray)
        sizes.append(int(groups.counts[rest].sum()))
    missing = int((groups.codes < 0).sum())
    if missing:
        category[-1] = len(names)
        names.append("missing")
        colors.append(theme.gray)
        sizes.append(missing)
    return CategoryColors(category[groups.codes], names, colors, sizes)
