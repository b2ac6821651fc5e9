"""What changes from epoch to epoch: learning rate, momentum, exaggeration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nomad_dask.backends.base import EpochResult, StepParams
from nomad_dask.params import Params

# Presets: epochs, learning rate, momentum; measured in algorithm §4. `refine` are the epochs after a coarse start.
_PRESETS = {"fast": (100, 2.0, 0.9, 60), "default": (200, 1.0, 0.95, 120), "best": (300, 2.0, 0.95, 200)}
# Exaggeration holds in the last part of the run: what it draws together then stays together (algorithm §4b).
_EXAGGERATED_FROM = 0.5
_LOSS_EVERY = 10
_ROWS_OF_PRESETS = 100_000
# Shards that exchange seldom begin each period with a fresh summary and need none before it: there a batch may
# end, so that a run that is taken up knows all it needs.
_PERIOD = 13


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and exaggeration over all epochs."""

    n_epochs: int
    rate: float
    rate_end: float
    momentum: float
    max_step_norm: float
    late_exaggeration: float

    def at(self, epoch: int) -> StepParams:
        """Return the numbers of one epoch: rate·min(1, 1 + end − t) with t = epoch/epochs."""
        t = epoch / self.n_epochs
        attract = self.late_exaggeration if t >= _EXAGGERATED_FROM else 1.0
        rate = self.rate * min(1.0, 1.0 + self.rate_end - t)
        measure = epoch % _LOSS_EVERY == 0 or epoch == self.n_epochs - 1
        return StepParams(epoch, rate, self.momentum, self.max_step_norm, attract, measure)


def schedule(params: Params, n_rows: int, refining: bool) -> Schedule:
    """Return the schedule of the parameters for a map of `n_rows` rows.

    A map needs room in proportion to √n, and epochs to grow into it: above 100,000 rows the preset's epochs
    grow likewise. `refining` after a coarse start needs fewer, whatever the number of rows.
    """
    epochs, rate, momentum, refine_epochs = _PRESETS[params.preset]
    epochs = round(epochs * max(1.0, n_rows / _ROWS_OF_PRESETS) ** 0.5)
    return Schedule(
        n_epochs=params.n_epochs or (refine_epochs if refining else epochs),
        rate=params.learning_rate or rate,
        rate_end=params.learning_rate_end,
        momentum=momentum if params.momentum is None else params.momentum,
        max_step_norm=params.max_step_norm,
        late_exaggeration=params.late_exaggeration,
    )


def is_exchange_epoch(epoch: int, sync_every: int) -> bool:
    """Return whether shards tell each other where they are after so many epochs."""
    return (done := (epoch - 1) % _PERIOD) % sync_every == 0 or done == _PERIOD - 1


def next_sync_epoch(epoch: int, n_epochs: int, sync_every: int, last: int) -> int:
    """Return how far to go from `epoch`: `n_epochs` on, or a bit more, where shards can begin again; or to `last`."""
    stop = epoch + n_epochs
    return min(stop if sync_every == 1 else -(-stop // _PERIOD) * _PERIOD, last)


def mean_loss(params: Params, n_rows: int, outcomes: Sequence[EpochResult]) -> float | None:
    """Return the mean loss a row of an epoch, when every shard measured its part."""
    losses = [o.loss for o in outcomes]
    if any(part is None for part in losses):
        return None
    total = sum(losses) / n_rows  # type: ignore[arg-type]
    if params.normalization == "point":
        return float(total)
    return float(total + math.log(max(sum(o.partition_sum for o in outcomes), 1e-300) / n_rows))
