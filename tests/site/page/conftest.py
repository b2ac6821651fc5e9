"""A browser and a site for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.helpers.small_sites import COLUMNS, XY, Made, write_site

if TYPE_CHECKING:
    from tests.helpers.browser import Page


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_site(tmp_path_factory.mktemp("site"), XY, COLUMNS, title="Twelve thousand", most_hits=3000)


@pytest.fixture(scope="session")
def address(site: Made) -> Iterator[str]:
    from tests.helpers.browser import served

    with served(site.folder) as url:
        yield url


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
