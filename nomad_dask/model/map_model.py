"""`MapModel`: a finished map with everything that later questions need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.callbacks.events import Emit, ignore_event
from nomad_dask.model.neighbors import ModelNeighbors
from nomad_dask.storage.output_paths import output_path

if TYPE_CHECKING:
    from nomad_dask.maps import Map
    from nomad_dask.pipeline.options import ClusterOptions


@dataclass(frozen=True)
class MapModel(ModelNeighbors):
    """A finished map: its vectors, positions, cells and neighbor lists, in a directory.

    Arrays are read when they are needed, so that a model of any size opens at once.

    Attributes
    ----------
    path : Path
    manifest : ModelManifest
    keeper : object
        Keeps a temporary directory in which the model is; None for a lasting one.
    """

    def positions(self) -> np.ndarray:
        """Return the positions (n_rows, n_components) float32, in input order."""
        return self._in_input_order(self.arrays.positions())

    def cell_labels(self) -> np.ndarray:
        """Return the cell (n_rows,) int32 of each row, in input order."""
        return self._in_input_order(self.arrays.cell_labels())

    def to_map(self) -> Map:
        """Return the map, without the columns that were carried along from the input."""
        import pyarrow as pa

        from nomad_dask.maps import Map

        about = self.manifest.about
        metadata = {name: about[name] for name in ("version", "params", "source", "diagnostics")}
        return Map(self.positions(), pa.table({"cell": pa.array(self.cell_labels())}), metadata)

    def transform(
        self,
        X: Any,
        *,
        column: str | None = None,
        metadata_columns: Sequence[str] = (),
        cluster: ClusterOptions | None = None,
    ) -> Map:
        """Return new rows on this map, whose own rows do not move.

        Each row starts among its neighbors and moves for some epochs, attracted by them and repelled by all others. A
        row that is on the map already gets its position. The result depends on the new rows, but neither on their
        order nor on blocks and workers.

        Parameters
        ----------
        X : array-like (n, n_dims), path, data frame or Dask collection
            Any input of `nomad_dask.sources.open_source`.
        column : str, optional
            Column of vectors of X, if it has several candidates.
        metadata_columns : sequence of str
            Columns of X to carry along.
        cluster : ClusterOptions, optional
            Where to compute; by default in this process.

        Returns
        -------
        Map
            With the columns ``cell``, that of the nearest row of the map, ``distance``, the distance to it,
            ``outlier``, about 1 for rows like those of the map and larger for rows far from all of them, and
            `metadata_columns`.

        Raises
        ------
        InputError
            X has another number of dimensions, or a row that cannot be compared with those of the map.
        """
        import pyarrow as pa

        from nomad_dask.maps import check_metadata_columns, run_map
        from nomad_dask.model.new_rows import place_new_rows
        from nomad_dask.pipeline.collect import map_metadata
        from nomad_dask.pipeline.options import ClusterOptions
        from nomad_dask.sources import open_source

        check_metadata_columns(metadata_columns)
        source = open_source(X, column=column, metadata_columns=metadata_columns)
        partition_sum = float(self.manifest.about["partition_sum"])
        placed = place_new_rows(self.arrays, self.params, partition_sum, source, cluster or ClusterOptions())
        metadata = map_metadata(source, self.params, {})
        found = run_map(placed.positions, placed.cell_labels, source, metadata_columns, metadata)
        table = found.table
        for i, (name, values) in enumerate((("distance", placed.distances), ("outlier", placed.outlier_scores)), 1):
            table = table.add_column(i, name, pa.array(values))
        return replace(found, table=table)

    def update(
        self,
        X: Any,
        *,
        column: str | None = None,
        freeze: bool = False,
        cluster: ClusterOptions | None = None,
        emit: Emit = ignore_event,
    ) -> MapModel:
        """Add new rows to the model: to its vectors, its neighbor lists and its map.

        New rows start where `transform` places them. Then all rows move for some epochs from where they are, so that
        the rows of the map move most where new ones crowd in. Row numbers go on from those of the model.

        An update that is stopped or killed leaves the model as it was, and the same update resumes it.

        Parameters
        ----------
        X : array-like (n, n_dims), path, data frame or Dask collection
            Any input of `nomad_dask.sources.open_source`.
        column : str, optional
            Column of vectors of X, if it has several candidates.
        freeze : bool
            Move no row of the map; new rows stay where `transform` places them.
        cluster : ClusterOptions, optional
            Where to compute; by default in this process.
        emit : callable, optional
            Receives every event of `nomad_dask.callbacks`.

        Returns
        -------
        MapModel
            The updated model, in the same directory. This object is that before, whose arrays are gone.

        Raises
        ------
        InputError
            X has another number of dimensions, or a row that cannot be compared with those of the map.
        WorkspaceError
            Another process writes to the model.
        """
        from nomad_dask.model.update import add_rows
        from nomad_dask.pipeline.options import ClusterOptions
        from nomad_dask.sources import open_source

        source = open_source(X, column=column)
        add_rows(self.path, source, cluster or ClusterOptions(), emit, freeze=freeze)
        return load_model(self.path, self.keeper)

    def remove(self, rows: Any, *, cluster: ClusterOptions | None = None, emit: Emit = ignore_event) -> MapModel:
        """Remove rows from the model. The others stay where they are, and are renumbered in the same order.

        Parameters
        ----------
        rows : array-like of int
            Row numbers.
        cluster, emit : optional
            See `update`.

        Returns
        -------
        MapModel
            See `update`.

        Raises
        ------
        InputError
            A row number is out of range, or there is none.
        WorkspaceError
            Another process writes to the model.
        """
        from nomad_dask.model.update import remove_rows
        from nomad_dask.pipeline.options import ClusterOptions

        remove_rows(self.path, rows, cluster or ClusterOptions(), emit)
        return load_model(self.path, self.keeper)

    def _in_input_order(self, values: np.ndarray) -> np.ndarray:
        """Return values of the rows of the model in input order."""
        ordered = np.empty_like(values)
        ordered[self.arrays.input_rows()] = values
        return ordered

    def __repr__(self) -> str:
        return f"<MapModel {str(self.path)!r}: {self.n_rows:,} rows of {self.n_dims} dimensions>"


def load_model(path: str | os.PathLike[str], keeper: object = None) -> MapModel:
    """Open a model.

    Parameters
    ----------
    path : path-like
        Directory that `NomadProjection.save` or ``nomad-dask fit --model`` wrote.
    keeper : object, optional
        See `MapModel`.

    Raises
    ------
    MissingInputError
        There is no such directory.
    InputError
        It is not a model, is damaged, or was written by a later version.
    """
    return MapModel.open(output_path(path, "model"), keeper)
