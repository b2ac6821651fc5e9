from __future__ import annotations

import csv
import time

import numpy as np
import pytest

pytest.importorskip("selenium", reason="selenium is not installed: it is in the dev extra")

from matplotlib.path import Path as Polygon
from selenium.webdriver.common.keys import Keys

from tests.helpers.browser import missing, served
from tests.helpers.small_sites import COLUMNS, NONE, SEARCHED, XY, N, write_site

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def test_search_finds_words_of_any_script_and_enter_flies_there(page, site, address):
    page.open(address)
    for word, row in SEARCHED.items():
        page.press(Keys.ESCAPE, Keys.ESCAPE, "0")  # clears the field, leaves it, and shows the whole map
        page.wait(lambda: "zoom=" not in page.driver.current_url)
        page.search(word.upper(), enter=True)
        page.wait(lambda row=row: page.text(".hit .title") == f"Title {row}")
        assert page.text(".results .note") == "1 row"
        page.wait(lambda: "zoom=" in page.driver.current_url)
        page.settle()
        page.move_to(page.size[0] / 2, page.size[1] / 2)
        page.wait(lambda row=row: page.text("#tooltip:not([hidden]) strong") == f"Title {row}")


def test_search_ands_words_and_counts(page, site, address):
    page.open(address)
    for words in (["common"], ["rare", "title"], ["12", "title"], ["botany", "loud"], ["common", "missing"]):
        columns = [COLUMNS[name] for name in ("title", "section", "text")]
        found = [
            row
            for row, values in enumerate(zip(*columns, strict=True))
            if set(words) <= set(" ".join(v or "" for v in values).lower().split())
        ]
        page.search(" ".join(words))
        page.wait(
            lambda words=words: page.text(".results .note") and f"search={'+'.join(words)}" in page.driver.current_url
        )
        time.sleep(0.4)
        note = page.text(".results .note")
        listed = {int(title.split()[-1]) for title in page.texts(".hit .title")}
        assert listed <= set(found), words
        assert len(listed) == min(20, len(found)), (words, note)
        if note == "No row has all these words.":
            assert not found
            continue
        bound, number = note.split()[-3:-2], int(note.split()[-2].replace(",", ""))
        assert {"least": number <= len(found), "most": number >= len(found)}.get(
            "".join(bound), number == len(found)
        ), note


def test_enter_opens_the_card_of_the_first_hit_and_keeps_it(page, site, address):
    page.open(address)
    page.search("needle", enter=True)
    row = SEARCHED["needle"]
    page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == f"Title {row}")
    assert COLUMNS["text"][row] in page.text("#tooltip dl")
    page.settle()
    # A cursor that moves over nothing leaves it open, but not one that moves the map.
    page.move_to(page.size[0] / 2, page.size[1] - 30)
    page.move_to(page.size[0] / 2, 5)
    assert page.text("#tooltip:not([hidden]) strong") == f"Title {row}"
    page.drag([(640, 700), (600, 650), (560, 600)])
    page.wait(lambda: not page.all("#tooltip:not([hidden])"))
    # Of several hits it is the first one in the list, also a second time.
    page.search("common", enter=True)
    page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == (page.text(".hit .title") or None))
    page.one("#search").send_keys(Keys.ENTER)
    page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == page.text(".hit .title"))
    page.all(".hit")[1].click()
    second = page.run("return document.querySelectorAll('.hit .title')[1].textContent")
    page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == second)


def lassoed(page, site, x, y, zoom, corners, tmp_path, texts=False, formulas=False):
    """Draw a lasso and return its polygon on the map and the rows of its CSV."""
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path), "eventsEnabled": False}
    )
    page.drag([*corners, corners[0]], shift=True)
    page.wait(lambda: "selected" in page.text(".selection .note"))
    count = page.text(".selection .note")
    if texts:
        page.one("#with-text").click()
    if formulas:
        page.one("#keep-formulas").click()
    page.one(".selection .primary").click()
    file = page.wait(lambda: next(iter(tmp_path.glob("*.csv")), None))
    page.wait(lambda: file.read_bytes().endswith(b"\r\n"))
    with file.open(newline="", encoding="utf-8") as lines:
        found = list(csv.DictReader(lines))
    assert count.startswith(f"{len(found):,} row")
    scale = page.scale(site.extent[2], zoom)
    offset = (np.array(corners) - np.array(page.size) / 2) / scale * [1, -1]
    return offset + np.array([x, y]), found


