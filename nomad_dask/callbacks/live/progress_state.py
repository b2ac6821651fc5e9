"""What is known of a running fit, gathered from its events."""

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

# Rates are those of the last seconds: the first epochs compile kernels.
_RATE_SECONDS = 10.0
_MOST_LOSSES = 500


@dataclass
class _Stage:
    """A stage, and how far it was at some recent moments."""

    name: str
    unit: str
    total: int
    began: float
    done: int = 0
    seconds: float | None = None
    resumed: bool = False
    moments: deque[tuple[float, int]] = field(default_factory=deque)

    def advance(self, now: float, done: int) -> None:
        self.done = done
        self.moments.append((now, done))
        while now - self.moments[0][0] > _RATE_SECONDS and len(self.moments) > 2:
            self.moments.popleft()

    def rate(self) -> float | None:
        """Return units a second, None when not known yet."""
        if self.seconds is not None:
            return self.total / self.seconds if self.seconds > 0 and not self.resumed else None
        before, at = (self.moments[0], self.moments[-1]) if len(self.moments) > 1 else ((self.began, 0), (0.0, 0))
        passed = at[0] - before[0]
        return (at[1] - before[1]) / passed if passed > 0 and at[1] > before[1] else None

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
    """A listener that gathers what people want to see of a fit."""

    def __init__(self) -> None:
        self._began = time.monotonic()
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
        """Take in an event."""
        now = time.monotonic()
        match event:
            case ClusterJoined(_, dashboard):
                self.dashboard = dashboard
            case StageStarted(stage, total, unit):
                self._stages[stage] = _Stage(stage, unit, total, now)
            case StageAdvanced(stage, done) if stage in self._stages:
                self._stages[stage].advance(now, done)
            case StageFinished(stage, seconds, resumed):
                ended = self._stages.setdefault(stage, _Stage(stage, "", 0, now))
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
        """Return all figures as plain values, which JSON has."""
        layout = self._stages.get("layout")
        epochs = None if layout is None or layout.resumed else layout.rate()
        every = -(-len(self._losses) // _MOST_LOSSES) or 1
        losses = self._losses[::every]
        if self._losses and losses[-1] != self._losses[-1]:
            losses = [*losses, self._losses[-1]]
        return {
            "state": self.state,
            "said": self.said,
            "seconds": time.monotonic() - self._began,
            "stages": [stage.as_dict() for stage in self._stages.values()],
            "epoch": None if self._epoch is None else list(self._epoch),
            "losses": [list(pair) for pair in losses],
            "measured": dict(self._measured),
            "workers": self._workers(epochs),
            "lost": list(self._lost),
            "dashboard": self.dashboard,
        }

    def _workers(self, epochs: float | None) -> list[dict[str, Any]]:
        """Return the workers of the layout: their shards, and the rows that each moves in a second."""
        workers: dict[str, dict[str, Any]] = {}
        for _, placed in sorted(self._shards.items()):
            worker = workers.setdefault(
                placed.worker, {"address": placed.worker, "device": placed.device, "shards": [], "rows": 0}
            )
            worker["shards"].append(placed.shard)
            worker["rows"] += placed.rows
        return [w | {"rate": None if epochs is None else w["rows"] * epochs} for w in workers.values()]
