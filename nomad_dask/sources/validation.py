"""Checks of vectors: two-dimensional, numeric, not empty, finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.errors import InputError

ACCEPTED = "float16, float32, float64, integers and booleans are accepted"


def native_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    """Return the element type in which vectors are read: in native byte order, uint8 for booleans.

    Raises
    ------
    InputError
        The dtype is not float16, float32, float64, an integer or a boolean.
    """
    checked: np.dtype[Any] = np.dtype(dtype)
    if checked.kind == "c":
        raise InputError(f"Complex data not supported: {name} has dtype {checked}, {ACCEPTED}. Give real numbers.")
    if checked.kind == "b":
        return np.dtype(np.uint8)
    if checked.kind not in "iuf" or checked.itemsize > 8:
        raise InputError(f"{name} has dtype {checked}, {ACCEPTED}: convert it, as with X.astype('float32').")
    return checked.newbyteorder("=")


def check_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return the shape of vectors as ``(n_rows, n_dims)``, both at least 1.

    Raises
    ------
    InputError
        The shape is not two-dimensional, or has no rows or no columns. The wording is that of scikit-learn, whose
        estimator checks require it.
    """
    if len(shape) < 2:
        raise InputError(
            f"Expected 2D array, got {len(shape)}D array instead: {name} has shape {shape}. "
            "Reshape your data with X.reshape(-1, 1) if it has a single feature, or X.reshape(1, -1) if it "
            "is a single sample."
        )
    if len(shape) > 2:
        raise InputError(
            f"Found array with dim {len(shape)}, expected 2: {name} has shape {shape}. Reshape your data "
            "with X.reshape(len(X), -1)."
        )
    for size, what in zip(shape, ("sample(s)", "feature(s)"), strict=True):
        if size < 1:
            raise InputError(
                f"Found array with {size} {what} (shape={shape}) while a minimum of 1 is required: "
                f"{name} is empty, give at least one row and one column."
            )
    return shape[0], shape[1]


def missing_value_error(row: int, name: str) -> InputError:
    """Return the error for a row with a missing value."""
    return InputError(f"{name}: row {row} has a missing value (null). Remove the row or fill it in.")


def row_length_error(row: int, length: int, n_dims: int, name: str) -> InputError:
    """Return the error for a row whose length differs from the first row's."""
    return InputError(f"{name}: row {row} has {length} values, row 0 has {n_dims}. All vectors must be of one length.")


def check_finite(rows: np.ndarray, start: int, name: str) -> None:
    """Check that a block of rows has no NaN and no infinity.

    Parameters
    ----------
    rows : ndarray (n, n_dims)
    start : int
        Row number of the first of them in the data.
    name : str
        Name of the source in messages.

    Raises
    ------
    InputError
        A value is not finite; the message gives the row and column of the first one.
    """
    if _is_surely_finite(rows):
        return
    finite = np.isfinite(rows)
    bad = np.flatnonzero(~finite.all(axis=1))
    if bad.size == 0:
        return  # only the sum overflowed
    first = int(bad[0])
    column = int(np.argmin(finite[first]))
    what = "NaN" if np.isnan(rows[first, column]) else "infinity"
    raise InputError(
        f"Input X contains {what}: {name}, row {start + first}, column {column}. NaN and inf cannot be "
        "placed on a map: remove such rows or replace their values."
    )


def _is_surely_finite(rows: np.ndarray) -> bool:
    """Return True if one fast pass shows that all values are finite; False requires a full check."""
    if rows.dtype.kind != "f" or rows.size == 0:
        return True
    if rows.dtype == np.float16:  # sums of float16 are slow and overflow; check the exponent bits instead
        magnitude = rows.view(np.uint16) & 0x7FFF
        return bool(magnitude.max() < 0x7C00)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(rows.sum()))
