"""The progress of a running fit, collected from its events."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nomad_dask.callbacks.events import (
    ClusterJoined,
    EpochDone,
    Event,
    Measured,
    ShardPlaced,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
)

# Rates are means of the last seconds, because the first epochs compile kernels.
_RATE_SECONDS = 10.0
_MAX_LOSSES = 500


@dataclass
class _Stage:
    """A stage, with its progress at recent times."""

    name: str
    unit: str
    total: int
    done: int = 0
    seconds: float | None = None
    resumed: bool = False
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def advance(self, now: float, done: int) -> None:
        self.done = done
        self.samples.append((now, done))
        while now - self.samples[0][0] > _RATE_SECONDS and len(self.samples) > 2:
            self.samples.popleft()

    def rate(self) -> float | None:
        """Return the units per second; None if it is not known yet."""
        if self.seconds is not None:
            return self.total / self.seconds if self.seconds > 0 and not self.resumed else None
        if len(self.samples) < 2:
            return None
        (first_time, first_done), (last_time, last_done) = self.samples[0], self.samples[-1]
        elapsed = last_time - first_time
        return (last_done - first_done) / elapsed if elapsed > 0 and last_done > first_done else None

    def as_dict(self) -> dict[str, Any]:
        rate, ended = self.rate(), self.seconds is not None
        return {
            "name": self.name,
            "unit": self.unit,
            "total": self.total,
            "done": self.total if ended else min(self.done, self.total),
            "rate": rate,
            "left": (self.total - self.done) / rate if rate and not ended else None,
            "seconds": self.seconds,
            "state": "earlier" if self.resumed else "done" if ended else "running",
        }


class ProgressState:
    """A listener that collects what a live view shows."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stages: dict[str, _Stage] = {}
        self._shards: dict[int, ShardPlaced] = {}
        self._losses: list[tuple[int, float]] = []
        self._lost: list[str] = []
        self._measured: dict[str, float] = {}
        self._epoch: tuple[int, int] | None = None
        self.dashboard: str | None = None
        self.state = "running"
        self.said = ""

    def __call__(self, event: Event) -> None:
        """Record an event."""
        now = time.monotonic()
        match event:
            case ClusterJoined(_, dashboard):
                self.dashboard = dashboard
            case StageStarted(stage, total, unit):
                self._stages[stage] = _Stage(stage, unit, total)
            case StageAdvanced(stage, done) if stage in self._stages:
                self._stages[stage].advance(now, done)
            case StageFinished(stage, seconds, resumed):
                ended = self._stages.setdefault(stage, _Stage(stage, "", 0))
                ended.seconds, ended.resumed = seconds, resumed
            case ShardPlaced():
                self._shards[event.shard] = event
            case EpochDone(epoch, n_epochs, loss):
                self._epoch = (epoch, n_epochs)
                if loss is not None and math.isfinite(loss):
                    self._losses.append((epoch, loss))
            case WorkerLost(address):
                self._lost.append(address)
            case Measured(name, value) if math.isfinite(value):
                self._measured[name] = value
            case _:
                pass

    def as_dict(self) -> dict[str, Any]:
        """Return the progress as values that JSON has."""
        layout = self._stages.get("layout")
        epoch_rate = None if layout is None or layout.resumed else layout.rate()
        step = -(-len(self._losses) // _MAX_LOSSES) or 1
        losses = self._losses[::step]
        if self._losses and losses[-1] != self._losses[-1]:
            losses = [*losses, self._losses[-1]]
        return {
            "state": self.state,
            "said": self.said,
            "seconds": time.monotonic() - self._start,
            "stages": [stage.as_dict() for stage in self._stages.values()],
            "epoch": None if self._epoch is None else list(self._epoch),
            "losses": [list(pair) for pair in losses],
            "measured": dict(self._measured),
            "workers": self._workers(epoch_rate),
            "lost": list(self._lost),
            "dashboard": self.dashboard,
        }

    def _workers(self, epoch_rate: float | None) -> list[dict[str, Any]]:
        """Return the workers of the layout, with their shards and rows per second."""
        workers: dict[str, dict[str, Any]] = {}
        for _, placed in sorted(self._shards.items()):
            worker = workers.setdefault(
                placed.worker, {"address": placed.worker, "device": placed.device, "shards": [], "rows": 0}
            )
            worker["shards"].append(placed.shard)
            worker["rows"] += placed.rows
        return [w | {"rate": None if epoch_rate is None else w["rows"] * epoch_rate} for w in workers.values()]
