"""`NomadProjection`: the scikit-learn face. It passes on what it is given and keeps what comes back."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names

from nomad_dask.callbacks.events import combined_snapshot_request, fan_out
from nomad_dask.errors import ClusterError, InputError, Interrupted, NomadError, ResourceError
from nomad_dask.params import Params
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.tempdir import TemporaryWorkspace

if TYPE_CHECKING:
    from nomad_dask.pipeline.collect import Layout
    from nomad_dask.sources.base import Source

_NOT_PARAMS = {
    "random_state",
    "device",
    "client",
    "n_workers",
    "workspace",
    "callbacks",
    "verbose",
    "memory_limit",
    "keep_stages",
}


class NomadProjection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Map of vectors in two or three dimensions by NOMAD Projection (arXiv 2505.15511), on Dask.

    Parameters
    ----------
    {params}
    random_state : int, RandomState or None, default=0
        Seed of everything random. The same int gives the same map, at full thread count. None draws one,
        which is kept in ``seed_``.
    device : {{'auto', 'cpu', 'gpu'}}, default='auto'
        Where to compute.
    client : distributed.Client or None, default=None
        Dask cluster to run on; None starts an embedded one.
    n_workers : int or None, default=None
        Workers of the embedded cluster. None or 1 is this process with all its cores.
    workspace : path-like or None, default=None
        Directory that keeps what each stage made, so that a fit that was stopped goes on where it was.
    memory_limit : int, str or None, default=None
        Memory that each process may use, in bytes or such as ``'2GB'``. None takes what its worker has.
    keep_stages : bool, default=False
        Keep in the workspace what no later stage needs, too.
    callbacks : sequence of callable or None, default=None
        Each is called with every event of `nomad_dask.callbacks`, such as `nomad_dask.LiveMap`. One that is a context
        manager is entered for the time of the fit.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    embedding_ : ndarray of float32 (n_samples, n_components)
        The map, rows in the order of the input.
    cell_labels_ : ndarray of int32 (n_samples,)
        K-Means cell of each row.
    map_ : nomad_dask.maps.Map
        Positions, cells and the columns to keep: to draw, to explore in a notebook, and to give to others.
    diagnostics_ : dict
        What was measured during the fit: ``recall`` of the neighbour search, ``imbalance`` of the shards,
        ``components`` of the neighbour graph and the share of rows ``outside_largest`` of them, whether
        ``kmeans_converged``, ``loss``, bytes exchanged.
    n_epochs_ : int
        Epochs of the layout that the map has behind it.
    is_complete_ : bool
        False for the map of a fit that was stopped: the layout is partial, and ``fit(X, resume=True)`` goes on.
    seed_ : int
        The seed that was used.
    n_features_in_ : int
        Dimensions of the input.

    References
    ----------
    Duderstadt, Nussbaum, van der Maaten: NOMAD Projection. arXiv 2505.15511.

    Examples
    --------
    >>> from nomad_dask import NomadProjection
    >>> layout = NomadProjection(random_state=0).fit_transform(X)  # doctest: +SKIP
    """

    def __init__(
        self,
        n_neighbors: int = 15,
        *,
        n_components: int = 2,
        metric: str = "euclidean",
        preset: str = "default",
        n_epochs: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        learning_rate_end: float = 0.02,
        max_step_norm: float = 5.0,
        init_std: float = 1.0,
        late_exaggeration: float = 1.0,
        affinity: str = "log",
        normalization: str = "global",
        repulsion_method: str = "field",
        n_noise: int | None = None,
        n_negatives: int = 16,
        n_sampled_cells: int = 1,
        mesh_spacing: float = 0.7,
        n_cells: int | None = None,
        cell_size: int = 250,
        n_probes: int | None = None,
        target_recall: float = 0.95,
        n_shards: int | None = None,
        cross_shard_attraction: bool = True,
        sync_every: int = 1,
        coarse_init: str = "auto",
        random_state: Any = 0,
        device: str = "auto",
        client: Any = None,
        n_workers: int | None = None,
        workspace: str | Path | None = None,
        memory_limit: int | str | None = None,
        keep_stages: bool = False,
        callbacks: Sequence[Callable[[Any], None]] | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.metric = metric
        self.preset = preset
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.learning_rate_end = learning_rate_end
        self.max_step_norm = max_step_norm
        self.init_std = init_std
        self.late_exaggeration = late_exaggeration
        self.affinity = affinity
        self.normalization = normalization
        self.repulsion_method = repulsion_method
        self.n_noise = n_noise
        self.n_negatives = n_negatives
        self.n_sampled_cells = n_sampled_cells
        self.mesh_spacing = mesh_spacing
        self.n_cells = n_cells
        self.cell_size = cell_size
        self.n_probes = n_probes
        self.target_recall = target_recall
        self.n_shards = n_shards
        self.cross_shard_attraction = cross_shard_attraction
        self.sync_every = sync_every
        self.coarse_init = coarse_init
        self.random_state = random_state
        self.device = device
        self.client = client
        self.n_workers = n_workers
        self.workspace = workspace
        self.memory_limit = memory_limit
        self.keep_stages = keep_stages
        self.callbacks = callbacks
        self.verbose = verbose

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """Return an estimator with the settings of the paper, to reproduce it and to compare."""
        settings = Params.paper().as_dict()
        del settings["random_state"]
        return cls(**(settings | changes))

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        column: str | None = None,
        metadata_columns: Sequence[str] = (),
        resume: bool = False,
    ) -> Self:
        """Make the map of X.

        Ctrl-C, or the stop button of a notebook, stops it. During the layout the epochs under way are ended first,
        and the estimator has the partial map. What was done is kept for ``fit(X, resume=True)``: in the workspace,
        or without one until the estimator is fitted anew or goes.

        Parameters
        ----------
        X : array-like (n_samples, n_features), path, data frame or Dask collection
            Whatever `nomad_dask.sources.open_source` opens. Larger than memory is fine for files and Dask.
        y : None
            Not used.
        column : str, optional
            Column of the vectors, when a file or data frame has several that could be it.
        metadata_columns : sequence of str
            Columns of a file or data frame to carry to ``map_``.
        resume : bool
            Go on with the fit of the same X that was stopped, to the map it would have made.

        Raises
        ------
        InputError
            Parameters out of range, or data that cannot be mapped; rows are named. Nothing to resume.
        Interrupted
            It was stopped.
        """
        from contextlib import AbstractContextManager, ExitStack

        from nomad_dask.maps import check_metadata_columns
        from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
        from nomad_dask.pipeline.run import project
        from nomad_dask.sources import open_source

        seed = self._seed(resume)
        names = self.get_params(deep=False).keys() - _NOT_PARAMS
        params = Params(**{name: getattr(self, name) for name in names}, random_state=seed)
        check_metadata_columns(metadata_columns)
        source = open_source(X, column=column, metadata_columns=metadata_columns)
        place = self._place(resume)
        listeners = list(self.callbacks or ())
        try:
            with ExitStack() as shown:
                for listener in self.callbacks or ():
                    if isinstance(listener, AbstractContextManager):
                        shown.enter_context(listener)
                if self.verbose and not any(getattr(listener, "shows_progress", False) for listener in listeners):
                    from nomad_dask.callbacks.progress_bars import progress_bars

                    listeners.append(shown.enter_context(progress_bars()))
                result = project(
                    source,
                    params,
                    cluster=ClusterOptions(
                        client=self.client,
                        n_workers=self.n_workers,
                        device=self.device,
                        memory_limit=self.memory_limit,
                    ),
                    workspace=WorkspaceOptions(place, resume=resume, keep_stages=self.keep_stages),
                    emit=fan_out(listeners),
                    snapshot_request=combined_snapshot_request(listeners),
                )
        except (Interrupted, ClusterError, ResourceError) as stop:
            self._stopped(stop, X, source, metadata_columns, params, place)
        except BaseException:
            if not resume:
                self._forget_place()
            raise
        self._forget_place()
        self._take(X, source, metadata_columns, result)
        self.seed_, self.is_complete_ = seed, True
        return self

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        column: str | None = None,
        metadata_columns: Sequence[str] = (),
        resume: bool = False,
    ) -> Any:
        """Make the map of X and return it: float32 (n_samples, n_components). See `fit`.

        A CuPy array gives a CuPy array, and a cuDF frame one with the columns ``x``, ``y`` (and ``z``) and the
        same index, unless `set_output` asks for another kind. Everything else gives a NumPy array.
        """
        from nomad_dask.utils.array_types import to_output_type

        layout = self.fit(X, y, column=column, metadata_columns=metadata_columns, resume=resume).embedding_
        return to_output_type(X, layout) if _get_output_config("transform", self)["dense"] == "default" else layout

    def _place(self, resume: bool) -> Path:
        """Return the workspace: the one given, else one that is kept until the map is done."""
        if not resume:
            self._forget_place()
            if self.workspace is None:
                self._kept = TemporaryWorkspace(self)
        kept = getattr(self, "_kept", None)
        place = Path(self.workspace) if self.workspace is not None else None if kept is None else kept.workspace
        if place is None or (resume and not (place / MANIFEST).exists()):
            where = "" if place is None else f" in {place}"
            raise InputError(f"There is nothing to resume{where}: no fit was stopped. Leave resume out to start one.")
        return place

    def _forget_place(self) -> None:
        if hasattr(self, "_kept"):
            self._kept.drop()
            del self._kept

    def _stopped(
        self, stop: NomadError, X: Any, source: Source, metadata_columns: Sequence[str], params: Params, place: Path
    ) -> NoReturn:
        """Take what there is of the map, and say how to go on."""
        from nomad_dask.pipeline.collect import load_partial

        if not (place / MANIFEST).exists():
            self._forget_place()
            raise stop
        self.seed_ = params.random_state
        found = load_partial(place, source, params)
        how = "Nothing of the layout is there yet"
        if found is not None:
            self._take(X, source, metadata_columns, found)
            self.is_complete_ = False
            how = f"embedding_ and map_ are as after {found.n_epochs} of {found.n_planned_epochs} epochs of the layout"
        raise type(stop)(f"{stop} {how}; fit(X, resume=True) goes on.") from stop

    def _take(self, X: Any, source: Source, metadata_columns: Sequence[str], found: Layout) -> None:
        """Keep a map, whole or partial."""
        from nomad_dask.maps import run_map

        self.embedding_ = found.positions
        self.cell_labels_ = found.cell_labels
        self.map_ = run_map(found.positions, found.cell_labels, source, metadata_columns, found.metadata)
        self.diagnostics_ = found.diagnostics
        self.n_epochs_ = found.n_epochs
        self.n_features_in_ = source.n_dims
        _check_feature_names(self, X, reset=True)

    def __getstate__(self) -> dict[str, Any]:
        # A copy must not take the workspace with it, nor remove it when it goes.
        return {name: value for name, value in super().__getstate__().items() if name != "_kept"}

    def _seed(self, resume: bool) -> int:
        if resume and hasattr(self, "seed_") and not isinstance(self.random_state, numbers.Integral):
            return int(self.seed_)  # that of the fit that was stopped: another one would be drawn
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        try:
            return int(check_random_state(self.random_state).randint(2**31 - 1))
        except ValueError as error:
            raise InputError(
                f"random_state={self.random_state!r} is not accepted: give a whole number, a RandomState or None."
            ) from error

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])


def _document(cls: type) -> None:
    """Fill the parameters' texts in from `Params`, where they are written once."""
    from dataclasses import fields

    texts = [
        f"{f.name} : {f.type}, default={f.default!r}\n        {f.metadata['doc']}"
        for f in fields(Params)
        if f.name != "random_state"
    ]
    cls.__doc__ = (cls.__doc__ or "").format(params="\n    ".join(texts))


_document(NomadProjection)
