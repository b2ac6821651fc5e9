"""The map: a Parquet file, one row for each input row, in input order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.storage.atomic import atomic_write
from nomad_dask.utils.array_types import AXES, library_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source

_KEY = b"nomad_dask"
_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True, repr=False)
class Map:
    """A map: positions, and columns beside them.

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

    @property
    def columns(self) -> list[str]:
        """Names of all columns: ``x``, ``y``, ``z`` if there is one, ``cell`` and what was carried along."""
        return [*AXES[: self.positions.shape[1]], *self.table.column_names]

    def __len__(self) -> int:
        return len(self.positions)

    def to_arrow(self) -> pa.Table:
        """Return positions and columns as one Arrow table: ``x``, ``y``, ``z`` if there is one, and the others."""
        import pyarrow as pa

        table = pa.table({a: _arrow(p) for a, p in zip(AXES, self.positions.T, strict=False)})
        for name in self.table.column_names:
            table = table.append_column(self.table.schema.field(name), self.table.column(name))
        return table

    def to_pandas(self) -> Any:
        """Return the columns of `to_arrow` as a ``pandas.DataFrame``."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"A pandas frame was asked for, and pandas cannot be imported ({error}): pip install pandas, or take "
                "to_arrow()."
            ) from error
        return self.to_arrow().to_pandas()

    def to_dask(self, chunk_rows: int = _BLOCK_ROWS) -> Any:
        """Return the columns of `to_pandas` as a ``dask.dataframe`` in partitions of `chunk_rows` rows."""
        try:
            import dask.dataframe as dd
        except ImportError as error:
            raise InputError(
                f"A Dask frame was asked for, and dask.dataframe cannot be imported ({error}): "
                "pip install 'dask[dataframe]'."
            ) from error
        from_pandas: Any = dd.from_pandas
        return from_pandas(self.to_pandas(), chunksize=chunk_rows)

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

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write the map as `nomad-dask fit` does, whole or not at all; a file that is there is replaced."""
        import pyarrow.parquet as pq

        table = self.to_arrow().replace_schema_metadata({_KEY: json.dumps(self.metadata)})
        with atomic_write(Path(path)) as partial:
            pq.write_table(table, partial, compression="zstd", row_group_size=_BLOCK_ROWS)
        return Path(path)

    def plot(
        self,
        path: str | os.PathLike[str],
        *,
        color: str | None = None,
        labels: str | None = None,
        label_text: str | None = None,
        title: str | None = None,
        size: tuple[int, int] = (1200, 1000),
        theme: str = "dark",
        legend: bool = True,
    ) -> Path:
        """Draw the map as a PNG or SVG.

        Parameters
        ----------
        path : path-like
            File to write, ending in ``.png`` or ``.svg``; replaced if it exists.
        color : str, optional
            Column of categories or numbers; without it the picture shows how many points lie where.
        labels : str, optional
            Column of names: each is written where most of its points are.
        label_text : str, optional
            Column of text: parts of the map are labelled with the words that tell them from the others.
        title : str, optional
            Written above the points.
        size : tuple of int
            Width and height of the picture in pixels, from 200 to 20,000 each.
        theme : {'dark', 'light'}
            Ground and colours.
        legend : bool
            Whether to draw the legend or colour bar.

        Returns
        -------
        Path
            `path`.

        Raises
        ------
        InputError
            A column does not exist, an argument is wrong, or datashader is not installed.
        """
        from nomad_dask.plotting.labels import labels_of_column, labels_of_text
        from nomad_dask.plotting.raster import draw

        x, y = self.positions[:, 0], self.positions[:, 1]
        if labels is not None and label_text is not None:
            raise InputError("Labels are taken from one column: give labels or label_text, not both.")
        colors = None if color is None else self._column(color)
        written = [] if labels is None else labels_of_column(x, y, self._column(labels))
        if label_text is not None:
            text = self._column(label_text)
            cells = self.table.column("cell") if "cell" in self.table.column_names else None
            written = labels_of_text(x, y, text, cells)
        return draw(
            x,
            y,
            color=colors,
            color_name=color,
            labels=written,
            title=title,
            size=size,
            theme=theme,
            legend=legend,
            path=Path(path),
        )

    def explore(
        self,
        color: str | None = None,
        hover: Sequence[str] = (),
        *,
        theme: str = "dark",
        size: tuple[int, int] = (900, 700),
    ) -> Any:
        """Return a view to move about in, in a notebook; see `nomad_dask.plotting.interactive.explore`.

        Parameters
        ----------
        color : str, optional
            Column of categories or numbers; density without it.
        hover : sequence of str
            Columns to show of the point under the pointer.
        theme : {'dark', 'light'}
        size : tuple of int
            Width and height in pixels.
        """
        from nomad_dask.plotting.interactive import explore

        x, y = (np.ascontiguousarray(axis) for axis in self.positions[:, :2].T)
        return explore(x, y, self.to_arrow(), color, hover, theme, size)

    def _repr_html_(self) -> str:
        from nomad_dask.plotting.html_repr import html_of_map

        kinds = dict.fromkeys(self.columns, "float") | {f.name: str(f.type) for f in self.table.schema}
        return html_of_map(self.positions, kinds, self.metadata)

    def __repr__(self) -> str:
        return f"<Map of {len(self):,} rows: {', '.join(self.columns)}>"

    def _column(self, name: str) -> Any:
        if name in self.table.column_names:
            return self.table.column(name)
        if name in self.columns:
            return self.positions[:, AXES.index(name)]
        raise InputError(f"The map has no column {name!r}. {suggest(name, self.columns)}")


