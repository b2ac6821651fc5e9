"""One worker on the card for all tests here: to start one takes longer than most of their maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def worker() -> Iterator[Any]:
    """Give a client of one worker process."""
    from tests.helpers.gpu_card import gpu_workers

    with gpu_workers(1) as client:
        yield client
