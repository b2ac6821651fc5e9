"""The map: a Parquet file, one row for each input row, in input order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, MissingInputError, near
from nomad_dask.workspace import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source

AXES = ("x", "y", "z")
_KEY = b"nomad_dask"
_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class Map:
    """A map read from disk.

    Attributes
    ----------
    positions : ndarray of float32 (n, dim)
    table : pyarrow.Table
        The other columns: ``cell`` and what was carried along.
    metadata : dict
        Version, parameters, source and diagnostics of the run that made it; empty for a foreign file.
    """

    positions: np.ndarray
    table: pa.Table
    metadata: dict[str, Any]

    def to_arrow(self) -> pa.Table:
        """Return positions and columns as one Arrow table: ``x``, ``y``, ``z`` if there is one, and the others."""
        import pyarrow as pa

        columns = {a: pa.array(np.ascontiguousarray(p)) for a, p in zip(AXES, self.positions.T, strict=False)}
        table = pa.table(columns)
        for name in self.table.column_names:
            table = table.append_column(self.table.schema.field(name), self.table.column(name))
        return table

    def to_cudf(self) -> Any:
        """Return the columns of `to_arrow` as a ``cudf.DataFrame``; needs cuDF and a GPU."""
        try:
            import cudf
        except ImportError as error:
            raise InputError(
                f"A cuDF frame was asked for, and cudf cannot be imported ({error}): install RAPIDS, or take "
                "to_arrow().to_pandas()."
            ) from error
        return cudf.DataFrame.from_arrow(self.to_arrow())


def in_kind_of(x: Any, positions: np.ndarray) -> Any:
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


def positions_on_host(positions: Any) -> np.ndarray:
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


def check_kept(keep: Sequence[str]) -> None:
    """Refuse columns that the map has itself.

    Raises
    ------
    InputError
    """
    for name in keep:
        if name in (*AXES, "cell"):
            raise InputError(f"The column {name!r} cannot be kept, the map has its own: rename it in the source.")


def write_map(
    path: Path,
    positions: np.ndarray,
    cells: np.ndarray,
    source: Source,
    keep: Sequence[str],
    metadata: dict[str, Any],
) -> None:
    """Write a map, whole or not at all.

    Parameters
    ----------
    path : Path
    positions : ndarray of float32 (n, dim)
    cells : ndarray of int32 (n,)
    source : Source
        Gives the columns to keep.
    keep : sequence of str
    metadata : dict
        Plain values, written into the schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole_file(path) as partial:
        writer = None
        for start in range(0, max(1, len(positions)), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(positions))
            columns: dict[str, Any] = {
                name: np.ascontiguousarray(positions[start:stop, a])
                for a, name in enumerate(AXES[: positions.shape[1]])
            }
            table = pa.table(columns | {"cell": cells[start:stop]})
            for name in keep:
                kept = source.columns([name], start, stop)
                table = table.append_column(kept.schema.field(name), kept.column(name))
            table = table.replace_schema_metadata({_KEY: json.dumps(metadata)})
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def read_map(path: str | os.PathLike[str]) -> Map:
    """Read a map, or any Parquet file with the columns ``x`` and ``y``.

    Raises
    ------
    MissingInputError
        There is no such file.
    InputError
        It is no Parquet file, or has no positions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    if not file.exists():
        raise MissingInputError(f"There is no map {str(file)!r}: give a file that 'nomad-dask fit' made.")
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{str(file)!r} cannot be read as Parquet ({error}): give a map.") from error
    axes = [a for a in AXES if a in table.column_names]
    if axes[:2] != ["x", "y"]:
        missing = "x" if "x" not in axes else "y"
        raise InputError(
            f"{str(file)!r} has no column {missing!r}, so it is no map. {near(missing, table.column_names)}"
        )
    raw = (table.schema.metadata or {}).get(_KEY)
    positions = np.stack([table.column(a).to_numpy() for a in axes], axis=1).astype(np.float32)
    return Map(positions, table.drop_columns(axes), json.loads(raw) if raw else {})
