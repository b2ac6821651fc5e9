"""Which library an object comes from, and positions as NumPy arrays, CuPy arrays or cuDF frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.errors import InputError

AXES = ("x", "y", "z")


def library_of(x: object) -> str:
    """Return the name of the library that defines the class of `x`, such as ``"cupy"``, without importing it."""
    return type(x).__module__.partition(".")[0]


def to_output_type(x: Any, positions: np.ndarray) -> Any:
    """Return positions (n, dim) in the type of the input `x`.

    For a CuPy array that is a CuPy array; for a cuDF frame, a frame with the columns ``x``, ``y`` (and ``z``) and
    the same index. For everything else, including Dask collections, the NumPy array is returned unchanged.
    """
    library = library_of(x)
    if library == "cupy":
        import cupy

        return cupy.asarray(positions)
    if library == "cudf":
        import cudf

        axes = dict(zip(AXES, np.ascontiguousarray(positions.T), strict=False))
        return cudf.DataFrame(axes, index=x.index, nan_as_null=False)
    return positions


def to_host(positions: Any) -> np.ndarray:
    """Return positions (n, dim) as a NumPy array, from an array, or a map or frame with ``x`` and ``y``.

    Raises
    ------
    InputError
        The frame lacks one of these columns.
    """
    library = library_of(positions)
    if library == "cupy":
        return np.asarray(positions.get())
    if library == "nomad_dask":
        return np.asarray(positions.positions)
    names = list(getattr(positions, "column_names", getattr(positions, "columns", ())))
    if library in ("cudf", "pandas", "polars", "pyarrow"):
        axes = [a for a in AXES if a in names]
        if axes[:2] != ["x", "y"]:
            raise InputError(f"The frame of positions has the columns {names}: x and y are required.")
        if library != "cudf":
            return np.stack([np.asarray(positions[a]) for a in axes], axis=1)
        # cuDF turns NaN into missing values; turn them back.
        return np.stack([positions[a].to_pandas().to_numpy(np.float32, na_value=np.nan) for a in axes], axis=1)
    return np.asarray(positions)