def as_map(x: Any) -> Map:
    """Return anything that holds a map as one.

    Parameters
    ----------
    x : Map, path-like, pyarrow.Table, or data frame of pandas, cuDF or Polars
        With the columns ``x`` and ``y``, and ``z`` if there is one.

    Raises
    ------
    MissingInputError
        There is no such file.
    InputError
        It has no positions, or cannot be read.
    """
    import pyarrow as pa

    if isinstance(x, Map):
        return x
    if isinstance(x, str | os.PathLike):
        return read_map(x)
    library = library_of(x)
    if library == "pandas":
        return _map_of(pa.Table.from_pandas(x, preserve_index=False), "The frame")
    if library in ("cudf", "polars"):
        return _map_of(x.to_arrow(), "The frame")
    if isinstance(x, pa.Table):
        return _map_of(x, "The table")
    raise InputError(f"A {type(x).__name__} is no map: give a map, its path, an Arrow table or a data frame.")


def plot(
    found: Any,
    path: str | os.PathLike[str],
    *,
    color: str | None = None,
    labels: str | None = None,
    label_text: str | None = None,
    **settings: Any,
) -> Path:
    """Draw a map as a PNG or SVG: anything that `as_map` takes, with the settings of `Map.plot`.

    Of a file only the columns that are named are read.
    """
    # The cells say which rows are near each other; a map of another make may have none.
    also = [] if label_text is None else ["cell"]
    shown = _with_columns(found, [color, labels, label_text], also)
    return shown.plot(path, color=color, labels=labels, label_text=label_text, **settings)


def explore(found: Any, color: str | None = None, hover: Sequence[str] = (), **settings: Any) -> Any:
    """Return a view of a map to move about in: anything that `as_map` takes, with the settings of `Map.explore`.

    Of a file only the columns that are named are read.
    """
    told = [] if isinstance(hover, str) else hover
    return _with_columns(found, [color, *told]).explore(color, hover, **settings)


def _with_columns(found: Any, names: Sequence[str | None], also: Sequence[str] = ()) -> Map:
    """Return anything that holds a map as one; of a file, no other columns than these and the positions."""
    if isinstance(found, str | os.PathLike):
        return read_map(found, [name for name in names if name is not None and name not in AXES], also)
    return as_map(found)


