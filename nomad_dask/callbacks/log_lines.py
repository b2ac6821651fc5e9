"""Progress as lines of text, for logs and for output that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock, Thread
from typing import TextIO

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
from nomad_dask.utils.formatting import format_seconds

# The share of the time since the start to which the time between two lines grows, up to some seconds.
_INTERVAL_SHARE = 0.05
_MAX_INTERVAL = 60.0


@dataclass
class _RunningStage:
    """A running stage."""

    total: int
    unit: str
    done: int = 0
    start: float = field(default_factory=time.monotonic)


class SummaryLines:
    """A listener that writes a line for every finished stage and every measured quantity.

    Parameters
    ----------
    write : callable
        Writes a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._running: dict[str, _RunningStage] = {}
        self._last_epoch: EpochDone | None = None

    def __call__(self, event: Event) -> None:
        """Write what an event says."""
        match event:
            case StageStarted(stage, total, unit):
                self._running[stage] = _RunningStage(total, unit)
                self._last_epoch = None
            case StageFinished(stage, _, True):
                self._running.pop(stage, None)
                self._write(f"{stage}: done in an earlier run")
            case StageFinished(stage, seconds):
                self._write(self._summary(stage, seconds))
            case EpochDone():
                self._last_epoch = event
            case Measured(name, value):
                self._write(f"{name}: {value:.6g}")
            case ShardPlaced(shard, worker, device):
                self._write(f"shard {shard}: on {worker}, {device}")
            case WorkerLost(address):
                self._write(f"worker {address} was lost")
            case ClusterJoined(_, dashboard, device):
                if device:
                    self._write(f"computing on {device}")
                if dashboard is not None:
                    self._write(f"Dask dashboard: {dashboard}")
            case _:
                pass

    def _summary(self, stage: str, seconds: float) -> str:
        running = self._running.pop(stage, None)
        if running is None:
            return f"{stage}: {seconds:.2f} s"
        line = f"{stage}: {running.total:,} {running.unit} in {seconds:.2f} s"
        if seconds > 0:
            line += f" ({format_rate(running.total / seconds)} {running.unit}/s)"
        if running.unit == "epochs" and self._last_epoch is not None:
            if self._last_epoch.loss is not None:
                line += f", loss {self._last_epoch.loss:.4f}"
            line += f", {self._last_epoch.exchanged_bytes:,} bytes exchanged an epoch"
        return line


class SignsOfLife:
    """A listener that knows what runs at present, for a line that says so."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, _RunningStage] = {}
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Note what starts, advances or ends."""
        with self._lock:
            match event:
                case StageStarted(stage, total, unit):
                    self._running[stage] = _RunningStage(total, unit)
                case StageAdvanced(stage, done) if stage in self._running:
                    self._running[stage].done = done
                case StageFinished(stage):
                    self._running.pop(stage, None)
                case _:
                    pass

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def line(self) -> str:
        """Return what is done of each running stage and in what time; without any, the time since the start."""
        with self._lock:
            stages = [_describe(stage, running) for stage, running in self._running.items()]
        return "; ".join(stages) or f"working for {format_seconds(self.elapsed)}"


def _describe(stage: str, running: _RunningStage) -> str:
    done = f"{running.done:,} of {running.total:,} {running.unit}, " if running.total else ""
    return f"{stage}: {done}{format_seconds(time.monotonic() - running.start)}"


@contextmanager
def signs_of_life(write: Callable[[str], None], silent_seconds: float, interval: float) -> Iterator[SignsOfLife]:
    """Yield a listener, and write a line about what runs every few seconds until the context ends.

    Parameters
    ----------
    write : callable
        Writes a line, from a thread of its own.
    silent_seconds : float
        Time before the first line.
    interval : float
        Seconds between two lines at first.

    Yields
    ------
    SignsOfLife
    """
    signs, ended = SignsOfLife(), Flag()

    def report() -> None:
        wait = silent_seconds
        while not ended.wait(wait):
            try:
                write(signs.line())
            except (OSError, ValueError):  # nobody reads any more, or the stream is closed: the work goes on
                return
            wait = max(interval, min(_INTERVAL_SHARE * signs.elapsed, _MAX_INTERVAL))

    thread = Thread(target=report, name="signs of life", daemon=True)
    thread.start()
    try:
        yield signs
    finally:
        ended.set()
        thread.join()


def line_writer(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes a line to a stream at once, and whole: several threads may write."""
    lock = Lock()

    def write(line: str) -> None:
        with lock:
            stream.write(f"{line}\n")
            stream.flush()

    return write


def format_rate(value: float) -> str:
    """Return a rate with three significant digits, or without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
