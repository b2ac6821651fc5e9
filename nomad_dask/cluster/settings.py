"""Time limits, in seconds, from Dask's configuration or the environment (``DASK_NOMAD_DASK__LOST_AFTER=120``).

``nomad-dask.lost-after`` (60)
    How long there may be no worker at all, or no answer of the scheduler, before the run ends with an error.
    A nanny starts a new worker in the meantime.
``nomad-dask.frozen-after`` (300)
    How long a worker with our tasks may send no heartbeat before the scheduler is asked to end it, so that its
    tasks move to others; and how long all workers may be paused because they lack memory.
``nomad-dask.kmeans-within`` (120)
    How long K-Means by cuML on several GPUs may take before one of them does without the others: if one is lost, they
    wait for it without end.
``nomad-dask.nccl-within`` (120)
    How long workers may take to join by NCCL, and for an epoch of a joint layout, before they go on without it.
"""

from __future__ import annotations

import math
from typing import Any

from nomad_dask.errors import InputError, suggest

_SECTION = "nomad-dask"
_DEFAULTS = {"lost-after": 60.0, "frozen-after": 300.0, "kmeans-within": 120.0, "nccl-within": 120.0}


def timeout(name: str) -> float:
    """Return one of the time limits in seconds.

    Raises
    ------
    InputError
        Its value is not a time.
    """
    import dask.config

    return _seconds(name, dask.config.get(f"{_SECTION}.{name}", _DEFAULTS[name]))


def check_settings() -> None:
    """Check what Dask's configuration has for this package.

    Raises
    ------
    InputError
        Names the setting and its value.
    """
    import dask.config

    given = dask.config.get(_SECTION, {})
    if not isinstance(given, dict):
        raise InputError(
            f"{_SECTION}={given!r} in Dask's configuration is not accepted: it is a section with "
            f"{', '.join(_DEFAULTS)}. Remove it, or set one of these ({_example('lost-after')})."
        )
    for name, value in given.items():
        setting = str(name).replace("_", "-")
        if setting not in _DEFAULTS:
            raise InputError(
                f"Dask's configuration sets {_SECTION}.{name}, which does not exist. {suggest(setting, _DEFAULTS)}"
            )
        _seconds(setting, value)


def _seconds(name: str, value: Any) -> float:
    from dask.utils import parse_timedelta

    try:
        # A bool is a number for Python.
        seconds = math.nan if isinstance(value, bool) else float(parse_timedelta(value))
    except Exception:  # noqa: BLE001 - Dask raises any for what is not a time
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(
            f"{_SECTION}.{name}={value!r} in Dask's configuration is not accepted: give a time above 0, in seconds or "
            f"as text such as '2 minutes' ({_example(name)})."
        )
    return seconds


def _example(name: str) -> str:
    variable = f"DASK_{_SECTION}__{name}".upper().replace("-", "_")
    return f"{variable}=120, or dask.config.set({{'{_SECTION}.{name}': 120}})"
