"""The page on a site of our own writer: what it shows is what the map holds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("selenium", reason="selenium is not installed: it is in the dev extra")

from matplotlib.path import Path as Polygon

from nomad_dask.site.export import export
from tests.helpers.browser import missing, served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

N = 30_000
FIRST_CELLS = "return [...document.querySelectorAll('.pins tbody tr')].map(r => r.querySelector('td').textContent)"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rng = np.random.default_rng(2)
    heap = rng.integers(0, 9, N)
    at = rng.normal(size=(9, 2))[heap] * 6 + rng.normal(size=(N, 2))
    return pa.table(
        {
            "x": at[:, 0].astype(np.float32),
            "y": at[:, 1].astype(np.float32) + 1000,
            "name": [f"row number{i}" for i in range(N)],
            "section": pa.array([None if h == 8 else f"section {h}" for h in heap]),
            "score": rng.normal(size=N),
        }
    )


@pytest.fixture(scope="module")
def address(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    pq.write_table(table, folder / "map.parquet", row_group_size=7_000)
    export(folder / "map.parquet", folder / "site")
    with served(folder / "site") as url:
        yield url


def test_cards_hits_and_pins_are_rows_of_the_map(page, address, table):
    rows = np.random.default_rng(0).integers(0, N, 5).tolist()
    names = table.column("name").take(rows).to_pylist()
    page.open(address, pin=".".join(map(str, rows)))
    page.wait(lambda: page.run(FIRST_CELLS) == names)
    for row, name in zip(rows, names, strict=True):
        page.search(f"number{row}", enter=True)
        page.wait(lambda name=name: page.text(".hit .title") == name)
        assert page.text(".results .note") == "1 row"
        page.wait(lambda: "zoom=" in page.driver.current_url)
        page.settle()
        page.move_to(page.size[0] / 2, page.size[1] / 2)
        page.wait(lambda name=name: page.text("#tooltip:not([hidden]) strong") == name)
        section = table.column("section")[row].as_py() or "(none)"
        page.wait(lambda section=section: section in page.text("#tooltip dl"))


def lassoed(page, table, folder: Path, half: float) -> tuple[list[int], list[int]]:
    """Draw a square around the middle; return the rows of its CSV, and those of the map inside."""
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": False}
    )
    across, down = np.array(page.size) / 2
    corners = [(across + i * half, down + j * half) for i, j in ((-1, -1), (1, -0.9), (0.8, 1), (-1, 0.9))]
    page.drag([*corners, corners[0]], shift=True)
    page.wait(lambda: "selected" in page.text(".selection .note"))
    page.one(".selection .primary").click()
    file = page.wait(lambda: next(iter(folder.glob("*.csv")), None))
    page.wait(lambda: file.read_bytes().endswith(b"\r\n"))
    with file.open(newline="", encoding="utf-8") as lines:
        found = [int(line["row"]) for line in csv.DictReader(lines)]
    at = np.column_stack([table.column(axis).to_numpy().astype(np.float64) for axis in ("x", "y")])
    low, high = at.min(axis=0), at.max(axis=0)
    side = (high - low).max()
    offset = (np.array(corners) - np.array(page.size) / 2) / page.scale(side, 0) * [1, -1]
    inside = Polygon(low + (high - low) / 2 + offset).contains_points(at)
    return found, np.flatnonzero(inside).tolist()


def test_a_lasso_selects_the_rows_of_the_map_that_are_inside(page, address, table, tmp_path):
    page.open(address)
    found, inside = lassoed(page, table, tmp_path, 240)
    assert 3000 < len(inside) < N
    assert found == inside


def test_a_map_of_nothing_but_places_has_cards_and_pins(page, table, tmp_path):
    pq.write_table(table.select(["x", "y"]).slice(0, 500), tmp_path / "map.parquet")
    export(tmp_path / "map.parquet", tmp_path / "site")
    with served(tmp_path / "site") as url:
        page.open(url, pin=77)
        page.wait(lambda: page.all(".pins tbody tr"))
        page.named("Show pin 1, row 77, on the map").click()
        page.settle()
        page.move_to(page.size[0] / 2, page.size[1] / 2)
        page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == "Row 77")
        page.wait(lambda: page.text("#tooltip small").endswith("click to unpin"))
