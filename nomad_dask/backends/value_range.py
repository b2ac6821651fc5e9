"""The range of the values in a block of rows, which decides whether float32 can hold them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Squared lengths that float32 holds with all digits; between them, to scale to unit length loses nothing.
_SHORTEST, _LONGEST = 2.0**-100, 2.0**120


class ValueRange(NamedTuple):
    """The range of some rows.

    Attributes
    ----------
    max_abs : float
        Largest absolute value.
    directions_lost : bool
        For cosine: whether float32 cannot scale some row to unit length, as its squares overflow or vanish.
    """

    max_abs: float
    directions_lost: bool

    def __or__(self, other: tuple[Any, ...]) -> ValueRange:
        """Return the range of the rows of both."""
        return ValueRange(max(self.max_abs, other[0]), self.directions_lost or other[1])


def value_range(rows: Any, metric: str, xp: Any = np) -> ValueRange:
    """Return the range of finite rows.

    Parameters
    ----------
    rows : array (n, n_dims), n at least 1
        Of any numeric dtype, not modified.
    metric : {'euclidean', 'cosine'}
    xp : module
        NumPy, or CuPy for an array on a device.
    """
    max_abs = max(abs(float(rows.max())), abs(float(rows.min())))
    return ValueRange(max_abs, metric == "cosine" and _loses_directions(rows, xp))


def _loses_directions(rows: Any, xp: Any) -> bool:
    if rows.dtype.kind != "f" or rows.dtype.itemsize < 4:
        return False  # neither the squares nor their sums leave the range of float32
    with np.errstate(over="ignore", under="ignore"):
        squares = xp.einsum("ij,ij->i", rows, rows)
    lost = ~((squares >= _SHORTEST) & (squares <= _LONGEST))
    # Rows of zeros have no direction to lose.
    return bool((rows[lost] != 0).any()) if bool(lost.any()) else False
