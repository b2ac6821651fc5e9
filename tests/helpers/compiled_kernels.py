"""Kernels are compiled once for all test processes, not by each of them at the same time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Names the file that is locked while the kernels of the CPU backend are compiled.
_LOCKED = "NOMAD_TESTS_KERNELS_LOCKED"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time run the block for a file, which is created if it does not exist."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_compiling() -> None:
    """Compile the kernels of the CPU backend in a process of its own, into Numba's cache beside the modules."""
    descriptor, path = tempfile.mkstemp()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.environ[_LOCKED] = path
    # The lock is that of the process, which inherits the file: it ends with it, however that ends.
    subprocess.Popen([sys.executable, "-m", __name__], pass_fds=[descriptor], cwd=Path(__file__).parents[2])
    os.close(descriptor)


def wait_until_compiled() -> None:
    """Wait for the process of `start_compiling`, if the first process of the tests has started one."""
    if path := os.environ.get(_LOCKED):
        with locked(Path(path)):
            pass


def forget_compiling() -> None:
    """Remove the file of `start_compiling`."""
    if path := os.environ.pop(_LOCKED, None):
        Path(path).unlink(missing_ok=True)


def _compile() -> None:
    from tests.helpers.runs import blobs, make_map

    for n_components in (2, 3):
        make_map(blobs(600, n_dims=8), n_components=n_components, n_epochs=3)
    # The search of more rows has kernels of its own: compiled in a fit whose memory is measured, they would count.
    make_map(blobs(3000, n_dims=200), n_epochs=3)


if __name__ == "__main__":
    _compile()
