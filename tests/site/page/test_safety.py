from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("selenium", reason="selenium is not installed: it is in the dev extra")

from nomad_dask.site.server import Server
from tests.helpers.browser import chromium, missing, served
from tests.helpers.small_sites import COLUMNS, NONE, SEARCHED, XY, write_site

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


SCRIPTS = (
    "<img src=x onerror=window.hurt=1>",
    "<script>window.hurt=1</script>",
    '"><svg onload=window.hurt=1>',
    "'-alert(1)-'</option></select><iframe srcdoc='<script>parent.hurt=1</script>'>",
    "javascript:window.hurt=1",
)


@pytest.mark.parametrize(
    "hash_", ["x=nan&y=1e999&zoom=-9", "hide=0-999999999.x&pin=99999999.-1.5", "color=nothing&zoom=99", "%"]
)
def test_addresses_that_make_no_sense_do_no_harm(page, site, address, hash_):
    page.driver.get("about:blank")
    page.driver.get(f"{address}index.html#{hash_}")
    page.wait(lambda: page.all(".surface"))
    page.settle()
    assert page.all(".alert:not([hidden])") == []


def test_text_is_never_markup(page, tmp_path):
    n = len(SCRIPTS) * 40
    rng = np.random.default_rng(3)
    hostile = [SCRIPTS[i % len(SCRIPTS)] for i in range(n)]
    columns = {
        f"c{SCRIPTS[0]}": hostile,
        f"t{SCRIPTS[1]}": [f"{text} word{i}" for i, text in enumerate(hostile)],
        f"n{SCRIPTS[3]}": rng.normal(size=n),
        "__proto__": [SCRIPTS[4]] * n,
    }
    made = write_site(tmp_path, rng.normal(size=(n, 2)), columns, title=SCRIPTS[0] + SCRIPTS[1])
    with served(made.folder) as url:
        page.open(url, search="window", pin=".".join(map(str, range(10))))
        page.wait(lambda: page.all(".hit") and page.all(".pins tbody tr"))
        assert page.text("h1") == SCRIPTS[0] + SCRIPTS[1]
        assert {e.get_attribute("textContent") for e in page.all(".entry .label")} == set(SCRIPTS)
        for i in range(len(page.all("#color option"))):
            page.choose_color(i)
        for row in range(20):
            at = page.pixels(
                made, made.seen, made.extent[0] + made.extent[2] / 2, made.extent[1] + made.extent[2] / 2, 0
            )
            page.move_to(*at[row])
            time.sleep(0.1)
        page.wait(lambda: "window.hurt" in page.text("#tooltip"))
        assert page.run("return window.hurt") is None
        assert page.all("img, iframe, script:not([src]), #tooltip svg, .pins td svg:not([aria-hidden])") == []


def test_texts_of_all_kinds(page, tmp_path):
    texts = ["", None, "שלום עולם", "👩‍🚀 emoji", "x" * 2001, "line\nbreak", "مرحبا", "a\u0000b"] * 20
    rng = np.random.default_rng(0)
    write_site(
        tmp_path, rng.normal(size=(160, 2)), {"title": [f"T{i}" for i in range(160)], "text": texts}, text_rows=7
    )
    with served(tmp_path) as url:
        page.open(url, pin="0.1.2.3.4.5.6.7", search="שלום")
        page.wait(lambda: page.text(".results .note") == "20 rows")
        page.wait(lambda: len(page.all(".pins tbody tr")) == 8)
        shown = page.run("return [...document.querySelectorAll('.pins tbody tr')].map(r => r.children[2].textContent)")
        assert [s or None for s in shown][2:7] == [t or None for t in texts[2:7]]
        assert shown[1] == NONE


@pytest.mark.parametrize(("n", "equal"), [(1, True), (700, True), (3, False)])
def test_few_points_and_equal_ones(page, tmp_path, n, equal):
    xy = np.full((n, 2), 2.5) if equal else np.array([[0, 0], [1, 1], [2, 0]], float)
    made = write_site(tmp_path, xy, {"title": [f"T{i}" for i in range(n)]}, tile_rows=100)
    with served(tmp_path) as url:
        page.open(url)
        x, y = made.extent[0] + made.extent[2] / 2, made.extent[1] + made.extent[2] / 2
        page.move_to(*page.pixels(made, made.seen, x, y, 0)[0] + [2, -2])
        page.wait(lambda: page.text("#tooltip:not([hidden]) strong").startswith("T"))


def test_a_file_opens_without_a_server(page, site):
    page.open(site.folder.as_uri() + "/", zoom=5, search="needle")
    page.wait(lambda: page.text(".results .note") == "1 row")
    page.search("needle", enter=True)
    page.settle()
    page.move_to(page.size[0] / 2, page.size[1] / 2)
    page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == f"Title {SEARCHED['needle']}")
    page.one(".entry").click()
    assert "hide=0" in page.driver.current_url


