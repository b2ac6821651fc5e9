"""Positions in the kind that people gave or want: NumPy arrays, CuPy arrays, cuDF frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.errors import InputError

AXES = ("x", "y", "z")


def to_output_type(x: Any, positions: np.ndarray) -> Any:
    """Return a map in the kind of its input: on the GPU for what was there, else as it is.

    A CuPy array gives a CuPy array; a cuDF frame one with the columns ``x``, ``y`` (and ``z``) and the same
    index. The map of a Dask collection is a NumPy array, as its rows are in no single place.
    """
    root = type(x).__module__.partition(".")[0]
    if root == "cupy":
        import cupy

        return cupy.asarray(positions)
    if root == "cudf":
        import cudf

        axes = dict(zip(AXES, np.ascontiguousarray(positions.T), strict=False))
        return cudf.DataFrame(axes, index=x.index, nan_as_null=False)
    return positions


def to_host(positions: Any) -> np.ndarray:
    """Return positions (n, dim) as a NumPy array, from a NumPy or CuPy array or a cuDF frame with ``x`` and ``y``.

    Raises
    ------
    InputError
        A frame without these columns.
    """
    root = type(positions).__module__.partition(".")[0]
    if root == "cupy":
        return np.asarray(positions.get())
    if root == "cudf":
        axes = [a for a in AXES if a in positions.columns]
        if axes[:2] != ["x", "y"]:
            raise InputError(f"The frame of positions has the columns {list(positions.columns)}: x and y are needed.")
        # Missing values, which cuDF makes of NaN, become NaN again.
        return np.stack([positions[a].to_pandas().to_numpy(np.float32, na_value=np.nan) for a in axes], axis=1)
    return np.asarray(positions)
