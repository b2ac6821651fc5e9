"""When the next checkpoint is due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class CheckpointTimer:
    """Limits how often checkpoints are written, by their distance in time and by what they cost.

    Parameters
    ----------
    min_seconds : float
        Time between checkpoints.
    min_cost_ratio : float
        The time between checkpoints is at least this multiple of what the last one took.
    """

    def __init__(self, min_seconds: float, min_cost_ratio: float) -> None:
        self._min_seconds, self._min_cost_ratio = min_seconds, min_cost_ratio
        self._last = time.monotonic()
        self._last_duration = 0.0

    def is_due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        interval = max(self._min_seconds, self._min_cost_ratio * self._last_duration)
        return time.monotonic() - self._last > interval

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure the time to write a checkpoint, and start to wait for the next one."""
        started = time.monotonic()
        yield
        self._last = time.monotonic()
        self._last_duration = self._last - started
