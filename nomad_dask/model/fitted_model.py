"""The methods of a fitted estimator that its model answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nomad_dask.errors import InputError
from nomad_dask.storage.output_paths import output_path

if TYPE_CHECKING:
    import scipy.sparse as sp

    from nomad_dask.model.map_model import MapModel


class FittedModel:
    """A mixin for an estimator that keeps the model of its last complete fit.

    Attributes
    ----------
    model_ : MapModel
        In the directory that `fit` was given, or else in a temporary one, which is removed together with this object.
    """

    def kneighbors(
        self, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Return the neighbors of every fitted row that the fit found; see `MapModel.kneighbors`."""
        return self._fitted_model().kneighbors(n_neighbors, return_distance)

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
        found, fitted = model.to_map(), cls(**model.params.as_dict())
        diagnostics = found.metadata["diagnostics"]
        vars(fitted).update(
            map_=found,
            embedding_=found.positions,
            cell_labels_=model.cell_labels(),
            diagnostics_=diagnostics,
            n_epochs_=diagnostics["epochs"],
            n_features_in_=model.n_dims,
            seed_=model.params.random_state,
            is_complete_=True,
            model_=model,
        )
        return fitted

    model_: MapModel

    def _fitted_model(self) -> MapModel:
        check_is_fitted(self)
        if not hasattr(self, "model_"):
            raise InputError(
                f"This {type(self).__name__} has no model: a stopped fit has none, and a copy or pickle leaves a "
                "temporary one behind. Complete the fit, or save the model and use load."
            )
        return self.model_
