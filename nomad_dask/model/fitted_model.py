"""The methods of a fitted estimator that its model answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils._set_output import _get_output_config  # no public function reads this setting
from sklearn.utils.validation import check_is_fitted, validate_data

from nomad_dask.errors import InputError
from nomad_dask.storage.output_paths import output_path

if TYPE_CHECKING:
    import scipy.sparse as sp

    from nomad_dask.model.map_model import MapModel
    from nomad_dask.pipeline.options import ClusterOptions


class FittedModel:
    """A mixin for an estimator that keeps the model of its last complete fit.

    Attributes
    ----------
    model_ : MapModel
        In the directory that `fit` was given, or else in a temporary one, which is removed together with this object.
    """

    def kneighbors(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        column: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Return the neighbors of X among the fitted rows, or by default those of every fitted row.

        X is searched for on the cluster of the estimator. See `MapModel.kneighbors`.
        """
        model = self._fitted_model()
        return model.kneighbors(X, n_neighbors, return_distance, column=column, cluster=self._cluster_options())

    def transform(self, X: Any, *, column: str | None = None) -> Any:
        """Return the positions (n, n_components) float32 of new rows on the map; see `MapModel.transform`.

        Rows of the fit get their positions of the fit. Returns a CuPy array for a CuPy array, and for a cuDF frame one
        with the columns ``x``, ``y`` (and ``z``) and the same index; for everything else a NumPy array.
        """
        from nomad_dask.sources import open_source
        from nomad_dask.utils.array_types import to_output_type

        model = self._fitted_model()
        source = open_source(X, column=column)
        validate_data(self, X, reset=False, skip_check_array=True)
        positions = model.transform(source, cluster=self._cluster_options()).positions
        return (
            to_output_type(X, positions) if _get_output_config("transform", self)["dense"] == "default" else positions
        )

    def _cluster_options(self) -> ClusterOptions:
        """Return the cluster of the estimator."""
        from nomad_dask.pipeline.options import ClusterOptions

        params = self.get_params(deep=False)
        names = ("client", "n_workers", "device", "memory_limit")
        return ClusterOptions(**{name: params[name] for name in names if name in params})

    def kneighbors_graph(self, n_neighbors: int | None = None, mode: str = "connectivity") -> sp.csr_array:
        """Return the neighbor graph of the fitted rows; see `MapModel.kneighbors_graph`."""
        return self._fitted_model().kneighbors_graph(n_neighbors, mode)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Save the model of the last fit, and return its directory.

        Parameters
        ----------
        path : path-like
            Directory to create.
        overwrite : bool
            Replace a model that exists there.

        Raises
        ------
        InputError
            The directory cannot be written, or holds other files or a model.
        NotFittedError
            There is no complete fit.
        """
        from nomad_dask.storage.model_folder import copy_model

        directory = output_path(path, "model")
        model = self._fitted_model()
        copy_model(model.path, model.manifest, directory, overwrite)
        return directory

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return a fitted estimator from a model that `save` or ``nomad-dask fit --model`` wrote.

        Columns that were carried along from the input are not in it.

        Raises
        ------
        MissingInputError
            There is no such directory.
        InputError
            It is not a model, is damaged, or was written by a later version.
        """
        from nomad_dask.model.map_model import load_model

        model = load_model(path)
        fitted = cls(**model.params.as_dict())
        fitted.n_features_in_, fitted.seed_, fitted.is_complete_ = model.n_dims, model.params.random_state, True
        fitted._keep(model)
        return fitted

    def update(self, X: Any, *, column: str | None = None, freeze: bool = False) -> Self:
        """Add new rows to the map, on the cluster of the estimator; see `MapModel.update`.

        The fitted attributes are then those of all rows. Columns that were carried along from the input are dropped
        from ``map_``.
        """
        from nomad_dask.sources import open_source

        model = self._fitted_model()
        source = open_source(X, column=column)
        validate_data(self, X, reset=False, skip_check_array=True)
        self._keep(model.update(source, freeze=freeze, cluster=self._cluster_options()))
        return self

    def remove(self, rows: Any) -> Self:
        """Remove rows from the map, of which no other moves; see `MapModel.remove` and `update`."""
        self._keep(self._fitted_model().remove(rows, cluster=self._cluster_options()))
        return self

    def _keep(self, model: MapModel) -> None:
        """Set the fitted attributes that a model determines."""
        found = model.to_map()
        diagnostics = found.metadata["diagnostics"]
        vars(self).update(
            map_=found,
            embedding_=found.positions,
            cell_labels_=model.cell_labels(),
            diagnostics_=diagnostics,
            n_epochs_=diagnostics["epochs"],
            model_=model,
        )

    n_features_in_: int
    seed_: int
    is_complete_: bool
    model_: MapModel
    get_params: Any  # of the estimator

    def _fitted_model(self) -> MapModel:
        check_is_fitted(self)
        if not hasattr(self, "model_") or not self.model_.path.exists():
            raise InputError(
                f"This {type(self).__name__} has no model: a stopped fit has none, and a temporary one is removed "
                "together with the estimator that made it. Complete the fit, or save the model and use load."
            )
        return self.model_