def test_without_webgl_the_overview_can_be_looked_at(tmp_path, site, address):
    with chromium(tmp_path, "--disable-3d-apis") as page:
        page.open(address)
        assert "WebGL" in page.text(".alert:not([hidden])")
        ink = (
            "const c = document.querySelector('.map canvas');"
            "const drawn = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return drawn.filter((v, i) => i % 4 === 3 && v).length"
        )
        page.wait(lambda: page.run(ink) > 1000)
        whole = page.run(ink)
        page.wheel(640, 400, -500)
        page.wait(lambda: page.run(ink) != whole)
        page.drag([(640, 400), (500, 300)])
        page.wait(lambda: "zoom=" in page.driver.current_url)
        page.search("needle")
        page.wait(lambda: page.text(".hit .title") == f"Title {SEARCHED['needle']}")
        assert [line for line in page.console() if "SEVERE" in line] == []


def test_without_webgl_the_legend_has_the_colors_of_the_picture(tmp_path, site, address):
    with chromium(tmp_path, "--disable-3d-apis") as page:
        page.scheme("dark")
        page.open(address)
        page.named("Close").click()
        shown = page.inks()
        assert shown == {swatch.value_of_css_property("background-color") for swatch in page.all(".swatch")}
        hidden = page.one(".swatch").value_of_css_property("background-color")
        page.one(".entry").click()
        page.settle()
        assert page.inks() == shown - {hidden}
        x, y = site.seen[5]
        page.open(address, x=x, y=y, zoom=6)
        page.move_to(page.size[0] / 2, page.size[1] / 2)
        page.wait(lambda: page.text("#tooltip:not([hidden]) strong") == "Title 5")


@pytest.fixture(scope="module")
def thief(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A page of another site, which tries to read a map as the page of the map does."""
    folder = tmp_path_factory.mktemp("thief")
    (folder / "index.html").write_text(
        "<!doctype html><script>window.stolen = []; window.failed = 0;"
        "window.nomad = (...all) => stolen.push(all)</script>"
    )
    with served(folder) as url:
        yield url, folder


def test_view_gives_nothing_to_the_pages_of_other_sites(page, site, thief):
    load = (
        "const [tag, address] = arguments; const e = document.createElement(tag); e.onload = () => stolen.push(tag);"
        "e.onerror = () => failed++; e.src = address; document.body.append(e)"
    )
    with Server(site.folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        # The same host with another port, and another host name: of the same site, and of another one.
        for other in (thief[0], thief[0].replace("127.0.0.1", "localhost")):
            page.driver.get(other)
            for tag, name in (("script", "site.js"), ("script", "index.js"), ("img", "overview/0.png")):
                page.run(load, tag, server.address + name)
            page.wait(lambda: page.run("return failed") == 3)
            assert page.run("return stolen") == []
        page.open(server.address)
        assert page.text(".subtitle") == "12,000 points"
        page.run("location.href = arguments[0]", thief[0])
        page.wait(lambda: page.driver.current_url == thief[0])
        # A link to the page from elsewhere still works.
        page.run("location.href = arguments[0]", server.address)
        page.wait(lambda: page.text(".subtitle") == "12,000 points")
        page.settle()  # what is still loading would report that the server is gone
        server.shutdown()
    page.console()


def test_a_part_that_failed_can_be_tried_again(shared, tmp_path):
    made = write_site(tmp_path, XY[:900], {"title": COLUMNS["title"][:900]}, tile_rows=300)
    lost = made.folder / f"{next(t for t in made.tile if t.startswith('tiles/1/'))}.js"
    kept = lost.read_bytes()
    lost.unlink()
    with served(made.folder) as url:
        shared.open(url)
        shared.wait(lambda: lost.name in shared.text(".alert:not([hidden])"))
        before = shared.run("return performance.getEntriesByType('resource').length")
        lost.write_bytes(kept)
        shared.one(".alert .link").click()
        shared.wait(lambda: shared.run("return performance.getEntriesByType('resource').length") > before)
        shared.settle()
        assert not shared.all(".alert:not([hidden])")
        assert shared.text(".subtitle") == "900 points"
    shared.console()


def test_a_damaged_site_says_so(shared, tmp_path):
    made = write_site(tmp_path, XY[:50], {"title": COLUMNS["title"][:50]})
    with served(made.folder) as url:
        Path(made.folder, "index.js").write_text("1")
        shared.open(url)
        assert "index.js" in shared.text(".fatal-error")
        Path(made.folder, "site.js").write_text('nomad("site","eyJ2ZXJzaW9uIjo5OX0=")')
        shared.open(url)
        assert "version 99" in shared.text(".fatal-error")
    shared.console()
