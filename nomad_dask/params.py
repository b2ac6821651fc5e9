"""`Params`: all settings of the method, with their documentation and validation."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from nomad_dask.errors import InputError, suggest

_GIVEN = re.compile("given:[0-9a-f]{32}")

METRICS = ("euclidean", "cosine")
REFINE = "refine"
PRESETS = ("fast", "default", "best", REFINE)
AFFINITIES = ("log", "inverse", "shifted-inverse", "softmax-inverse", "uniform")
NORMALIZATIONS = ("global", "point")
REPULSION_METHODS = ("field", "means")
INITS = ("mds", "pca", "random")
COARSE_INITS = ("auto", "always", "never")


@dataclass(frozen=True)
class _Range:
    """Accepted values of a number: `low` to `high`, both included unless `open_low` is set."""

    kind: type
    low: float
    high: float
    optional: bool = False
    open_low: bool = False

    def describe(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        low = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        high = "" if math.isinf(self.high) else f" to {self.high:g}"
        return f"{kind} {low}{high}" + (", or None" if self.optional else "")

    def check(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        number = Integral if self.kind is int else Real
        if isinstance(value, bool) or not isinstance(value, number):
            raise InputError(f"{name}={value!r} is not accepted: give {self.describe()}.")
        inside = (value > self.low if self.open_low else value >= self.low) and value <= self.high  # type: ignore[operator]
        if not inside:  # also for NaN, which fails every comparison
            raise InputError(f"{name}={value!r} is out of range: give {self.describe()}.")
        return self.kind(value)


@dataclass(frozen=True)
class _Choice:
    """Accepted values of a string."""

    values: tuple[str, ...]

    def check(self, name: str, value: Any) -> Any:
        if value not in self.values:
            raise InputError(f"{name}={value!r} is not accepted. {suggest(str(value), self.values)}")
        return value


@dataclass(frozen=True)
class _Init:
    """One of `INITS`, or the digest of given positions."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and (value in INITS or _GIVEN.fullmatch(value)):
            return value
        raise InputError(f"{name}={value!r} is not accepted. {suggest(str(value), INITS)}")


@dataclass(frozen=True)
class _GivenNeighbors:
    """None, or the digest of given neighbors."""

    def check(self, name: str, value: Any) -> Any:
        if value is None or (isinstance(value, str) and _GIVEN.fullmatch(value)):
            return value
        raise InputError(
            f"{name}={value!r} is not accepted: give the neighbors to the estimator, or on the command line the "
            "column that has them with --neighbors-column."
        )


@dataclass(frozen=True)
class _Flag:
    """True or False."""

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(f"{name}={value!r} is not accepted: give True or False.")
        return value


def _number(default: Any, doc: str, kind: type, low: float, high: float = math.inf, **more: bool) -> Any:
    return field(default=default, metadata={"doc": doc, "check": _Range(kind, low, high, **more)})


def _choice(default: str, doc: str, values: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"doc": doc, "check": _Choice(values)})


