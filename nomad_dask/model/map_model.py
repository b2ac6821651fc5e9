"""`MapModel`: a finished map with everything that later questions need."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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
        self, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Return the stored neighbors of every row of the map; a row is not its own neighbor.

        Parameters
        ----------
        n_neighbors : int, optional
            Neighbors of each row, at most as many as were stored, which is the default.
        return_distance : bool

        Returns
        -------
        distances : ndarray of float32 (n_rows, n_neighbors)
            In the metric of the map, ascending; inf where fewer neighbors were found. Only if `return_distance`.
        indices : ndarray of int64 (n_rows, n_neighbors)
            Row numbers of the input; -1 where fewer neighbors were found.

        Raises
        ------
        InputError
            `n_neighbors` is out of range.
        """
        k = self._checked_length(n_neighbors)
        distances, indices = neighbors_of_rows(self.arrays, k)
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
        distances, indices = neighbors_of_rows(self.arrays, self._checked_length(n_neighbors))
        found = indices >= 0
        indptr = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
        values = distances[found] if mode == "distance" else np.ones(int(indptr[-1]), np.float32)
        return sp.csr_array((values, indices[found], indptr), shape=(self.n_rows, self.n_rows))

    def damage(self, sizes_only: bool = False) -> list[str]:
        """Return a description of every array that is missing or damaged.

        Parameters
        ----------
        sizes_only : bool
            Compare the sizes of the files only, not their checksums.
        """
        return model_damage(self.path, self.manifest, sizes_only)

    def _checked_length(self, n_neighbors: int | None) -> int:
        stored = self.n_neighbors
        if n_neighbors is None:
            return stored
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer):
            raise InputError(f"n_neighbors={n_neighbors!r} is not accepted: give a whole number from 1 to {stored}.")
        if not 1 <= n_neighbors <= stored:
            raise InputError(
                f"n_neighbors={n_neighbors} is out of range: the model has {stored} neighbors of each row, give a "
                "number from 1 to that, or fit with more."
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
