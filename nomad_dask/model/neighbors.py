"""The methods of a model about neighbors: of its own rows, and of new ones among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.model.stored_model import StoredModel
from nomad_dask.model.stored_neighbors import neighbors_of_rows, stored_neighbors_in_parts
from nomad_dask.storage.output_paths import output_path
from nomad_dask.utils.memory import available_memory, parse_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    import scipy.sparse as sp

    from nomad_dask.pipeline.options import ClusterOptions
    from nomad_dask.sources.base import Source


class ModelNeighbors(StoredModel):
    """A model whose neighbors are looked up and exported."""

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

    def precomputed_knn(self, n_neighbors: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbors of every row as umap-learn and cuML take them for ``precomputed_knn``: itself first.

        Parameters
        ----------
        n_neighbors : int, optional
            Length of the lists, with the row itself; by default one more than the number of stored neighbors.

        Returns
        -------
        indices : ndarray of int64 (n_rows, n_neighbors)
            Row numbers of the input; -1 where fewer neighbors were found.
        distances : ndarray of float32 (n_rows, n_neighbors)
            Ascending; inf where fewer neighbors were found.

        Raises
        ------
        InputError
            `n_neighbors` is out of range.
        """
        length = self._checked_length(n_neighbors, self.n_neighbors + 1, "neighbors of each row, with the row itself")
        distances, indices = neighbors_of_rows(self.arrays, self.n_neighbors if n_neighbors is None else length - 1)
        own = np.arange(self.n_rows)[:, None]
        return np.hstack([own, indices]), np.hstack([np.zeros(own.shape, np.float32), distances])

    def neighbor_table(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        *,
        form: str = "lists",
        column: str | None = None,
        cluster: ClusterOptions | None = None,
    ) -> pa.Table:
        """Return neighbors as a table; see `kneighbors` for the other parameters.

        Parameters
        ----------
        X, n_neighbors
            See `kneighbors`.
        form : {'lists', 'edges', 'embedding-atlas'}
            ``'lists'``: a row of the table for each row, with the columns ``neighbors`` and ``distances`` of lists of
            a fixed size. ``'edges'``: a row for each neighbor, with the columns ``source`` and ``destination``, as
            cuGraph calls them, and ``distance``. ``'embedding-atlas'``: a row for each row, with the column
            ``neighbors`` of that program, a structure of the lists ``ids`` and ``distances``.
        column, cluster
            See `kneighbors`.

        Raises
        ------
        InputError
            `form` is not accepted, or see `kneighbors`.
        """
        import pyarrow as pa

        from nomad_dask.model.neighbor_tables import check_form, neighbor_tables
        from nomad_dask.sources import open_source

        check_form(form)
        source = None if X is None else open_source(X, column=column)
        parts = self._neighbors_in_parts(source, n_neighbors, cluster)[1]
        return pa.concat_tables(neighbor_tables(parts, form))

    def write_neighbors(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        n_neighbors: int | None = None,
        *,
        form: str = "lists",
        column: str | None = None,
        cluster: ClusterOptions | None = None,
        overwrite: bool = False,
    ) -> int:
        """Write the table of `neighbor_table` to a file, block by block, and return the number of neighbors of a row.

        Parameters
        ----------
        path : path-like
            A ``.parquet``, ``.feather`` or ``.arrow`` file; for edges also ``.csv``. It is there when it is complete.
        X, n_neighbors, form, column, cluster
            See `neighbor_table`.
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        InputError
            Before any work: the file cannot be written, or see `neighbor_table`.
        """
        from nomad_dask.model.neighbor_output import check_neighbor_output, write_neighbor_tables
        from nomad_dask.model.neighbor_tables import check_form
        from nomad_dask.sources import open_source

        check_form(form)
        source = None if X is None else open_source(X, column=column)
        target, read = output_path(path, "output"), [] if source is None else source.local_paths()
        check_neighbor_output(target, form, [str(self.path), *read], overwrite)
        k, parts = self._neighbors_in_parts(source, n_neighbors, cluster)
        write_neighbor_tables(target, form, k, parts)
        return k

    def _neighbors_in_parts(
        self, source: Source | None, n_neighbors: int | None, cluster: ClusterOptions | None
    ) -> tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]:
        """Return the number of neighbors, and the distances and indices of consecutive rows; see `kneighbors`."""
        from nomad_dask.model.new_rows import new_neighbors_in_parts
        from nomad_dask.pipeline.options import ClusterOptions

        cluster = cluster or ClusterOptions()
        if source is not None:
            k = self._checked_length(n_neighbors, self.n_rows, "rows")
            return k, new_neighbors_in_parts(self.arrays, self.params, source, k, cluster)
        k = self._stored_length(n_neighbors)
        if not k:
            raise InputError("The model has a single row, which has no neighbors to write: fit more rows.")
        memory, limit = available_memory(), parse_bytes(cluster.memory_limit)
        memory = memory if limit is None else min(memory, limit)
        return k, stored_neighbors_in_parts(self.arrays, k, memory // 2)

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
