"""Calls that may take only so long, for libraries that can wait without end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from nomad_dask.cluster.settings import timeout

Result = TypeVar("Result")


class TimeLimitError(Exception):
    """Something takes longer than a setting allows."""


@dataclass(frozen=True)
class TimeLimit:
    """A time limit of `cluster.settings`, which workers receive from the process that starts the run.

    Attributes
    ----------
    setting : str
    seconds : float
    """

    setting: str
    seconds: float

    def error(self) -> TimeLimitError:
        """Return the error for what takes longer."""
        return TimeLimitError(f"not done within {self.seconds:.0f} s, the setting nomad-dask.{self.setting}")

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Return ``function(*args)``; if it takes longer, the thread that calls it is left behind.

        Raises
        ------
        TimeLimitError
        """
        result: Future[Result] = Future()

        def call() -> None:
            try:
                result.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001 - raised where the result is used
                result.set_exception(error)

        # Python's end does not wait for a daemon thread.
        Thread(target=call, name=f"nomad-{self.setting}", daemon=True).start()
        if not wait([result], self.seconds).done:
            raise self.error()
        return result.result()


def time_limit(setting: str) -> TimeLimit:
    """Return a time limit as this process has it."""
    return TimeLimit(setting, timeout(setting))
