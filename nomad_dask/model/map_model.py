"""`MapModel`: a finished map with everything that later questions need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.model.stored_neighbors import neighbors_of_rows
from nomad_dask.params import Params
from nomad_dask.storage.model_folder import ModelManifest, model_damage
from nomad_dask.storage.output_paths import output_path

if TYPE_CHECKING:
    import scipy.sparse as sp

    from nomad_dask.maps import Map
    from nomad_dask.pipeline.options import ClusterOptions


@dataclass(frozen=True)
class MapModel:
    """A finished map: its vectors, positions, cells and neighbor lists, in a directory.

    Arrays are read when they are needed, so that a model of any size opens at once.

    Attributes
    ----------
    path : Path
    manifest : ModelManifest
    keeper : object
        Keeps a temporary directory in which the model is; None for a lasting one.
    """

    path: Path
    manifest: ModelManifest
    keeper: object = field(default=None, repr=False, compare=False)

    @property
    def n_rows(self) -> int:
        """Rows of the map."""
        return int(self.manifest.about["shape"][0])

    @property
    def n_dims(self) -> int:
        """Dimensions of the vectors."""
        return int(self.manifest.about["shape"][1])

    @property
    def n_neighbors(self) -> int:
        """Length of the stored neighbor lists."""
        return min(self.params.n_neighbors, self.n_rows - 1)

    @cached_property
    def params(self) -> Params:
        """The parameters of the map."""
        return Params(**self.manifest.about["params"])

    @cached_property
    def arrays(self) -> ModelArrays:
        """The arrays, in the order of the cells."""
        return ModelArrays(self.path / self.manifest.folder, int(self.manifest.about["n_shards"]))

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

    def kneighbors(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        column: str | None = None,
        cluster: ClusterOptions | None = None,
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Return the neighbors of new rows among those of the map, or those that are stored of every row of the map.

        Parameters
        ----------
        X : optional
            New rows: any input of `nomad_dask.sources.open_source`. By default the rows of the map, of which none is
            its own neighbor.
        n_neighbors : int, optional
            Neighbors of each row; by default as many as were stored. Of the rows of the map, at most these.
        return_distance : bool
        column : str, optional
            Column of vectors of X, if it has several candidates.
        cluster : ClusterOptions, optional
            Where to search for the neighbors of new rows; by default in this process.

        Returns
        -------
        distances : ndarray of float32 (n, n_neighbors)
            In the metric of the map, ascending; inf where fewer neighbors were found. Only if `return_distance`.
        indices : ndarray of int64 (n, n_neighbors)
            Row numbers of the input of the map; -1 where fewer neighbors were found.

        Raises
        ------
        InputError
            `n_neighbors` is out of range, or X cannot be compared with the rows of the map.
        """
        if X is None:
            distances, indices = neighbors_of_rows(self.arrays, self._stored_length(n_neighbors))
        else:
            from nomad_dask.model.new_rows import neighbors_of_new_rows
            from nomad_dask.pipeline.options import ClusterOptions
            from nomad_dask.sources import open_source

            k = self._checked_length(n_neighbors, self.n_rows, "rows")
            source = open_source(X, column=column)
            distances, indices = neighbors_of_new_rows(self.arrays, self.params, source, k, cluster or ClusterOptions())
        return (distances, indices) if return_distance else indices

    def kneighbors_graph(self, n_neighbors: int | None = None, mode: str = "connectivity") -> sp.csr_array:
        """Return the neighbor graph as a sparse matrix, as scikit-learn's `kneighbors_graph` does.

        Parameters
        ----------
        n_neighbors : int, optional
            See `kneighbors`.
        mode : {'connectivity', 'distance'}
            What an entry holds: 1, or the distance.

        Returns
        -------
        csr_array of float32 (n_rows, n_rows)

        Raises
        ------
        InputError
            `n_neighbors` or `mode` is not accepted.
        """
        import scipy.sparse as sp

        if mode not in ("connectivity", "distance"):
            raise InputError(f"mode={mode!r} is not accepted: give 'connectivity' or 'distance'.")
        distances, indices = neighbors_of_rows(self.arrays, self._stored_length(n_neighbors))
        found = indices >= 0
        indptr = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
        values = distances[found] if mode == "distance" else np.ones(int(indptr[-1]), np.float32)
        return sp.csr_array((values, indices[found], indptr), shape=(self.n_rows, self.n_rows))

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

    def damage(self, sizes_only: bool = False) -> list[str]:
        """Return a description of every array that is missing or damaged.

        Parameters
        ----------
        sizes_only : bool
            Compare the sizes of the files only, not their checksums.
        """
        return model_damage(self.path, self.manifest, sizes_only)

    def _stored_length(self, n_neighbors: int | None) -> int:
        return self._checked_length(n_neighbors, self.n_neighbors, "neighbors of each row")

    def _checked_length(self, n_neighbors: int | None, most: int, what: str) -> int:
        """Return a number of neighbors, by default that of the stored ones; `most` is the number of `what` there is."""
        if n_neighbors is None:
            return min(self.n_neighbors, most)
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer):
            raise InputError(f"n_neighbors={n_neighbors!r} is not accepted: give a whole number from 1 to {most}.")
        if not 1 <= n_neighbors <= most:
            raise InputError(
                f"n_neighbors={n_neighbors} is out of range: the model has {most} {what}, give a number from 1 to that."
            )
        return int(n_neighbors)

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
    directory = output_path(path, "model")
    model = MapModel(directory, ModelManifest.read(directory), keeper)
    if damaged := model.damage(sizes_only=True):
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise InputError(f"The model {str(path)!r} is damaged: {damaged[0]}{more}. Make it again.")
    return model
