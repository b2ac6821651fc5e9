from __future__ import annotations

import json
import time
from base64 import b64decode

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("selenium", reason="selenium is not installed: it is in the dev extra")

from selenium.webdriver.common.keys import Keys

from tests.helpers.browser import Page, missing, served
from tests.helpers.small_sites import (
    COLUMNS,
    NONE,
    SEARCHED,
    SECTIONS,
    XY,
    N,
    write_part,
    write_site,
    write_table,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def test_what_is_seen_first(page, site, address):
    page.open(address)
    assert page.driver.title == "Twelve thousand"
    assert page.text(".subtitle") == "12,000 points"
    assert [e.text.split("\n")[0] for e in page.all(".entry")][-1] == NONE
    surface = page.one(".surface")
    assert "12,000 points" in surface.get_attribute("aria-label")
    assert page.all(".alert[role=alert]:not([hidden])") == []


@pytest.mark.parametrize("zoom", [0, 1.3, 3, 5.5])
def test_hover_shows_the_row_under_the_cursor(page, site, address, zoom):
    rng = np.random.default_rng(int(zoom * 10))
    x, y = (0.5 * (site.seen[rng.integers(N)] + np.median(site.seen, axis=0))) if zoom else site.seen.mean(axis=0)
    x, y = site.seen[rng.integers(N)] if zoom > 2 else (x, y)
    page.open(address, x=x, y=y, zoom=zoom)
    pixels = page.pixels(site, site.seen, x, y, zoom)
    # All rows are drawn of those tiles that the page has asked for.
    asked = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    here = {name.removeprefix(address).partition(".js")[0] for name in asked}
    drawn = np.array([tile in here for tile in site.tile]) & (page.text(".subtitle") == "12,000 points")
    assert drawn.any()
    visible = np.flatnonzero(page.on_the_map(pixels) & drawn)
    for row in rng.permutation(visible)[:25]:
        # Beside the point, so that the nearest one has to be found.
        at = np.round(pixels[row] + rng.uniform(-2, 2, 2))
        distance = np.hypot(*(pixels[drawn] - at).T)
        right = set(np.flatnonzero(drawn)[distance <= distance.min() + 0.05].tolist())
        page.move_to(1, page.size[1] - 1)
        page.move_to(*at)
        titles = {COLUMNS["title"][r] for r in right}
        page.wait(lambda titles=titles: page.text("#tooltip:not([hidden]) strong") in titles)
        found = int(page.text("#tooltip strong").split()[-1])
        page.wait(lambda found=found: COLUMNS["text"][found] in page.text("#tooltip dl"))
        assert (COLUMNS["section"][found] or NONE) in page.text("#tooltip dl")


def test_hidden_points_are_neither_drawn_nor_found(page, site, address):
    page.open(address, zoom=2, x=0, y=0, hide="0-4")
    pixels = page.pixels(site, site.seen, 0, 0, 2)
    visible = np.flatnonzero(page.on_the_map(pixels))
    page.move_to(*pixels[visible[0]])
    time.sleep(0.3)
    assert page.all("#tooltip:not([hidden])") == []


def test_click_pins_and_the_table_tells(page, site, address):
    page.open(address, zoom=1)
    centre = np.array([site.extent[0], site.extent[1]]) + site.extent[2] / 2
    pixels = page.pixels(site, site.seen, *centre, 1)
    visible = np.flatnonzero(page.on_the_map(pixels))
    page.click(*pixels[visible[3]])
    page.wait(lambda: page.all(".pins tbody tr"))
    title = page.text(".pins tbody tr td")
    row = COLUMNS["title"].index(title)
    assert f"pin={row}" in page.driver.current_url
    assert COLUMNS["text"][row] in page.text(".pins tbody tr")
    assert page.text("[role=status]") == "Pinned"
    page.named("Remove pin 1").click()
    page.wait(lambda: not page.all(".pins:not([hidden])"))
    assert "pin=" not in page.driver.current_url


def test_the_address_keeps_the_view(page, site, address):
    page.open(address)
    page.drag([(640, 400), (560, 340), (500, 300)])
    page.wheel(640, 400, -400)
    page.one(".entry").click()
    page.search("needle")
    page.wait(lambda: "search=needle" in page.driver.current_url)
    page.settle()
    url = page.driver.current_url
    assert "hide=0" in url
    page.choose_color(2)
    page.wait(lambda: "color=year" in page.driver.current_url)
    assert page.all(".ramp")
    page.driver.back()
    page.wait(lambda: page.driver.current_url == url)
    page.wait(lambda: page.one(".entry").get_attribute("aria-pressed") == "false")
    kept = page.run("return location.hash").lstrip("#")
    page.driver.get("about:blank")
    page.driver.get(f"{address}index.html#{kept}")
    page.wait(lambda: page.all(".hit"))
    page.settle()
    assert page.driver.current_url == url
    assert page.one("#search").get_attribute("value") == "needle"
    assert [e.get_attribute("aria-pressed") for e in page.all(".entry")] == ["false", "true", "true", "true", "true"]


def test_the_legend_hides_one_and_shift_shows_one(page, site, address):
    page.open(address)
    labels = [e.text.split("\n")[0] for e in page.all(".entry")]
    assert sorted(labels[:4]) == SECTIONS
    counts = [int(e.text.split("\n")[1].replace(",", "")) for e in page.all(".entry")]
    assert counts == [sum(v == (None if k == NONE else k) for v in COLUMNS["section"]) for k in labels]
    colors = page.inks()
    page.all(".entry")[1].click()
    page.settle()
    assert page.all(".entry")[1].get_attribute("aria-pressed") == "false"
    assert len(page.inks()) < len(colors)
    page.run("document.querySelectorAll('.entry')[2].dispatchEvent(new MouseEvent('click', {shiftKey: true}))")
    page.settle()
    assert [e.get_attribute("aria-pressed") for e in page.all(".entry")] == ["false", "false", "true", "false", "false"]
    page.one(".entries .link").click()
    page.settle()
    assert page.inks() == colors


def test_keys_move_zoom_find_and_pin(page, site, address):
    page.open(address)
    page.run("document.querySelector('.surface').focus()")
    page.press("+", "+", Keys.ARROW_RIGHT, Keys.ARROW_UP)
    page.wait(lambda: "zoom=1" in page.driver.current_url)
    page.press("0")
    page.wait(lambda: "zoom" not in page.driver.current_url)
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.press("needle", Keys.ENTER)
    page.wait(lambda: "zoom=" in page.driver.current_url)
    page.settle()
    page.run("document.querySelector('.surface').focus()")
    page.press(Keys.ENTER)
    page.wait(lambda: f"pin={SEARCHED['needle']}" in page.driver.current_url)
    page.wait(lambda: page.text(".pins tbody td") == f"Title {SEARCHED['needle']}")
    page.named("Select with a lasso").click()
    page.press(Keys.ENTER)
    page.wait(lambda: "selected" in page.text("[role=status]"))
    page.press(Keys.ESCAPE)
    assert page.all(".selection:not([hidden])") == []


def zoom(page: Page) -> float:
    return float(page.run("return new URLSearchParams(location.hash.slice(1)).get('zoom') ?? 0"))


def test_keys_work_before_the_map_is_clicked_but_not_in_fields(page, site, address):
    page.open(address)
    assert page.run("return document.activeElement === document.body")
    page.press("+", "+", Keys.ARROW_RIGHT)
    page.wait(lambda: zoom(page) == 1 and "x=" in page.driver.current_url)
    # A button that was clicked keeps the focus: it needs Enter and the space bar, and nothing else.
    page.all(".entry")[0].click()
    page.press("-")
    page.wait(lambda: zoom(page) == 0.5)
    page.press(Keys.ENTER)
    page.wait(lambda: "hide" not in page.driver.current_url)
    page.settle()
    assert not page.all(".pins tbody tr")
    page.press("/")
    page.press("+-0/", Keys.ARROW_LEFT, "a")
    page.settle()
    assert page.one("#search").get_attribute("value") == "+-0a/"
    assert zoom(page) == 0.5
    # Escape clears the field, and then leaves it.
    page.press(Keys.ESCAPE, Keys.ESCAPE, "0")
    page.wait(lambda: "zoom" not in page.driver.current_url)
    page.one("#color").click()
    page.press(Keys.ESCAPE, Keys.ARROW_DOWN)
    page.wait(lambda: "color=year" in page.driver.current_url)


def test_a_view_without_points_says_so_and_offers_the_way_out(page, site, address):
    page.open(address)
    assert page.all(".empty-hint:not([hidden])") == []
    page.open(address, x=site.extent[0], y=site.extent[1] + site.extent[2], zoom=6)
    page.wait(lambda: page.text(".empty-hint:not([hidden]) p") == "There are no points here.")
    page.one(".empty-hint button").click()
    page.wait(lambda: not page.all(".empty-hint:not([hidden])"))
    assert "zoom" not in page.driver.current_url
    for entry in page.all(".entry"):
        entry.click()
    page.wait(lambda: page.text(".empty-hint:not([hidden]) p") == "All categories are hidden.")
    page.one(".empty-hint button").click()
    page.wait(lambda: not page.all(".empty-hint:not([hidden])"))
    kind = [e.text.split("\n")[0] for e in page.all(".entry")].index(COLUMNS["section"][1] or NONE)
    x, y = site.seen[1]
    page.open(address, x=x, y=y, zoom=12, hide=kind)
    page.wait(lambda: page.text(".empty-hint:not([hidden]) p") == "All points here are hidden.")


def test_a_map_without_points_says_so(page, tmp_path):
    made = write_site(tmp_path, XY[:1], {"title": COLUMNS["title"][:1]})
    about = json.loads(b64decode((made.folder / "site.js").read_text().split('"')[3]))
    write_part(made.folder, "site", json.dumps(about | {"n": 0}).encode())
    empty = np.zeros(0, np.uint32)
    write_table(made.folder, "index", pa.table(dict.fromkeys("zxyn", empty)))
    with served(made.folder) as url:
        page.open(url)
        page.wait(lambda: page.text(".empty-hint:not([hidden])") == "This map has no points.")


def overlaps(page: Page) -> list[tuple[str, str]]:
    """Return the panels in sight that cover each other, the card included."""
    script = (
        "return [...document.querySelectorAll('.panel')].filter(p => p.getBoundingClientRect().width)"
        ".map(p => [p.className, p.getBoundingClientRect()])"
        ".map(([c, b]) => [c, b.left, b.top, b.right, b.bottom])"
    )
    found = []
    boxes = page.run(script)
    for i, (name, left, top, right, bottom) in enumerate(boxes):
        found += [
            (name, other)
            for other, l2, t2, r2, b2 in boxes[:i]
            if left < r2 and l2 < right and top < b2 and t2 < bottom
        ]
    return found


@pytest.mark.parametrize(
    ("size", "pin"), [((1280, 800), ""), ((1280, 800), "1.2.3"), ((768, 1024), "1"), ((390, 844), "")]
)
def test_the_card_covers_no_panel(page, site, address, size, pin):
    page.resize(*size)
    rng = np.random.default_rng(0)
    x, y = site.seen.mean(axis=0)
    page.open(address, x=x, y=y, zoom=1, pin=pin)
    page.wait(lambda: len(page.all(".pins tbody tr")) == len(pin.split(".")) * bool(pin))
    pixels = page.pixels(site, site.seen, x, y, 1)
    on_the_map = np.flatnonzero(page.on_the_map(pixels))
    # Among others those next to the panels.
    edges = [on_the_map[np.argmax(pixels[on_the_map] @ way)] for way in ([1, 0], [-1, 0], [0, 1], [0, -1], [1, -1])]
    for row in [*edges, *rng.choice(on_the_map, 10)]:
        page.move_to(*pixels[row])
        page.wait(lambda: page.all("#tooltip:not([hidden]) strong"))
        time.sleep(0.1)  # the text arrives, and the card grows
        assert overlaps(page) == []


def test_on_a_phone_the_open_legend_leaves_the_map_in_sight(page, tmp_path):
    rng = np.random.default_rng(1)
    n = 4000
    made = write_site(
        tmp_path,
        rng.normal(size=(n, 2)),
        {
            "title": [f"A longer title of row {i}" for i in range(n)],
            "kind": [f"a longer kind {i % 35}" for i in range(n)],
        },
    )
    page.resize(390, 844)
    with served(made.folder) as url:
        page.open(url)
        page.one(".narrow-only").click()
        page.move_to(195, 300)
        page.wait(lambda: page.all("#tooltip:not([hidden]) dl"))
        time.sleep(0.1)
        box = page.run(
            "const b = document.querySelector('.legend').getBoundingClientRect(); return [b.width, b.height]"
        )
        assert 100 < box[1] < 0.3 * 844
        assert box[0] * box[1] < 0.25 * 390 * 844
        assert overlaps(page) == []
        # Entries stick out of it neither left nor right.
        sides = "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right]"
        left, right = page.run(sides, page.one(".legend"))
        for part in page.all(".entry .swatch, .entry .label, .entry .count"):
            part_left, part_right = page.run(sides, part)
            assert left < part_left < part_right < right
        # All entries can be reached.
        page.run("arguments[0].scrollIntoView()", page.all(".entry")[-1])
        page.all(".entry")[-1].click()
        page.wait(lambda: "hide=34" in page.driver.current_url)


def test_everything_that_acts_has_a_name_and_can_be_reached(page, site, address):
    page.open(address, pin="5", search="needle")
    page.wait(lambda: page.all(".hit"))
    nameless = page.run(
        "return [...document.querySelectorAll('button, input, select, canvas[role], section, nav, aside, [tabindex]')]"
        ".filter(e => e.offsetParent && !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-labelledby') ||"
        " e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    reached = []
    page.run("document.activeElement.blur()")
    for _ in range(40):
        page.press(Keys.TAB)
        name = page.run(
            "const e = document.activeElement; if (e === document.body) return null; const s = getComputedStyle(e);"
            "const ring = s.outlineStyle !== 'none' || getComputedStyle(e.parentElement).outlineStyle !== 'none';"
            "return [e.ariaLabel || e.id || e.textContent, ring]"
        )
        if name is None or name in reached:
            break
        reached.append(name)
    names = [name for name, _ in reached]
    assert all(ring for _, ring in reached), reached
    for wanted in ("Search all rows", "Select with a lasso", "Zoom in", "color", "Remove pin 1"):
        assert wanted in names


@pytest.mark.parametrize(
    ("size", "schemes"),
    [
        ((375, 667), ("dark", "light")),
        ((375, 812), ("light", "dark")),
        ((768, 1024), ("dark", "light")),
        ((1280, 800), ("light", "dark")),
        ((2560, 1440), ("light", "dark")),
    ],
)
def test_nothing_overlaps_nor_sticks_out(page, site, address, size, schemes):
    """The page opens in one scheme, and then changes to the other."""
    page.resize(*size)
    page.scheme(schemes[0])
    page.open(address, pin="1.2.3", search="common rare")
    page.wait(lambda: page.all(".hit"))
    for scheme in schemes:
        page.scheme(scheme)
        ground = {"dark": "rgb(16, 19, 24)", "light": "rgb(255, 255, 255)"}[scheme]
        page.wait(lambda ground=ground: page.run("return getComputedStyle(document.body).backgroundColor") == ground)
        width = page.run("return document.documentElement.scrollWidth")
        assert width <= size[0]
        boxes = page.panels()
        assert len(boxes) >= 4
        for i, (name, left, top, right, bottom) in enumerate(boxes):
            assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1], name  # noqa: PT018
            for other, l2, t2, r2, b2 in boxes[:i]:
                assert left >= r2 or l2 >= right or top >= b2 or t2 >= bottom, (name, other)


def test_the_button_changes_the_theme_for_good(page, site, address):
    page.open(address)
    page.named("Dark or light").click()
    assert page.run("return document.documentElement.dataset.theme") == "light"
    page.open(address)
    assert page.run("return document.documentElement.dataset.theme") == "light"
    page.run("localStorage.clear()")


def test_fingers_move_pinch_and_tap(page, site, address):
    page.resize(375, 812, mobile=True)
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    x, y = site.seen[11]
    page.open(address, x=x, y=y, zoom=2)
    page.touch("touchStart", (150, 400), (220, 400))
    for k in range(1, 8):
        page.touch("touchMove", (150 - 10 * k, 400), (220 + 10 * k, 400))
    page.touch("touchEnd")
    page.settle()
    view = page.run("return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
    assert float(view["zoom"]) == pytest.approx(2 + np.log2(210 / 70), abs=0.01)
    page.touch("touchStart", (200, 400))
    for k in range(1, 5):
        page.touch("touchMove", (200 + 10 * k, 400))
    page.touch("touchEnd")
    page.settle()
    moved = page.run("return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
    assert float(moved["x"]) < float(view["x"])
    assert page.all("#tooltip:not([hidden])") == []
    pixels = page.pixels(site, site.seen, *(float(moved[k]) for k in ("x", "y", "zoom")))
    row = np.flatnonzero(page.on_the_map(pixels))[0]
    page.touch("touchStart", tuple(pixels[row]))
    page.touch("touchEnd")
    page.wait(lambda: page.all(".pins tbody tr"))
    title = page.text("#tooltip:not([hidden]) strong")
    assert page.text(".pins tbody td") == title
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_large_map_is_sampled_and_all_of_it_is_there_when_near(page, tmp_path):
    rng = np.random.default_rng(5)
    n = 400_000
    xy = rng.normal(size=(n, 2)) * rng.choice([0.2, 1.0], (n, 1))
    made = write_site(tmp_path, xy, {"value": rng.normal(size=n)}, hover=[], tile_rows=8192, text_rows=4096)
    with served(made.folder) as url:
        page.open(url)
        said = page.text(".subtitle")
        assert said.endswith(" of 400,000 points drawn")
        assert 100_000 < int(said.split()[0].replace(",", "")) < n
        assert not page.all(".search-panel:not([hidden])")
        for zoom in (0, 4, 6):
            x, y = made.seen[rng.integers(n)] if zoom else np.array(made.extent[:2]) + made.extent[2] / 2
            page.open(url, x=x, y=y, zoom=zoom)
            whole = page.text(".subtitle") == "400,000 points"
            assert whole == (zoom > 0)
            pixels = page.pixels(made, made.seen, x, y, zoom)
            visible = np.flatnonzero(page.on_the_map(pixels))
            for row in rng.choice(visible, 10):
                at = pixels[row].round()
                page.move_to(1, 799)
                page.move_to(*at)
                if not page.all("#tooltip:not([hidden])"):
                    assert not whole
                    continue
                found = int(page.text("#tooltip strong").split()[-1].replace(",", ""))
                distance = np.hypot(*(pixels - at).T)
                assert distance[found] <= 14.1
                if whole:
                    assert distance[found] <= distance.min() + 0.05
        page.driver.get("about:blank")  # what the page still loads would fail when the server ends
