"""A Ctrl-C is neither lost nor raised in the middle of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest

from nomad_dask.utils.interrupts import InterruptHandler, current_handler, deferred, no_lost_interrupts


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def wait_for_a_signal(seconds: float = 10.0) -> None:
    """Wait in steps, between which Python handles signals."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


class Resource:
    pass


class Finalized:
    def __del__(self) -> None:
        press_ctrl_c()
        wait_for_a_signal(0.01)


def in_a_finalizer() -> None:
    Finalized()


def in_a_callback() -> None:
    def called(reference: object) -> None:
        press_ctrl_c()
        wait_for_a_signal(0.01)

    resource = Resource()
    reference = weakref.ref(resource, called)
    del resource
    del reference


def in_code_that_catches_all() -> None:
    with suppress(BaseException):
        press_ctrl_c()
        wait_for_a_signal(1)


@pytest.mark.parametrize("swallow", [in_a_finalizer, in_a_callback, in_code_that_catches_all])
def test_a_discarded_interrupt_is_raised_again(swallow, capfd):
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():  # noqa: PT012
        swallow()
        wait_for_a_signal()
        raise AssertionError("went on")
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_discarded_at_the_end_is_raised():
    done = []
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():  # noqa: PT012
        in_code_that_catches_all()
        done.append(True)
    assert done


def test_an_import_is_not_left_half_done(tmp_path, monkeypatch):
    slow = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)\ndone = True\n"
    (tmp_path / "imported_slowly.py").write_text(slow)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():  # noqa: PT012
        import imported_slowly  # type: ignore[import-not-found]

        wait_for_a_signal()
    assert sys.modules["imported_slowly"].done
    assert imported_slowly.done


def test_what_is_started_is_not_lost():
    steps = []
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():  # noqa: PT012
        with deferred():
            press_ctrl_c()
            wait_for_a_signal(0.3)
            steps.append("started")
        steps.append("went on")
    assert steps == ["started"]


def test_a_clean_up_is_not_disturbed_by_the_signal_that_caused_it():
    steps = []
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():  # noqa: PT012
        try:
            press_ctrl_c()
            wait_for_a_signal()
        finally:
            wait_for_a_signal(0.5)
            with deferred():
                steps.append("closing")
            steps.append("closed")
    assert steps == ["closing", "closed"]


def test_an_error_that_follows_an_interrupt_is_not_reported():
    with pytest.raises(KeyboardInterrupt) as caught, no_lost_interrupts():  # noqa: PT012
        try:
            press_ctrl_c()
            wait_for_a_signal()
        except BaseException as error:
            raise RuntimeError("could not connect") from error
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_one_ctrl_c_that_arrives_twice_is_one():
    """As from a terminal and from a program that has started this one."""
    stopped: list[bool] = []
    handler = InterruptHandler(lambda: stopped.append(True))
    previous = signal.signal(signal.SIGINT, handler)
    try:
        try:
            press_ctrl_c()
            wait_for_a_signal()
        except KeyboardInterrupt:  # handled until the end of the block
            press_ctrl_c()
            wait_for_a_signal(0.01)
            assert not stopped
            time.sleep(0.35)
            press_ctrl_c()
            wait_for_a_signal(0.01)
            assert stopped
            assert handler.acknowledge()
    finally:
        handler.close()
        signal.signal(signal.SIGINT, previous)


def test_other_threads_and_other_handlers_are_left_alone():
    def work() -> None:
        with no_lost_interrupts(), deferred():
            found.append(current_handler())

    found: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert found == [None, None]


AT_THE_END = """
import atexit, sys, time
sys.argv = ["nomad-dask", *sys.argv[1:]]
from nomad_dask.cli import commands, main
run = commands.run
def run_and_end_slowly():
    atexit.register(lambda: (print("ends", flush=True), time.sleep(20)))
    return run()
commands.run = run_and_end_slowly
main()
"""


def test_a_command_that_ends_is_stopped_without_a_traceback(tmp_path: Path):
    command = [sys.executable, "-c", AT_THE_END, "--version"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("nomad-dask")
        assert process.stdout.readline() == "ends\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 4
    assert errors == "Error: Stopped when the command had finished: its results are complete.\n"
