"""`Map`: positions, the columns beside them, and the description of the run that made them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, NomadWarning, suggest
from nomad_dask.maps import convert
from nomad_dask.maps.files import write_table
from nomad_dask.maps.table import BLOCK_ROWS, build_table
from nomad_dask.params import METRICS
from nomad_dask.storage.output_paths import Target, check_targets, output_path
from nomad_dask.storage.table_formats import Format
from nomad_dask.utils.array_types import AXES
from nomad_dask.utils.positions import plane_axes

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
        raise InputError(f"The map has no column {name!r}. {suggest(str(name), self.columns)}")

    def metric(self) -> str:
        """Return the distance that the map was made with, from its metadata.

        Without metadata it is taken to be Euclidean, with a warning.

        Raises
        ------
        InputError
            The metadata have another one.
        """
        params = self.metadata.get("params")
        metric = params.get("metric") if isinstance(params, dict) else None
        if metric is None:
            warnings.warn(
                "The map does not say which distance it was made with: the Euclidean one is used, give --metric "
                "(metric=) if it was another one.",
                NomadWarning,
                stacklevel=2,
            )
            return METRICS[0]
        if metric not in METRICS:
            raise InputError(
                f"The map was made with the metric {metric!r}, which is not known: give --metric (metric=), one of "
                f"{', '.join(METRICS)}."
            )
        return str(metric)

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
        return self._write(path, "Parquet")

    def to_feather(self, path: str | os.PathLike[str]) -> Path:
        """Write the map as an Arrow file, ``.feather`` or ``.arrow``, as `to_parquet` does."""
        return self._write(path, "Arrow")

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the map as CSV, as `to_parquet` does; CSV holds neither lists nor the metadata."""
        return self._write(path, "CSV")

    def _write(self, path: str | os.PathLike[str], kind: Format) -> Path:
        file = self._check_target(path, "output")
        write_table(file, kind, self.to_arrow(), self.metadata)
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
        axes: Sequence[str] | None = None,
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
        axes : sequence of str, optional
            The two axes to show of a map in three dimensions, such as ``("x", "z")``; by default ``x`` and ``y``, with
            a warning.

        Raises
        ------
        InputError
            A column does not exist or cannot be used in this way, an argument is wrong, or Pillow or
            colorcet is not installed.
        """
        from nomad_dask.plotting.raster import draw

        x, y = self._plane(axes)
        return draw(
            x,
            y,
            color=None if color is None else self.column(color),
            color_name=color,
            labels=self._labels(x, y, labels, label_text),
            title=title,
            size=size,
            theme=theme,
            legend=legend,
            path=self._check_target(path, "picture"),
        )

    def _plane(self, axes: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions along two axes, with a warning if rows have none."""
        first, second = plane_axes(axes, self.positions.shape[1])
        x, y = self.positions[:, AXES.index(first)], self.positions[:, AXES.index(second)]
        lost = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
        if lost.size:
            warnings.warn(
                f"{lost.size:,} of {len(x):,} rows have no finite position and are left out, the first is row "
                f"{lost[0]:,} with {first} = {x[lost[0]]}, {second} = {y[lost[0]]}.",
                NomadWarning,
                stacklevel=2,
            )
        return x, y

    def _labels(self, x: np.ndarray, y: np.ndarray, labels: str | None, label_text: str | None) -> list[Label]:
        """Return the labels of a picture, from a column of names or a column of text."""
        from nomad_dask.plotting.labels import labels_of_column, labels_of_text

        if labels is not None and label_text is not None:
            raise InputError("Labels are taken from one column: give labels or label_text, not both.")
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
        axes: Sequence[str] | None = None,
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
        axes : sequence of str, optional
            The two axes to show of a map in three dimensions; by default ``x`` and ``y``, with a warning.
        """
        from nomad_dask.plotting.interactive import explore

        x, y = map(np.ascontiguousarray, self._plane(axes))
        return explore(x, y, self.to_arrow(), color, hover, theme, size)

    def _repr_html_(self) -> str:
        from nomad_dask.plotting.html_repr import html_of_map

        types = dict.fromkeys(self.columns, "float") | {f.name: str(f.type) for f in self.table.schema}
        return html_of_map(self.positions, types, self.metadata)

    def __repr__(self) -> str:
        return f"<Map of {len(self):,} rows: {', '.join(self.columns)}>"
