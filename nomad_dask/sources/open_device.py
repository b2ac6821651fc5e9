"""`open_device`: the source for vectors in GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import library_of


def open_device(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    """Open a CuPy array, a cuDF frame, or a Dask collection of either.

    Raises
    ------
    InputError
        Another object in GPU memory, or data that cannot be mapped.
    """
    is_lazy = hasattr(x, "_meta")
    sample = x._meta if is_lazy else x
    library, module = library_of(sample), type(sample).__module__
    if library == "cupy":
        if column is not None:
            raise InputError(f"column={column!r} was given, but an array has no columns: leave it out.")
        return _open_array(x, is_lazy)
    name = f"{module}.{type(sample).__qualname__}"
    if module.startswith("cupyx.scipy.sparse"):
        raise InputError(
            f"Sparse data is not supported: {name} was given, dense vectors are accepted. Reduce it first, as "
            "with cuml.decomposition.TruncatedSVD(256).fit_transform(X)."
        )
    if library == "cudf" and x.ndim == 2:
        return _open_frame(x, is_lazy, column, metadata_columns)
    raise InputError(f"{name} is not accepted: give a CuPy array or a cuDF data frame, as with series.to_frame().")


def _open_array(x: Any, is_lazy: bool) -> Source:
    if is_lazy:
        from nomad_dask.sources.dask_cupy import DaskCupySource

        return DaskCupySource(x)
    from nomad_dask.sources.cupy import CupySource

    return CupySource(x)


def _open_frame(x: Any, is_lazy: bool, column: str | None, metadata_columns: Sequence[str]) -> Source:
    if is_lazy:
        from nomad_dask.sources.dask_cudf import DaskCudfSource

        return DaskCudfSource(x, column, metadata_columns)
    from nomad_dask.sources.cudf import CudfSource

    return CudfSource(x, column, metadata_columns)
