"""Retries of failed reads: shared and remote storage fails occasionally."""

from __future__ import annotations

import errno
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nomad_dask.errors import InputError, MissingInputError, NomadError, NomadWarning
from nomad_dask.utils.array_types import library_of

# Seconds to wait before each retry.
WAITS = (0.1, 1.0, 5.0)
# Errors that a retry cannot fix.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# Errors of a path that leads to no file anywhere.
_IMPOSSIBLE = {errno.ELOOP: "is a symbolic link that leads to itself", errno.ENAMETOOLONG: "has too long a name"}
# Libraries whose errors come from the transfer of data, although they are not an OSError.
_TRANSFER_LIBRARIES = (
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "requests",
    "s3fs",
    "urllib3",
)
_DENIED_STATUS = (401, 403)

_T = TypeVar("_T")


def with_retries(read: Callable[[], _T], what: str) -> _T:
    """Return the result of `read`, which is retried after 0.1, 1 and 5 seconds when storage fails.

    Every failed attempt is reported by a `NomadWarning`, which a Dask worker sends to the client.

    Parameters
    ----------
    read : callable
    what : str
        Description of the data in messages, such as a file and its rows.

    Raises
    ------
    MissingInputError
        The data does not exist.
    InputError
        Access is denied, or the last attempt failed.
    """
    for wait in (*WAITS, None):
        try:
            with translate_io_errors(what):
                return read()
        except Exception as error:
            if not _is_transient(error):
                raise
            if wait is None:
                raise InputError(
                    f"{what} cannot be read, tried {len(WAITS) + 1} times ({_describe(error)}): check the storage that "
                    "holds it, then run the same command again."
                ) from error
            _warn(f"{what} could not be read ({_describe(error)}): trying again in {wait:g} s.")
            time.sleep(wait)
    raise AssertionError


@contextmanager
def translate_io_errors(what: str) -> Iterator[None]:
    """Raise the errors of this package for data that does not exist or cannot be accessed.

    Raises
    ------
    MissingInputError
    InputError
    """
    try:
        yield
    except NomadError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(f"{what} does not exist: check the path, and that every worker can see it.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _IMPOSSIBLE:
            raise InputError(f"{what} {_IMPOSSIBLE[error.errno]} ({_describe(error)}): give another path.") from error
        if isinstance(error, PermissionError) or _is_access_denied(error):
            raise InputError(
                f"{what} may not be read ({_describe(error)}): check its permissions and your credentials, on the "
                "workers too."
            ) from error
        raise


def _is_access_denied(error: Exception) -> bool:
    """Return whether credentials are missing or not accepted."""
    # s3fs raises OSError for errors that S3 reports only in words.
    text = f"{type(error).__name__} {error}" if isinstance(error, OSError) or _is_transfer_error(error) else ""
    return getattr(error, "status", None) in _DENIED_STATUS or "Credential" in text or "AccessDenied" in text


def _is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed."""
    if isinstance(error, (NomadError, *_PERMANENT)):
        return False
    return isinstance(error, OSError) or _is_transfer_error(error)


def is_storage_error(error: Exception) -> bool:
    """Return whether storage has failed, rather than the data is damaged."""
    # Libraries also raise OSError for damage, but without an errno.
    return (isinstance(error, OSError) and error.errno is not None) or _is_transfer_error(error)


def _is_transfer_error(error: Exception) -> bool:
    return library_of(error) in _TRANSFER_LIBRARIES


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _warn(message: str) -> None:
    """Warn the user; on a Dask worker, in the process of the client."""
    if "distributed" in sys.modules:
        import pickle

        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:
            pass  # not in a task
        else:
            # Like `distributed.warn`, which would also print the warning here.
            worker.log_event("warn", {"message": pickle.dumps(message), "category": pickle.dumps(NomadWarning)})
            return
    warnings.warn(message, NomadWarning, stacklevel=3)
