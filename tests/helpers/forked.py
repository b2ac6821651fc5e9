"""Processes that are forked from one that has imported what they need: like those of `subprocess`, for much less.

Those that are about the start of a process, its imports and what happens during these, are started from new instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tests.helpers.runs import WARM


class ForkedProcess:
    """Runs a function in a process and a session of its own: like a `subprocess.Popen` with pipes and text.

    Parameters
    ----------
    function : callable
        Of a module, as its name is all that the process gets of it.
    *arguments
        Of the function.
    cwd : path-like, optional
    env : mapping, optional
        All environment variables; by default those of this process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([WARM])
        environment = dict(os.environ if env is None else env)
        (out, its_out), (errors, its_errors) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run, args=(function, arguments, its_out, its_errors, environment, str(cwd or Path.cwd()))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        its_out.close()
        its_errors.close()
        self.args, self.stdout, self.stderr = arguments, _as_file(out), _as_file(errors)
        self._written: dict[IO[str], str] = {}

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that has ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired([str(a) for a in self.args], timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end of the process, and return what it wrote to standard output and standard error."""
        readers = [threading.Thread(target=self._read, args=(s,), daemon=True) for s in (self.stdout, self.stderr)]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return self._written[self.stdout], self._written[self.stderr]

    def _read(self, stream: IO[str]) -> None:
        if stream not in self._written:
            self._written[stream] = stream.read()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


def _as_file(connection: Connection) -> IO[str]:
    """Return what comes out of a pipe as text."""
    with connection:
        return os.fdopen(os.dup(connection.fileno()), encoding="utf-8")


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    out: Connection,
    errors: Connection,
    environment: dict[str, str],
    folder: str,
) -> None:
    """Give this process what a new one would have, run the function, and do what Python does at its end."""
    import dask.config

    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for connection, descriptor in ((out, 1), (errors, 2)):
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # which depends on the environment
    dask.config.refresh()
    try:
        function(*arguments)
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
