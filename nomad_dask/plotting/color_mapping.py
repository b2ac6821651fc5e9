"""What a column's colours are: one for each of its frequent values, or a scale of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.plotting.palettes import MOST_CATEGORIES, Theme, color_map, palette


@dataclass(frozen=True)
class Categories:
    """Points coloured by name.

    Attributes
    ----------
    codes : ndarray of int64 (n_rows,)
        Index into the other three for each row.
    names, colors : list of str
        The most frequent values first, then ``other (n)`` for the rest of them and ``missing``, both grey.
    counts : list of int
        Rows of each.
    """

    codes: np.ndarray
    names: list[str]
    colors: list[str]
    counts: list[int]


@dataclass(frozen=True)
class Numbers:
    """Points coloured by a value.

    Attributes
    ----------
    values : ndarray of float64 (n_rows,)
        NaN where there is none.
    low, high : float
        Values of the first and the last colour.
    colors : ndarray of shape (256, 3)
        Colours from low to high.
    """

    values: np.ndarray
    low: float
    high: float
    colors: np.ndarray

    def hues(self, means: np.ndarray) -> np.ndarray:
        """Return the colour of each mean; NaN gets the first."""
        share = (np.nan_to_num(means, nan=self.low) - self.low) / ((self.high - self.low) or 1.0)
        hues: np.ndarray = self.colors[(np.clip(share, 0, 1) * 255).round().astype(np.uint8)]
        return hues


def as_series(column: Any) -> Any:
    """Return a column of any kind (Arrow, cuDF, pandas, list) as a pandas Series counted from 0."""
    import pandas as pd

    return pd.Series(column.to_pandas() if hasattr(column, "to_pandas") else column).reset_index(drop=True)


def rows_of(found: Any, rows: np.ndarray) -> Any:
    """Return some rows of an Arrow column or table, in their order there.

    Not by Arrow's ``take``, which joins the chunks of a column first: more than 2 GB of text are no one array.
    """
    import pyarrow as pa

    wanted = np.zeros(len(found), bool)
    wanted[rows] = True
    return found.filter(pa.array(wanted))


def coloring(column: Any, theme: Theme) -> Categories | Numbers:
    """Return the colours of a column.

    Names, booleans and up to 20 whole numbers are categories; any other numbers a scale, which ends at their first
    and 99th percentiles, as a few far values would leave one colour to all the others.
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
        return Numbers(values, float(low), float(high), color_map(theme.numbers, theme.numbers_part))
    codes, values = pd.factorize(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    by_count = np.lexsort((np.arange(len(values)), -counts))
    kept, rest = by_count[:MOST_CATEGORIES], by_count[MOST_CATEGORIES:]
    colors, names = palette(len(kept), theme), [str(values[code]) for code in kept]
    sizes = [int(counts[code]) for code in kept]
    # The last place is that of -1, which stands for no value.
    place = np.empty(len(values) + 1, np.int64)
    place[kept] = np.arange(len(kept))
    if rest.size:
        place[rest] = len(names)
        names.append(f"other ({rest.size:,})")
        colors.append(theme.grey)
        sizes.append(int(counts[rest].sum()))
    missing = int((codes < 0).sum())
    if missing:
        place[-1] = len(names)
        names.append("missing")
        colors.append(theme.grey)
        sizes.append(missing)
    return Categories(place[codes], names, colors, sizes)


def is_continuous(column: Any) -> bool:
    """Tell numbers to be averaged from names, booleans and a few whole numbers."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    present = column.dropna()
    # Whether they are whole is quicker to tell than how many there are.
    return not (bool((present == present.round()).all()) and present.nunique() <= MOST_CATEGORIES)
