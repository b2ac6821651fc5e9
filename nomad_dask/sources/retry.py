"""Reading again what failed to be read: storage that is shared or far away fails now and then."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nomad_dask.errors import InputError, MissingInputError, NomadError, NomadWarning
from nomad_dask.utils.array_types import library_of

# Seconds to wait before each new try.
WAITS = (0.1, 1.0, 5.0)
# What waiting does not mend.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# Packages whose errors come from the way to the data, though they are no OSError.
_CARRIERS = ("aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3")
_REFUSED = (401, 403)

_T = TypeVar("_T")


def with_retries(read: Callable[[], _T], what: str) -> _T:
    """Return what `read` returns, which is tried again after 0.1, 1 and 5 seconds when storage fails.

    Every try that failed is told by a `NomadWarning`, on a Dask worker to the client.

    Parameters
    ----------
    read : callable
    what : str
        What is read, such as a file and its rows.

    Raises
    ------
    MissingInputError
        It does not exist.
    InputError
        It may not be read, or could not be at the last try.
    """
    for wait in (*WAITS, None):
        try:
            with translate_io_errors(what):
                return read()
        except Exception as error:
            if not _is_passing(error):
                raise
            if wait is None:
                raise InputError(
                    f"{what} cannot be read, tried {len(WAITS) + 1} times ({_named(error)}): check the storage that "
                    "holds it, then go on with the same command."
                ) from error
            _warn(f"{what} could not be read ({_named(error)}): trying again in {wait:g} s.")
            time.sleep(wait)
    raise AssertionError


@contextmanager
def translate_io_errors(what: str) -> Iterator[None]:
    """Turn the errors of files that do not exist or may not be read into ours.

    Raises
    ------
    MissingInputError
    InputError
    """
    try:
        yield
    except NomadError:
        raise
    except FileNotFoundError as error:
        raise MissingInputError(f"{what} does not exist: check the path, and that every worker can see it.") from error
    except Exception as error:
        if isinstance(error, PermissionError) or _is_refusal(error):
            raise InputError(
                f"{what} may not be read ({_named(error)}): check its permissions and your credentials, on the "
                "workers too."
            ) from error
        raise


def _is_refusal(error: Exception) -> bool:
    """Tell whether credentials are missing or not accepted."""
    # OSError: of s3fs, for what S3 says in words only.
    text = f"{type(error).__name__} {error}" if isinstance(error, OSError) or _carried(error) else ""
    return getattr(error, "status", None) in _REFUSED or "Credential" in text or "AccessDenied" in text


def _is_passing(error: Exception) -> bool:
    """Tell whether another try may succeed."""
    if isinstance(error, (NomadError, *_FINAL)):
        return False
    return isinstance(error, OSError) or _carried(error)


def _carried(error: Exception) -> bool:
    return library_of(error) in _CARRIERS


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _warn(message: str) -> None:
    """Warn the user: of what happens on a Dask worker, in the process of the client."""
    if "distributed" in sys.modules:
        import pickle

        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:
            pass  # this is no task
        else:
            # As `distributed.warn` does, which would say it a second time here.
            worker.log_event("warn", {"message": pickle.dumps(message), "category": pickle.dumps(NomadWarning)})
            return
    warnings.warn(message, NomadWarning, stacklevel=3)
