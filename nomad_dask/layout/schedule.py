"""What changes from epoch to epoch: learning rate, momentum, exaggeration; and when shards exchange summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nomad_dask.backends.data import EpochResult, StepParams
from nomad_dask.params import REFINE, Params
from nomad_dask.planning.planner import COARSE_ABOVE, COARSE_FULL, coarse_weight


class _Preset(NamedTuple):
    """Epochs, learning rate and momentum that a preset stands for."""

    n_epochs: int
    learning_rate: float
    momentum: float
    n_epochs_after_coarse: int


# Measured in algorithm §4. A map that is refined has its size already: it needs no more momentum to unfold it, and no
# more epochs if it is large.
_PRESETS = {
    "fast": _Preset(100, 2.0, 0.9, 60),
    "default": _Preset(200, 2.0, 0.95, 120),
    "best": _Preset(300, 2.0, 0.95, 200),
    REFINE: _Preset(100, 2.0, 0.9, 100),
}
# Exaggeration applies to the last part of the run: what it draws together, or lets go, then stays so (algorithm §4b).
_EXAGGERATION_START = 0.5
# Weaker attraction at the end lets dense groups expand into the gaps between them: near neighbors are told apart, and
# the map is not a dust of clumps. Small maps have no such groups and lose by it; large ones have the most, and fewer
# epochs after a coarse start. Between these numbers of rows it is interpolated over their logarithm.
_LATE_EXAGGERATION = ((20_000, 1.0), (60_000, 0.8), (COARSE_ABOVE, 0.7), (COARSE_FULL, 0.5))
_LOSS_INTERVAL = 10
_PRESET_ROWS = 100_000
# Above this many rows steps may be longer, as the map is wider.
_SHORT_STEP_ROWS = 20_000
# Shards that do not exchange after every epoch start each period with a new summary and need no older one. Therefore
# a batch can end there, and a run can be resumed there.
_PERIOD = 13


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and exaggeration over all epochs."""

    n_epochs: int
    learning_rate: float
    learning_rate_end: float
    momentum: float
    max_step_norm: float
    late_exaggeration: float

    def at(self, epoch: int) -> StepParams:
        """Return the parameters of one epoch: learning_rate·min(1, 1 + end − t) with t = epoch/epochs."""
        t = epoch / self.n_epochs
        exaggeration = self.late_exaggeration if t >= _EXAGGERATION_START else 1.0
        learning_rate = self.learning_rate * min(1.0, 1.0 + self.learning_rate_end - t)
        measure_loss = epoch % _LOSS_INTERVAL == 0 or epoch == self.n_epochs - 1
        return StepParams(epoch, learning_rate, self.momentum, self.max_step_norm, exaggeration, measure_loss)


def make_schedule(params: Params, n_rows: int) -> Schedule:
    """Return the schedule for a map of `n_rows` rows.

    The width of a map is proportional to √n, and so is the number of epochs in which it grows: above 100,000 rows the
    epochs of the preset are scaled accordingly. After a coarse initialization fewer epochs are enough, independent of
    the number of rows; between the two, epochs decrease slowly first, as a map that starts small needs most of them.
    """
    preset = _PRESETS[params.preset]
    weight = coarse_weight(n_rows, params) ** 2
    growth = 1.0 if params.preset == REFINE else max(1.0, n_rows / _PRESET_ROWS) ** 0.5
    n_epochs = round((1 - weight) * preset.n_epochs * growth + weight * preset.n_epochs_after_coarse)
    return Schedule(
        n_epochs=params.n_epochs or n_epochs,
        learning_rate=params.learning_rate or preset.learning_rate,
        learning_rate_end=params.learning_rate_end,
        momentum=preset.momentum if params.momentum is None else params.momentum,
        max_step_norm=params.max_step_norm or _max_step_norm(n_rows),
        late_exaggeration=params.late_exaggeration or _late_exaggeration(n_rows),
    )


def _late_exaggeration(n_rows: int) -> float:
    """Return the factor on the attraction in the last part of the run."""
    rows, factors = zip(*_LATE_EXAGGERATION, strict=True)
    return float(np.interp(math.log(max(1, n_rows)), np.log(rows), factors))


def _max_step_norm(n_rows: int) -> float:
    """Return the longest step: small maps fly apart with longer ones, large ones need them to unfold."""
    return min(20.0, 5.0 * math.sqrt(max(1.0, n_rows / _SHORT_STEP_ROWS)))


def is_exchange_epoch(epoch: int, sync_every: int) -> bool:
    """Return whether shards exchange summaries after `epoch` epochs."""
    return (in_period := (epoch - 1) % _PERIOD) % sync_every == 0 or in_period == _PERIOD - 1


def next_sync_epoch(epoch: int, n_epochs: int, sync_every: int, last: int) -> int:
    """Return where a batch ends that starts at `epoch`: after `n_epochs` or slightly more epochs, or at `last`."""
    stop = epoch + n_epochs
    return min(stop if sync_every == 1 else -(-stop // _PERIOD) * _PERIOD, last)


def mean_loss(params: Params, n_rows: int, results: Sequence[EpochResult]) -> float | None:
    """Return the mean loss per row of an epoch, if every shard measured its part."""
    losses = [result.loss for result in results]
    if any(loss is None for loss in losses):
        return None
    mean = sum(losses) / n_rows  # type: ignore[arg-type]
    if params.normalization == "point":
        return float(mean)
    return float(mean + math.log(max(sum(result.partition_sum for result in results), 1e-300) / n_rows))
