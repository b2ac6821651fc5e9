"""`Map`: positions, the columns beside them, and the description of the run that made them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.maps import convert
from nomad_dask.maps.parquet import write_table
from nomad_dask.maps.table import BLOCK_ROWS, build_table
from nomad_dask.storage.output_paths import Target, check_targets, output_path
from nomad_dask.utils.array_types import AXES

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.plotting.labels import Label


@dataclass(frozen=True, repr=False)
class Map:
    """A map: positions, and columns beside them.

    Attributes
    ----------
    positions : ndarray of float32 (n, dim)
    table : pyarrow.Table
        The other columns: ``cell`` and those carried along from the input.
    metadata : dict
        Version, parameters, source and diagnostics of the run that made the map; empty for a file from elsewhere.
    source_paths : tuple of str
        Files, directories and patterns that the map was made from in this process; its writers never change them.
    """

    positions: np.ndarray
    table: pa.Table
    metadata: dict[str, Any]
    source_paths: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns: ``x``, ``y``, ``z`` in three dimensions, and those of `table`."""
        return [*AXES[: self.positions.shape[1]], *self.table.column_names]

    def column(self, name: str) -> Any:
        """Return a column: an Arrow array, or for a coordinate a NumPy array.

        Raises
        ------
        InputError
            The column does not exist.
        """
        if name in self.table.column_names:
            return self.table.column(name)
        if name in self.columns:
            return self.positions[:, AXES.index(name)]
        raise InputError(f"The map has no column {name!r}. {suggest(name, self.columns)}")

    def __len__(self) -> int:
        return len(self.positions)

    def to_arrow(self) -> pa.Table:
        """Return positions and columns as one Arrow table: ``x``, ``y``, ``z`` in three dimensions, and the others."""
        return build_table(self.positions, self.table)

    def to_pandas(self) -> Any:
        """Return the columns of `to_arrow` as a ``pandas.DataFrame``."""
        return convert.to_pandas(self.to_arrow())

    def to_dask(self, chunk_rows: int = BLOCK_ROWS) -> Any:
        """Return the columns of `to_pandas` as a ``dask.dataframe`` in partitions of `chunk_rows` rows."""
        return convert.to_dask(self.to_arrow(), chunk_rows)

    def to_cudf(self) -> Any:
        """Return the columns of `to_arrow` as a ``cudf.DataFrame``; requires cuDF and a GPU."""
        return convert.to_cudf(self.to_arrow())

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write the map atomically in the format of ``nomad-dask fit``; an existing file is replaced.

        Raises
        ------
        InputError
            The path is not accepted, or the file would replace or join the vectors that the map was made from.
        """
        file = self._check_target(path, "output")
        write_table(file, self.to_arrow(), self.metadata)
        return file

    def _check_target(self, path: str | os.PathLike[str], what: str) -> Path:
        """Return the path of a file to write, which does not conflict with the source."""
        file = output_path(path, what)
        check_targets([Target(what, file)], self.source_paths)
        return file

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
        """Draw the map as a PNG or SVG file, and return its path.

        Parameters
        ----------
        path : path-like
            File to write, ending in ``.png`` or ``.svg``; an existing file is replaced.
        color : str, optional
            Column of categories or numbers. Without it, the picture shows the density of points.
        labels : str, optional
            Column of names; each is written where most of its points are.
        label_text : str, optional
            Column of text; regions of the map are labeled with their most distinctive words.
        title : str, optional
            Written above the points.
        size : tuple of int
            Width and height in pixels, from 200 to 20,000 each.
        theme : {'dark', 'light'}
            Background and colors.
        legend : bool
            Whether to draw the legend or color bar.

        Raises
        ------
        InputError
            A column does not exist, an argument is wrong, or datashader is not installed.
        """
        from nomad_dask.plotting.raster import draw

        return draw(
            *self.positions[:, :2].T,
            color=None if color is None else self.column(color),
            color_name=color,
            labels=self._labels(labels, label_text),
            title=title,
            size=size,
            theme=theme,
            legend=legend,
            path=self._check_target(path, "picture"),
        )

    def _labels(self, labels: str | None, label_text: str | None) -> list[Label]:
        """Return the labels of a picture, from a column of names or a column of text."""
        from nomad_dask.plotting.labels import labels_of_column, labels_of_text

        if labels is not None and label_text is not None:
            raise InputError("Labels are taken from one column: give labels or label_text, not both.")
        x, y = self.positions[:, 0], self.positions[:, 1]
        if labels is not None:
            return labels_of_column(x, y, self.column(labels))
        if label_text is not None:
            cell_labels = self.table.column("cell") if "cell" in self.table.column_names else None
            return labels_of_text(x, y, self.column(label_text), cell_labels)
        return []

    def explore(
        self,
        color: str | None = None,
        hover: Sequence[str] = (),
        *,
        theme: str = "dark",
        size: tuple[int, int] = (900, 700),
    ) -> Any:
        """Return an interactive view for a notebook; see `nomad_dask.plotting.interactive.explore`.

        Parameters
        ----------
        color : str, optional
            Column of categories or numbers. Without it, the view shows the density of points.
        hover : sequence of str
            Columns to show for the point under the pointer.
        theme : {'dark', 'light'}
        size : tuple of int
            Width and height in pixels.
        """
        from nomad_dask.plotting.interactive import explore

        x, y = (np.ascontiguousarray(axis) for axis in self.positions[:, :2].T)
        return explore(x, y, self.to_arrow(), color, hover, theme, size)

    def _repr_html_(self) -> str:
        from nomad_dask.plotting.html_repr import html_of_map

        types = dict.fromkeys(self.columns, "float") | {f.name: str(f.type) for f in self.table.schema}
        return html_of_map(self.positions, types, self.metadata)

    def __repr__(self) -> str:
        return f"<Map of {len(self):,} rows: {', '.join(self.columns)}>"
