"""The client of a scheduler that is already running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nomad_dask.cluster.certificates import check_certificates
from nomad_dask.cluster.quiet_logs import quiet_logs
from nomad_dask.errors import ClusterError, MissingInputError

ANSWER_SECONDS = 10


@contextmanager
def remote_client(scheduler: str) -> Iterator[Any]:
    """Yield a client of the scheduler at an address.

    Raises
    ------
    ClusterError
        The address is invalid, its certificates cannot be used, or the scheduler does not answer in time.
    """
    import distributed

    _check_address(scheduler)
    # Its annotations are incomplete.
    Client: Any = distributed.Client
    with quiet_logs():
        try:
            client = Client(scheduler, timeout=ANSWER_SECONDS, set_as_default=False)
        except OSError as error:
            raise ClusterError(
                f"The scheduler {scheduler!r} does not answer within {ANSWER_SECONDS} s ({error}): "
                "check the address and that it runs."
            ) from error
        with client:
            yield client


def read_scheduler_file(file: Path) -> str:
    """Return the address that a scheduler has written into a file.

    Raises
    ------
    MissingInputError
        There is no such file.
    ClusterError
        It is not a scheduler file.
    """
    try:
        return str(json.loads(file.read_text())["address"])
    except FileNotFoundError as error:
        raise MissingInputError(
            f"There is no scheduler file {str(file)!r}: start `dask scheduler --scheduler-file {file}` first."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"The scheduler file {str(file)!r} cannot be read ({type(error).__name__}: {error}): give the file that "
            "`dask scheduler --scheduler-file` has written."
        ) from error


def _check_address(scheduler: str) -> None:
    """Check the address first: a client whose creation fails raises the error again when it is garbage-collected."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise ClusterError(
            f"The scheduler {scheduler!r} is not an address ({error}): give one such as tcp://127.0.0.1:8786."
        ) from error
    if scheduler.startswith("tls://"):
        check_certificates(scheduler)
