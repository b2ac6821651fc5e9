"""`NomadProjection`: the scikit-learn estimator. It passes its parameters to the pipeline and keeps the results."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config  # no public function reads this setting
from sklearn.utils.validation import validate_data

from nomad_dask.callbacks.events import Emit, combined_snapshot_request, fan_out
from nomad_dask.errors import ClusterError, InputError, Interrupted, ResourceError, suggest
from nomad_dask.model.fitted_model import FittedModel
from nomad_dask.params import Params
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.output_paths import output_path
from nomad_dask.storage.tempdir import KeptDirectory
from nomad_dask.utils.interrupts import no_lost_interrupts

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.pipeline.collect import Layout
    from nomad_dask.pipeline.given_init import GivenPositions
    from nomad_dask.pipeline.given_neighbors import GivenNeighbors
    from nomad_dask.sources.base import Source

_METHOD_PARAMS = {f.name for f in fields(Params)} - {"random_state"}


class NomadProjection(FittedModel, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Map of vectors in two or three dimensions by NOMAD Projection (arXiv 2505.15511), on Dask.

    Parameters
    ----------
    {params}
    random_state : int, RandomState or None, default=0
        Random seed. The same int gives the same map, with any number of threads. None draws a seed and stores it in
        ``seed_``.
    device : {{'auto', 'cpu', 'gpu'}}, default='auto'
        Where to compute.
    client : distributed.Client, str or None, default=None
        Dask cluster to run on, or the address of its scheduler; None starts an embedded cluster.
    n_workers : int or None, default=None
        Number of workers of the embedded cluster. None or 1 runs in this process, on all its cores.
    workspace : path-like or None, default=None
        Directory that keeps the results of each stage, so that a stopped fit can be resumed.
    memory_limit : int, str or None, default=None
        Memory that each process may use, in bytes or as text such as ``'2GB'``. None uses all memory of its worker.
    keep_stages : bool, default=False
        Keep files in the workspace that no later stage reads.
    callbacks : sequence of callable or None, default=None
        Each is called with every event of `nomad_dask.callbacks`, such as `nomad_dask.LiveMap`. A callback that is a
        context manager is entered for the duration of the fit.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    embedding_ : ndarray of float32 (n_samples, n_components)
        The map, with rows in input order.
    cell_labels_ : ndarray of int32 (n_samples,)
        K-Means cell of each row.
    map_ : nomad_dask.maps.Map
        Positions, cells and the columns carried along from the input, to plot, explore, convert or write.
    diagnostics_ : dict
        Measurements of the fit: ``recall`` of the neighbor search, ``imbalance`` of the shards, number of
        ``components`` of the neighbor graph and the share of rows ``outside_largest``, whether
        ``kmeans_converged``, the final ``loss``, and bytes exchanged.
    n_epochs_ : int
        Number of layout epochs done.
    is_complete_ : bool
        False after a fit that was stopped: the layout is partial, and ``fit(X, resume=True)`` continues it.
    seed_ : int
        The seed that was used.
    model_ : nomad_dask.MapModel
        What later questions need: vectors, positions, cells and neighbors. Missing after a fit that was stopped.
    n_features_in_ : int
        Number of dimensions of the input.
    feature_names_in_ : ndarray of object (n_features_in_,)
        Names of the dimensions, for a data frame whose columns of numbers are the dimensions.

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
        max_step_norm: float | None = None,
        init: Any = "mds",
        init_std: float = 1.0,
        late_exaggeration: float | None = None,
        affinity: str = "shifted-inverse",
        n_tail_neighbors: int = 11,
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
        precomputed_knn: Any = None,
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
        self.init = init
        self.init_std = init_std
        self.late_exaggeration = late_exaggeration
        self.affinity = affinity
        self.n_tail_neighbors = n_tail_neighbors
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
        self.precomputed_knn = precomputed_knn
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
        """Return an estimator with the settings of the paper (arXiv 2505.15511), changed by keyword arguments."""
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
        neighbors_column: str | Sequence[str] | None = None,
        model: str | Path | None = None,
        resume: bool = False,
        **parameters: Any,
    ) -> Self:
        """Compute the map of X.

        Ctrl-C or the stop button of a notebook stops the fit. If the layout has started, it first completes the
        current epochs, and the estimator holds the partial map. Completed work is kept for ``fit(X, resume=True)``:
        in the workspace, or else in a temporary directory until the estimator is fitted again or deleted.

        Parameters
        ----------
        X : array-like (n_samples, n_features), path, data frame or Dask collection
            Any input of `nomad_dask.sources.open_source`. Files and Dask collections may be larger than memory.
        y : None
            Ignored.
        column : str, optional
            Column of vectors, if a file or data frame has several candidates.
        metadata_columns : sequence of str
            Columns of a file or data frame to carry along to ``map_``.
        neighbors_column : str or sequence of str, optional
            Column of known neighbors, in place of `precomputed_knn`: of structures with the lists ``ids`` and
            ``distances``, as embedding-atlas has them. Or two columns: of lists of row numbers, and of distances.
        model : path-like, optional
            Directory in which to keep the model; an existing one is replaced. By default a temporary directory, with a
            copy of the vectors, that is removed together with the estimator.
        resume : bool
            Continue a stopped fit of the same X; the result is the same as without the interruption.
        **parameters
            Not accepted: parameters are given to the constructor.

        Raises
        ------
        InputError
            A parameter is out of range, the data cannot be mapped (rows are named), or there is nothing to resume.
        Interrupted
            The fit was stopped.
        TypeError
            A parameter was given that is not one of `fit`; says where it belongs.
        """
        self._refuse_parameters(parameters)
        try:
            names = [neighbors_column] if isinstance(neighbors_column, str) else list(neighbors_column or ())
            with no_lost_interrupts():
                self._fit(X, column, metadata_columns, names, model, resume)
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            path = self._kept_workspace()
            hint = " fit(X, resume=True) continues the fit." if path is not None and (path / MANIFEST).exists() else ""
            raise Interrupted(f"Stopped.{hint}") from interrupt
        return self

    def _fit(
        self,
        X: Any,
        column: str | None,
        metadata_columns: Sequence[str],
        neighbor_columns: Sequence[str],
        model: str | Path | None,
        resume: bool,
    ) -> None:
        from nomad_dask.maps import check_metadata_columns, kept_schema
        from nomad_dask.model.map_model import load_model
        from nomad_dask.sources import open_source

        check_metadata_columns(metadata_columns)
        source = open_source(X, column=column, metadata_columns=[*metadata_columns, *neighbor_columns])
        schema = kept_schema(source, metadata_columns)
        with ExitStack() as stack:
            keeper = None
            if model is None:
                keeper = stack.enter_context(KeptDirectory("model"))
                model = keeper.path
            directory = output_path(model, "model")
            self._fit_source(X, source, schema, neighbor_columns, directory, resume)
            self.model_ = load_model(directory, keeper)

    def _fit_source(
        self,
        X: Any,
        source: Source,
        schema: pa.Schema | None,
        neighbor_columns: Sequence[str],
        model: Path,
        resume: bool,
    ) -> None:
        params, positions, neighbors = self._method_params(self._draw_seed(resume), source, neighbor_columns)
        workspace = self._workspace_path(resume)
        try:
            layout = self._project(source, params, positions, neighbors, workspace, resume, model)
        except (KeyboardInterrupt, ClusterError, ResourceError) as error:
            progress = self._store_partial(X, source, schema, params, workspace)
            if progress is None:
                raise
            kind = Interrupted if isinstance(error, KeyboardInterrupt) else type(error)
            raise kind(f"{str(error) or 'Stopped.'} {progress}; fit(X, resume=True) continues the fit.") from error
        except BaseException:
            if not resume:
                self._drop_temporary_workspace()
            raise
        self._store(X, source, schema, layout)
        self.seed_, self.is_complete_ = params.random_state, True
        self._drop_temporary_workspace()

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        column: str | None = None,
        metadata_columns: Sequence[str] = (),
        neighbors_column: str | Sequence[str] | None = None,
        model: str | Path | None = None,
        resume: bool = False,
        **parameters: Any,
    ) -> Any:
        """Compute the map of X and return it: float32 (n_samples, n_components). See `fit`.

        Returns a CuPy array for a CuPy array, and for a cuDF frame one with the columns ``x``, ``y`` (and ``z``) and
        the same index. For everything else it returns a NumPy array. `set_output` overrides this.
        """
        from nomad_dask.utils.array_types import to_output_type

        fitted = self.fit(
            X,
            y,
            column=column,
            metadata_columns=metadata_columns,
            neighbors_column=neighbors_column,
            model=model,
            resume=resume,
            **parameters,
        )
        layout = fitted.embedding_
        return to_output_type(X, layout) if _get_output_config("transform", self)["dense"] == "default" else layout

    def _refuse_parameters(self, given: dict[str, Any]) -> None:
        if not given:
            return
        name, value = next(iter(given.items()))
        own = type(self)._get_param_names()
        if name in own:
            remedy = f"give it to the constructor, as in {type(self).__name__}({name}=...).fit(X), or use set_params"
        else:
            remedy = suggest(name, ["column", "metadata_columns", "neighbors_column", "resume", *own])
        raise TypeError(f"fit does not accept {name}={value!r}: {remedy}")

    def _method_params(
        self, seed: Any, source: Source, neighbor_columns: Sequence[str]
    ) -> tuple[Params, GivenPositions | None, GivenNeighbors | None]:
        """Return the parameters of the method, and initial positions and neighbors if they are given."""
        from nomad_dask.pipeline.given_init import resolve_init
        from nomad_dask.pipeline.given_neighbors import choose_neighbors

        settings = {name: value for name, value in self.get_params(deep=False).items() if name in _METHOD_PARAMS}
        given_positions = None
        if "init" in settings:  # a subclass may have fewer parameters
            settings["init"], given_positions = resolve_init(settings["init"])
        given_neighbors = choose_neighbors(settings.get("precomputed_knn"), source, neighbor_columns)
        settings["precomputed_knn"] = None if given_neighbors is None else given_neighbors.param
        return Params(**settings, random_state=seed), given_positions, given_neighbors

    def _draw_seed(self, resume: bool) -> Any:
        """Return the seed of a fit: the given one, which `Params` checks, the one of the stopped fit, or a new one."""
        if isinstance(self.random_state, numbers.Integral):
            return self.random_state
        if resume and hasattr(self, "seed_"):
            return int(self.seed_)
        try:
            return int(check_random_state(self.random_state).randint(2**31 - 1))
        except ValueError as error:
            raise InputError(
                f"random_state={self.random_state!r} is not accepted: give a whole number, a RandomState or None."
            ) from error

    def _project(
        self,
        source: Source,
        params: Params,
        given_positions: GivenPositions | None,
        given_neighbors: GivenNeighbors | None,
        workspace: Path,
        resume: bool,
        model: Path,
    ) -> Layout:
        from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
        from nomad_dask.pipeline.run import project

        cluster = ClusterOptions(
            client=self.client, n_workers=self.n_workers, device=self.device, memory_limit=self.memory_limit
        )
        options = WorkspaceOptions(
            workspace, resume=resume, keep_stages=self.keep_stages, is_temporary=self.workspace is None
        )
        with self._open_listeners() as listeners:
            return project(
                source,
                params,
                cluster=cluster,
                workspace=options,
                output=OutputOptions(model=model, overwrite=True),
                emit=fan_out(listeners),
                snapshot_request=combined_snapshot_request(listeners),
                given_positions=given_positions,
                given_neighbors=given_neighbors,
            )

    @contextmanager
    def _open_listeners(self) -> Iterator[list[Emit]]:
        """Yield the callbacks, entered if they are context managers, and progress bars if `verbose` is set."""
        listeners = list(self.callbacks or ())
        with ExitStack() as stack:
            for listener in self.callbacks or ():
                if isinstance(listener, AbstractContextManager):
                    stack.enter_context(listener)
            if self.verbose and not any(getattr(listener, "shows_progress", False) for listener in listeners):
                from nomad_dask.callbacks.progress_bars import progress_bars

                listeners.append(stack.enter_context(progress_bars()))
            yield listeners

    def _workspace_path(self, resume: bool) -> Path:
        """Return the given workspace, or else a temporary one that is kept until the map is complete."""
        if not resume:
            self._drop_temporary_workspace()
            if self.workspace is None:
                self._temporary_workspace = KeptDirectory("workspace")
        path = self._kept_workspace()
        if path is None or (resume and not (path / MANIFEST).exists()):
            location = "" if path is None else f" in {path}"
            raise InputError(f"There is nothing to resume{location}: no fit was stopped. Omit resume to start a fit.")
        return path

    def _kept_workspace(self) -> Path | None:
        if self.workspace is not None:
            return output_path(self.workspace, "workspace")
        return self._temporary_workspace.path if hasattr(self, "_temporary_workspace") else None

    def _drop_temporary_workspace(self) -> None:
        if hasattr(self, "_temporary_workspace"):
            self._temporary_workspace.drop()
            del self._temporary_workspace

    def _store_partial(
        self, X: Any, source: Source, schema: pa.Schema | None, params: Params, workspace: Path
    ) -> str | None:
        """Store the partial map of a stopped fit, and describe it; None if the fit had not started."""
        from nomad_dask.pipeline.collect import load_partial

        if not (workspace / MANIFEST).exists():
            self._drop_temporary_workspace()
            return None
        self.seed_ = params.random_state
        layout = load_partial(workspace, source, params)
        if layout is None:
            return "The layout has not started"
        self._store(X, source, schema, layout)
        if hasattr(self, "model_"):
            del self.model_  # of the fit before
        self.is_complete_ = False
        return f"embedding_ and map_ are those after {layout.n_epochs} of {layout.n_planned_epochs} epochs"

    def _store(self, X: Any, source: Source, schema: pa.Schema | None, layout: Layout) -> None:
        """Store a complete or partial layout in the fitted attributes, with the columns of a schema carried along."""
        from nomad_dask.maps import run_map

        self.embedding_ = layout.positions
        self.cell_labels_ = layout.cell_labels
        names = [] if schema is None else schema.names
        self.map_ = run_map(layout.positions, layout.cell_labels, source, names, layout.metadata, schema)
        self.diagnostics_ = layout.diagnostics
        self.n_epochs_ = layout.n_epochs
        validate_data(self, X, reset=True, skip_check_array=True)  # sets feature_names_in_ to all columns
        self.n_features_in_ = source.n_dims
        if hasattr(self, "feature_names_in_"):
            names = source.dimension_names()
            if names is None:
                delattr(self, "feature_names_in_")  # the vectors are in one column
            else:
                self.feature_names_in_: Any = np.asarray(names, dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        # Temporary directories belong to this object: a copy must not remove them, and finds the model while it exists.
        state = {name: value for name, value in super().__getstate__().items() if name != "_temporary_workspace"}
        if "model_" in state:
            state["model_"] = replace(state["model_"], keeper=None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])


def _document_params(cls: type) -> None:
    """Insert the documentation of the parameters of `Params`, which is written only there."""
    texts = [
        f"{f.name} : {f.metadata.get('type', f.type)}, default={f.default!r}\n        {f.metadata['doc']}"
        for f in fields(Params)
        if f.name in _METHOD_PARAMS
    ]
    cls.__doc__ = (cls.__doc__ or "").format(params="\n    ".join(texts))


_document_params(NomadProjection)