def check_metadata_columns(metadata_columns: Sequence[str]) -> None:
    """Refuse columns that the map has itself.

    Raises
    ------
    InputError
    """
    for name in metadata_columns:
        if name in (*AXES, "cell"):
            raise InputError(f"The column {name!r} cannot be kept, the map has its own: rename it in the source.")


def map_in_memory(
    positions: np.ndarray, cells: np.ndarray, source: Source, metadata_columns: Sequence[str], metadata: dict[str, Any]
) -> Map:
    """Return what `write_map` writes."""
    import pyarrow as pa

    table = pa.table({"cell": cells})
    if metadata_columns:
        starts = range(0, max(1, len(positions)), _BLOCK_ROWS)
        kept = [
            source.columns(list(metadata_columns), start, min(start + _BLOCK_ROWS, len(positions))) for start in starts
        ]
        for name, column in zip(
            metadata_columns, pa.concat_tables(kept).select(list(metadata_columns)).columns, strict=True
        ):
            table = table.append_column(kept[0].schema.field(name), column)
    return Map(positions, table, metadata)


def _arrow(numbers: np.ndarray) -> pa.Array:
    """Return numbers as an Arrow array; `pyarrow.array` imports pandas first, to ask whether they are a series."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), buffers)


def write_map(
    path: Path,
    positions: np.ndarray,
    cells: np.ndarray,
    source: Source,
    metadata_columns: Sequence[str],
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
    metadata_columns : sequence of str
    metadata : dict
        Plain values, written into the schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(path) as partial:
        writer = None
        for start in range(0, max(1, len(positions)), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(positions))
            columns = {name: positions[start:stop, a] for a, name in enumerate(AXES[: positions.shape[1]])}
            columns["cell"] = cells[start:stop]
            table = pa.table({name: _arrow(column) for name, column in columns.items()})
            for name in metadata_columns:
                kept = source.columns([name], start, stop)
                table = table.append_column(kept.schema.field(name), kept.column(name))
            table = table.replace_schema_metadata({_KEY: json.dumps(metadata)})
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def read_map(path: str | os.PathLike[str], columns: Sequence[str] | None = None, also: Sequence[str] = ()) -> Map:
    """Read a map, or any Parquet file with the columns ``x`` and ``y``.

    Parameters
    ----------
    path : path-like
    columns : sequence of str, optional
        Columns to read beside the positions; None reads all.
    also : sequence of str
        Further ones, where they are there.

    Raises
    ------
    MissingInputError
        There is no such file.
    InputError
        It is no Parquet file, or has no positions or not such a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    if not file.exists():
        raise MissingInputError(f"There is no map {str(file)!r}: give a file that 'nomad-dask fit' made.")
    try:
        there = pq.read_schema(file).names
        for name in columns or ():
            if name not in there:
                raise InputError(f"{file} has no column {name!r}. {suggest(name, there)}")
        wanted = None if columns is None else [a for a in there if a in {*AXES, *columns, *also}]
        table = pq.read_table(file, columns=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{str(file)!r} cannot be read as Parquet ({error}): give a map.") from error
    return _map_of(table, repr(str(file)))


def _map_of(table: pa.Table, name: str) -> Map:
    """Take a table apart into positions and the rest."""
    axes = [a for a in AXES if a in table.column_names]
    if axes[:2] != ["x", "y"]:
        missing = "x" if "x" not in axes else "y"
        raise InputError(f"{name} has no column {missing!r}, so it is no map. {suggest(missing, table.column_names)}")
    raw = (table.schema.metadata or {}).get(_KEY)
    try:
        positions = np.stack([table.column(a).to_numpy() for a in axes], axis=1).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"The positions of {name} are no numbers ({error}): give a map.") from error
    return Map(positions, table.drop_columns(axes), json.loads(raw) if raw else {})