def test_the_csv_of_a_lasso_holds_exactly_the_rows_inside(page, site, address, tmp_path):
    x, y, zoom = 5.0, 5.0, 0.5
    page.open(address, x=x, y=y, zoom=zoom)
    before = len(page.run("return performance.getEntriesByType('resource')"))
    corners = [(420, 330), (620, 150), (900, 180), (860, 500), (700, 420), (560, 640), (450, 520)]
    polygon, found = lassoed(page, site, x, y, zoom, corners, tmp_path)
    assert before > 0
    inside = np.flatnonzero(Polygon(polygon).contains_points(XY))
    assert 1000 < len(inside) < N
    assert [int(line["row"]) for line in found] == inside.tolist()
    for line in found[::97]:
        row = int(line["row"])
        assert (float(line["x"]), float(line["y"])) == pytest.approx(tuple(site.seen[row]), rel=1e-6, abs=1e-6)
        assert line["section"] == (COLUMNS["section"][row] or NONE)
        year = COLUMNS["year"][row]
        assert line["year"] == "" if np.isnan(year) else float(line["year"]) == pytest.approx(year, rel=1e-6)


def test_the_lasso_leaves_hidden_entries_out_and_adds_texts(page, site, address, tmp_path):
    first = page.open(address, x=9, y=2, zoom=1, color="section", hide="0.4") or page.text(".entry .label")
    corners = [(500, 250), (800, 260), (780, 560), (520, 540)]
    polygon, found = lassoed(page, site, 9, 2, 1, corners, tmp_path, texts=True)
    inside = np.flatnonzero(Polygon(polygon).contains_points(XY))
    shown = [row for row in inside if COLUMNS["section"][row] not in (first, None)]
    assert [int(line["row"]) for line in found] == shown
    assert [line["text"] for line in found] == [COLUMNS["text"][row] for row in shown]
    assert "without hidden categories" in page.text(".selection .note")


@pytest.mark.parametrize("kept", [False, True])
def test_the_csv_of_a_lasso_runs_no_formula_unless_told_to_keep_them(page, tmp_path, kept):
    formulas = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\tx", "plain = text", "-1", None]
    n = len(formulas)
    xy = np.column_stack([np.arange(n), np.arange(n) % 3]) - 4.0
    columns = {
        "title": formulas,
        "=cluster": ["-1", "0"] * (n // 2),
        "size": -np.arange(n, dtype=float) - 0.5,
    }
    made = write_site(tmp_path / "site", xy, columns, hover=["title", "size"])
    with served(made.folder) as url:
        page.open(url, zoom=-1)
        x, y = made.extent[0] + made.extent[2] / 2, made.extent[1] + made.extent[2] / 2
        corners = [(400, 180), (880, 180), (880, 620), (400, 620)]
        _, found = lassoed(page, made, x, y, -1, corners, tmp_path, texts=True, formulas=kept)
    assert [int(line["row"]) for line in found] == list(range(n))
    defused = ["'=1+1", "'+1", "'-1+cmd|' /C calc'!A0", "'@SUM(1)", "'\tx", "plain = text", "'-1", ""]
    assert [line["title"] for line in found] == ([f or "" for f in formulas] if kept else defused)
    # Numbers are numbers, and so are labels that are all numbers.
    assert [float(line["x"]) for line in found] == pytest.approx(xy[:, 0].tolist())
    assert [float(line["size"]) for line in found] == columns["size"].tolist()
    assert [line["=cluster" if kept else "'=cluster"] for line in found] == columns["=cluster"]
