"""Settings of all tests; those marked `gpu` are skipped where there is no GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.helpers.compiled_kernels import forget_compiling, start_compiling, wait_until_compiled

if TYPE_CHECKING:
    from tests.helpers.browser import Page

# Shells start what runs in the background with Ctrl-C ignored, and all that it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asserts how long anything takes: a busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
# Every run of CI tries the same examples: whether a change may land depends on it, not on luck.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "no deadline"))


def pytest_configure(config: pytest.Config) -> None:
    """Compile kernels while several processes collect the tests: all would compile the same ones at the same time."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        start_compiling()


def pytest_collection_finish(session: pytest.Session) -> None:
    wait_until_compiled()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        forget_compiling()


@pytest.fixture
def epoch_by_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client hear of every epoch before the next one begins."""
    monkeypatch.setattr("nomad_dask.layout.optimize._BATCH_SECONDS", 0.0)


@pytest.fixture
def checkpoints_at_once(monkeypatch: pytest.MonkeyPatch, epoch_by_epoch: None) -> None:
    """Write a checkpoint after every epoch."""
    monkeypatch.setattr("nomad_dask.layout.optimize._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("nomad_dask.layout.optimize._CHECKPOINT_COST", 0)


def _lacks() -> str | None:
    """Return what is missing for tests on a card."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported: {error}"
    return None if cupy.cuda.is_available() else "CuPy finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of slow tests, that none is left to one process at the end; skip `gpu` without a card."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    on_card = [item for item in items if item.get_closest_marker("gpu")]
    lacks = _lacks() if on_card else None
    for item in on_card if lacks else []:
        item.add_marker(pytest.mark.skip(reason=lacks))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    from tests.helpers.browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(shared: Page) -> Iterator[Page]:
    """The browser at its usual size; afterwards its console must be silent."""
    shared.resize(1280, 800)
    shared.scheme("dark")
    shared.console()
    yield shared
    # Screenshots make the software renderer say that it is slow.
    assert [line for line in shared.console() if "ReadPixels" not in line] == []