@dataclass(frozen=True)
class Params:
    """All settings of the method. `Params.describe` returns the documentation of each."""

    n_neighbors: int = _number(15, "Number of neighbors that attract each row.", int, 1, 1000)
    n_components: int = _number(2, "Dimensions of the map.", int, 2, 3)
    metric: str = _choice("euclidean", "Distance between rows: 'euclidean' or 'cosine'.", METRICS)
    preset: str = _choice(
        "default",
        "Number of epochs and learning rate: 'fast', 'default' or 'best'; 'refine' for a given init that is a map "
        "already, which then keeps its arrangement.",
        PRESETS,
    )
    random_state: int = _number(0, "Random seed; the same seed gives the same map.", int, 0, 2**63 - 1)

    n_epochs: int | None = _number(
        None, "Epochs of the layout; None uses the value of the preset.", int, 1, 100_000, optional=True
    )
    learning_rate: float | None = _number(
        None,
        "Step size at the start; None uses the value of the preset.",
        float,
        0,
        1e6,
        optional=True,
        open_low=True,
    )
    momentum: float | None = _number(
        None,
        "Share of the last step that is added to the next; None uses the value of the preset.",
        float,
        0,
        0.999,
        optional=True,
    )
    learning_rate_end: float = _number(
        0.02, "The learning rate decreases linearly to this share of its initial value.", float, 0, 1
    )
    max_step_norm: float | None = _number(
        None,
        "Longest step of a point in one epoch, in map units; None uses 5, up to 20 for more than 20,000 rows.",
        float,
        1e-6,
        1e6,
        optional=True,
    )
    init: str = field(
        default="mds",
        metadata={
            "doc": "Initial positions: 'mds' preserves distances between groups of rows, 'pca' takes the leading "
            "principal axes, 'random' is random; or given positions (n_samples, n_components), or the path of a map, "
            "in the order of the rows, which are used as they are.",
            "check": _Init(),
            "type": "str, array-like, Map or path-like",
        },
    )
    init_std: float = _number(
        1.0, "Standard deviation of the initial positions on the first axis, unless they are given.", float, 1e-12, 1e6
    )
    late_exaggeration: float | None = _number(
        None,
        "Factor on the attraction in the second half of the epochs; None uses 1 up to 20,000 rows, 0.5 from 800,000.",
        float,
        0,
        1000,
        optional=True,
        open_low=True,
    )

    affinity: str = _choice(
        "shifted-inverse", f"Weight of a neighbor by its rank: {', '.join(map(repr, AFFINITIES))}.", AFFINITIES
    )
    n_tail_neighbors: int = _number(
        11, "Further neighbors that attract each row: one of every four behind the nearest `n_neighbors`.", int, 0, 64
    )
    normalization: str = _choice(
        "global",
        "Normalization of the noise: shared by all points ('global') or per point ('point').",
        NORMALIZATIONS,
    )
    repulsion_method: str = _choice(
        "field",
        "Repulsion by every point of the shard ('field') or by cell means and samples ('means').",
        REPULSION_METHODS,
    )
    n_noise: int | None = _number(
        None,
        "Noise points |M| of the loss for normalization='point'; None uses all rows.",
        int,
        1,
        optional=True,
    )
    n_negatives: int = _number(
        16, "Negative samples per sampled cell for repulsion_method='means'; 0 uses means only.", int, 0, 10_000
    )
    n_sampled_cells: int = _number(
        1,
        "Cells sampled instead of averaged for repulsion_method='means': the point's own and the nearest.",
        int,
        1,
        64,
    )
    mesh_spacing: float = _number(0.7, "Spacing of the repulsion mesh in map units.", float, 1e-3, 10)

    n_cells: int | None = _number(
        None, "Number of K-Means cells; None uses one per `cell_size` rows.", int, 1, 10_000_000, optional=True
    )
    cell_size: int = _number(250, "Mean number of rows per cell if `n_cells` is None.", int, 1)
    n_probes: int | None = _number(
        None,
        "Nearest cells searched for the neighbors of a row; None chooses it by `target_recall`.",
        int,
        1,
        100_000,
        optional=True,
    )
    target_recall: float = _number(
        0.95, "Share of the true neighbors that the search must find, measured on a sample.", float, 0, 1
    )
    precomputed_knn: str | None = field(
        default=None,
        metadata={
            "doc": "Neighbors that are known, which are not searched for then: (indices, distances), each "
            "(n_samples, n_known), in which the rows themselves may be contained; openTSNE's PrecomputedNeighbors; or "
            "a sparse matrix (n_samples, n_samples) of distances.",
            "check": _GivenNeighbors(),
            "type": "tuple of array-like, PrecomputedNeighbors, sparse matrix or None",
        },
    )
    n_shards: int | None = _number(
        None, "Number of shards, laid out in parallel; None uses one per worker.", int, 1, 100_000, optional=True
    )
    cross_shard_attraction: bool = field(
        default=True,
        metadata={
            "doc": "Attract rows to neighbors in other shards, through the means of their patches.",
            "check": _Flag(),
        },
    )
    sync_every: int = _number(
        1, "Epochs between exchanges of shard summaries; 2 halves the waiting on a slow network.", int, 1, 4
    )
    coarse_init: str = _choice(
        "auto",
        "Start from the layout of a random part of the rows: 'auto' (above 200,000 rows), 'always', 'never'.",
        COARSE_INITS,
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, f.metadata["check"].check(f.name, getattr(self, f.name)))

    @classmethod
    def describe(cls) -> dict[str, str]:
        """Return the documentation of all settings by name."""
        return {f.name: f.metadata["doc"] for f in fields(cls)}

    @classmethod
    def paper(cls, **changes: Any) -> Params:
        """Return the settings of the paper (arXiv 2505.15511), changed by keyword arguments.

        The paper uses a learning rate of n/10 for the mean loss, which is 0.1 for the sum over rows used here.
        """
        settings: dict[str, Any] = {
            "n_neighbors": 8,
            "n_tail_neighbors": 0,
            "affinity": "softmax-inverse",
            "init": "pca",
            "init_std": 1e-4,
            "late_exaggeration": 1.0,
            "learning_rate": 0.1,
            "learning_rate_end": 0.0,
            "momentum": 0.0,
            "n_epochs": 400,
            "normalization": "point",
            "repulsion_method": "means",
            "n_sampled_cells": 1,
            "n_probes": 1,
            "cross_shard_attraction": False,
            "coarse_init": "never",
        }
        return cls(**(settings | changes))

    @property
    def has_given_init(self) -> bool:
        """Whether the initial positions are given, not computed."""
        return self.init not in INITS

    @property
    def has_given_neighbors(self) -> bool:
        """Whether the neighbors are given, not searched for."""
        return self.precomputed_knn is not None

    def replace(self, **changes: Any) -> Params:
        """Return a copy with some settings changed and validated."""
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        return dataclasses.asdict(self)

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {name: value for name, value in self.as_dict().items() if value != defaults[name]}
