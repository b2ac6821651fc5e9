"""What Dask and asyncio write to the log about clusters that a run has started or connected to itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Those that Dask's default configuration gives a handler, and that of tasks of its event loops.
_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Leave out all but critical messages of Dask: of what they report, a run raises what matters as an error.

    Dask's own way sets and restores levels, which ends the silence of one cluster with that of another. A filter of
    each block does not depend on others.
    """

    def is_critical(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.CRITICAL

    filtered: list[logging.Filterer] = []
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        # Filters of a handler apply to the messages of all loggers below its own.
        filtered += [logger, *logger.handlers]
    for one in filtered:
        one.addFilter(is_critical)
    try:
        yield
    finally:
        for one in filtered:
            one.removeFilter(is_critical)
