"""Rows that join a model, or leave it: another map of all rows, which starts from the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.callbacks.events import Emit
from nomad_dask.errors import InputError
from nomad_dask.model.new_rows import place_new_rows
from nomad_dask.model.stored_model import StoredModel
from nomad_dask.model.stored_source import ModelSource
from nomad_dask.params import REFINE
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.pipeline.given_init import resolve_init
from nomad_dask.pipeline.model_output import position_file
from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
from nomad_dask.pipeline.run import project
from nomad_dask.sources.base import Source
from nomad_dask.sources.combined import ConcatenatedSource, RemainingSource
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.manifest import content_checksum
from nomad_dask.storage.model_folder import ModelManifest, new_generation
from nomad_dask.storage.removal import remove_directory, remove_garbage

# In the directory of the model: the workspace of an update, from which it resumes, and its result.
_FOLDER, _WORKSPACE, _RESULT = "update", "workspace", "model"
# One epoch of steps of no length: it measures Z, and finds where new rows of the next update feel what repulsion.
_FROZEN = {"n_epochs": 1, "learning_rate": 1e-12}


@dataclass(frozen=True)
class _Rows:
    """The rows of an update in the order of its source: those of the model that stay, and the new ones.

    Attributes
    ----------
    source : Source
    positions : ndarray of float32 (n_rows, dim)
        Where they are on the map before.
    numbers : ndarray of int64 (n_rows,)
        Their row numbers in the updated model.
    """

    source: Source
    positions: np.ndarray
    numbers: np.ndarray


def add_rows(path: Path, new: Source, cluster: ClusterOptions, emit: Emit, *, freeze: bool = False) -> None:
    """Add the rows of a source to a model; see `MapModel.update`."""

    def join(model: StoredModel) -> _Rows:
        partition_sum = float(model.manifest.about["partition_sum"])
        placed = place_new_rows(model.arrays, model.params, partition_sum, new, cluster)
        stored = model.arrays.input_rows()
        return _Rows(
            ConcatenatedSource([_stored_source(model), new]),
            np.concatenate([model.arrays.positions(), placed.positions]),
            np.concatenate([stored, np.arange(len(stored), len(stored) + new.n_rows)]),
        )

    _update(path, join, freeze, cluster, emit)


def remove_rows(path: Path, rows: Any, cluster: ClusterOptions, emit: Emit) -> None:
    """Remove rows from a model; see `MapModel.remove`."""

    def leave(model: StoredModel) -> _Rows:
        stays = np.ones(model.n_rows, bool)
        stays[_checked_rows(rows, model.n_rows)] = False
        stored = model.arrays.input_rows()
        numbers = np.cumsum(stays) - 1  # of the rows that stay
        source = RemainingSource(_stored_source(model), np.flatnonzero(~stays[stored]))
        return _Rows(source, model.arrays.positions()[stays[stored]], numbers[stored[stays[stored]]])

    _update(path, leave, True, cluster, emit)


def _stored_source(model: StoredModel) -> ModelSource:
    checksums = {name: artifact.crc32 for name, artifact in model.manifest.artifacts.items()}
    return ModelSource(model.arrays, str(model.path), content_checksum(checksums))


def _checked_rows(rows: Any, n_rows: int) -> np.ndarray:
    """Return row numbers to remove.

    Raises
    ------
    InputError
        They are no whole numbers, out of range, or none is left.
    """
    try:
        numbers = np.atleast_1d(np.asarray(rows))
    except ValueError as error:
        raise InputError(f"rows is no array ({error}): give row numbers from 0 to {n_rows - 1}.") from error
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise InputError(
            f"rows has shape {numbers.shape} and dtype {numbers.dtype}: give row numbers from 0 to {n_rows - 1}."
        )
    outside = (numbers < 0) | (numbers >= n_rows)
    if outside.any():
        raise InputError(f"rows has {numbers[outside][0]}: the model has {n_rows} rows, numbered from 0.")
    if not numbers.size:
        raise InputError("rows is empty: give the numbers of the rows to remove.")
    return numbers.astype(np.int64)


def _update(
    path: Path, change: Callable[[StoredModel], _Rows], freeze: bool, cluster: ClusterOptions, emit: Emit
) -> None:
    """Make the map of the rows that a change leaves, and the next generation of the model from it.

    A workspace in the directory of the model keeps what is done when the update is stopped. The same change resumes
    from it, any other replaces it.
    """
    StoredModel.open(path)  # there is one: a lock would create the directory
    with hold_lock(path):
        model = StoredModel.open(path)  # another update may just have ended
        folder = model.path / _FOLDER
        remove_garbage(folder)
        rows = change(model)
        result = _project(rows, model, freeze, cluster, emit)
        _write_generation(model, rows, result, freeze)
        remove_directory(folder)


def _project(rows: _Rows, model: StoredModel, freeze: bool, cluster: ClusterOptions, emit: Emit) -> ModelManifest:
    """Lay out the rows from where they are, and return the manifest of the model of this run."""
    # The width of a map of n rows is about proportional to n^(1/dim): in one that is too narrow, rows that join cannot
    # get between those that attract them.
    growth = 1.0 if freeze else (rows.source.n_rows / model.n_rows) ** (1 / model.params.n_components)
    init, given = resolve_init(rows.positions * np.float32(growth))
    refining = model.params.replace(
        init=init,
        preset=REFINE,
        n_epochs=None,
        learning_rate=None,
        momentum=None,
        coarse_init="never",
        precomputed_knn=None,  # of the rows before
    )
    if freeze:
        refining = refining.replace(**_FROZEN)
    folder = model.path / _FOLDER
    folder.mkdir(exist_ok=True)
    project(
        rows.source,
        refining,
        cluster=cluster,
        workspace=WorkspaceOptions(folder / _WORKSPACE, overwrite=True),
        output=OutputOptions(model=folder / _RESULT, overwrite=True),
        emit=emit,
        given_positions=given,
    )
    return ModelManifest.read(folder / _RESULT)


def _write_generation(model: StoredModel, rows: _Rows, result: ModelManifest, freeze: bool) -> None:
    """Make the result of the run the next generation of the model, with the parameters and row numbers of the model."""
    made = StoredModel(model.path / _FOLDER / _RESULT, result).arrays
    about = model.manifest.about
    source = result.about["source"] | {"name": about["source"]["name"]}
    with new_generation(model.path, result.about | {"params": about["params"], "source": source}) as generation:
        own = {}
        for shard in range(made.n_shards):
            name = shard_file(shard, "rows")
            in_source = made.open(name)
            own[name] = rows.numbers[in_source]
            if freeze:
                own[position_file(shard)] = rows.positions[in_source]
        for name, artifact in result.artifacts.items():
            if name in own:
                generation.add(name, own[name])
            else:
                generation.link(name, made.file(name), artifact)
