"""Which stage reads what of the workspace: what must be made again after damage, and what can be given back."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from nomad_dask.errors import NomadWarning
from nomad_dask.storage.manifest import StageRecord
from nomad_dask.storage.workspace import Workspace

# In the order in which they run. "start" is the beginning of the layout: once the first checkpoint is there, what
# only the start reads is not needed any more. "map" is the gathering of the positions, and what is kept for
# those who ask later: cells and axes place new rows.
ORDER = ("sample", "coarse", "cells", "shards", "neighbors", "start", "layout", "map")

# Folders of artifacts: what is found there and not in the manifest is left over from a run that was killed.
FOLDERS = ("sample", "coarse", "cells", "exchange", "shards", "lists", "graph", "layout")

_READS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "coarse": ("sample/*",),
    "cells": ("sample/vectors.npy",),
    "shards": ("cells/*",),
    "neighbors": (
        "shards/*.vectors.npy",
        "shards/*.cell_offsets.npy",
        "shards/*.centroids.npy",
        "graph/*.out_*.npy",
    ),
    "layout": (
        "shards/*.cell_offsets.npy",
        "shards/*.centroids.npy",
        "graph/*.indptr.npy",
        "graph/*.indices.npy",
        "graph/*.weights.npy",
        "graph/*.conditional_p.npy",
        "graph/*.patch_*.npy",
        "graph/*.cross_*.npy",
        "layout/*",
    ),
    "map": ("shards/*.rows.npy", "shards/*.cell_offsets.npy", "cells/*", "layout/*"),
}
_START = ("cells/*", "shards/*.rows.npy", "shards/*.start.npy")
_COARSE_START = (
    "coarse/*",
    "shards/*.rows.npy",
    "shards/*.cell_offsets.npy",
    "shards/*.centroids.npy",
    "shards/*.vectors.npy",
)


def reads(stage: str, name: str, coarse: bool) -> bool:
    """Return whether a stage reads an artifact.

    Parameters
    ----------
    stage : str
        One of `ORDER`.
    name : str
        Of the artifact.
    coarse : bool
        Whether the run has a coarse map, from which its layout starts.
    """
    patterns = (_COARSE_START if coarse else _START) if stage == "start" else _READS[stage]
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def find_damage(workspace: Workspace) -> set[str]:
    """Return the recorded stages with a damaged artifact, and warn of each; a damaged checkpoint is forgotten."""
    damaged = set()
    for stage in workspace.stages():
        harm = list(workspace.damage(stage))
        if not harm:
            continue
        damaged.add(stage)
        more = f", and {len(harm) - 1} more" if len(harm) > 1 else ""
        warnings.warn(
            f"The workspace {workspace.path} is damaged: {harm[0]}{more}. The stage {stage!r} is done again.",
            NomadWarning,
            stacklevel=2,
        )
        if stage == "checkpoint":
            workspace.drop_stage(stage)
    return damaged


def pending_stages(known: Mapping[str, StageRecord], coarse: bool, damaged: Collection[str] = ()) -> set[str]:
    """Return the stages that have to run.

    Besides those that never ended it is those with a damaged artifact, and those that made what such a stage
    reads and what was given back since.

    Parameters
    ----------
    known : mapping of str to Recorded
        Stages of the workspace.
    coarse : bool
        Whether the run has a coarse map.
    damaged : collection of str
        Recorded stages with a damaged artifact.
    """
    undone = {stage for stage in ORDER if stage not in (*known, "start", "map")} - (set() if coarse else {"coarse"})
    undone |= set(damaged) - {"checkpoint"}
    begun = "checkpoint" in known and "checkpoint" not in damaged
    if not begun:
        undone.add("layout")
    asking = undone | {"map"} | ({"start"} if not begun else set())
    for stage in reversed(ORDER):
        if stage in asking:
            makers = {
                maker
                for maker, entry in known.items()
                for name in entry.released
                if maker != "checkpoint" and reads(stage, name, coarse)
            }
            undone |= makers
            asking |= makers
    return undone


def unreferenced_artifacts(workspace: Workspace, to_come: Collection[str], coarse: bool) -> list[str]:
    """Return the artifacts that no stage to come reads.

    Parameters
    ----------
    workspace : Workspace
    to_come : collection of str
        Stages that have still to run, the one at work among them.
    coarse : bool
        Whether the run has a coarse map.
    """
    ahead = set(to_come) | {"map"}
    if "layout" in ahead and workspace.recorded_facts("checkpoint") is None:
        ahead.add("start")
    return [
        name
        for entry in workspace.stages().values()
        for name in entry.artifacts
        if not any(reads(stage, name, coarse) for stage in ahead)
    ]
