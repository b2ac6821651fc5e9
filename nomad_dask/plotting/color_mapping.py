"""The colors of a column: one for each frequent value, or a scale of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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

    def colors_of(self, values: np.ndarray) -> np.ndarray:
        """Return the color of each value; NaN has the first color."""
        share = (np.nan_to_num(values, nan=self.low) - self.low) / ((self.high - self.low) or 1.0)
        colors: np.ndarray = self.colors[(np.clip(share, 0, 1) * 255).round().astype(np.uint8)]
        return colors


def as_series(column: Any) -> Any:
    """Return a column of any kind (Arrow, cuDF, pandas, list) as a pandas Series with the index 0, 1, 2, ..."""
    import pandas as pd

    return pd.Series(column.to_pandas() if hasattr(column, "to_pandas") else column).reset_index(drop=True)


def select_rows(data: Any, rows: np.ndarray) -> Any:
    """Return some rows of an Arrow column or table, in their original order.

    Arrow's ``take`` would join the chunks of a column first, and one array cannot hold more than 2 GB of text.
    """
    import pyarrow as pa

    mask = np.zeros(len(data), bool)
    mask[rows] = True
    return data.filter(pa.array(mask))


def map_colors(column: Any, theme: Theme) -> CategoryColors | NumberColors:
    """Return the colors of a column.

    Names, booleans and up to 20 different whole numbers are categories. Other numbers have a scale from their 1st to
    their 99th percentile, so that a few extreme values do not leave the same color for all others.
    """
    import pandas as pd

    column = as_series(column)
    if is_continuous(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        present = values[~np.isnan(values)]
        low, high = np.percentile(present, [1, 99])
        if low == high:
            low, high = present.min(), present.max()
        return NumberColors(values, float(low), float(high), color_map(theme.numbers, theme.numbers_range))
    codes, values = pd.factorize(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    by_count = np.lexsort((np.arange(len(values)), -counts))
    kept, rest = by_count[:MAX_CATEGORIES], by_count[MAX_CATEGORIES:]
    colors, names = palette(len(kept), theme), [str(values[code]) for code in kept]
    sizes = [int(counts[code]) for code in kept]
    # The last item is for the code -1, a missing value.
    category = np.empty(len(values) + 1, np.int64)
    category[kept] = np.arange(len(kept))
    if rest.size:
        category[rest] = len(names)
        names.append(f"other ({rest.size:,})")
        colors.append(theme.gray)
        sizes.append(int(counts[rest].sum()))
    missing = int((codes < 0).sum())
    if missing:
        category[-1] = len(names)
        names.append("missing")
        colors.append(theme.gray)
        sizes.append(missing)
    return CategoryColors(category[codes], names, colors, sizes)


def is_continuous(column: Any) -> bool:
    """Return whether a column holds numbers to average, not names, booleans or a few different whole numbers."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    present = column.dropna()
    # Checking for whole numbers is faster than counting different values.
    return not (bool((present == present.round()).all()) and present.nunique() <= MAX_CATEGORIES)
