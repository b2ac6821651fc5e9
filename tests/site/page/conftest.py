"""A site for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.small_sites import COLUMNS, XY, Made, write_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("site")
    return write_site(folder, XY, COLUMNS, title="Twelve thousand", tile_rows=1500, most_hits=3000)


@pytest.fixture(scope="session")
def address(site: Made) -> Iterator[str]:
    from tests.helpers.browser import served

    with served(site.folder) as url:
        yield url
