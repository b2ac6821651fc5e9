"""The actions of the benchmark of the page, and their comparison with the map."""

from __future__ import annotations

import csv
import re
import statistics
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tests.helpers.browser import Page
from tests.helpers.small_sites import Made

SIZE = (1280, 800)
SIZES = ((375, 812), SIZE, (2560, 1440))
REACH = 14  # pixels from the cursor within which the page looks for a point
SAME = 8  # levels of a pixel that rounding the view to a tenth of a pixel may change
# Records when a picture first appears on a canvas of the page, and when the page is settled.
WATCH = """
(() => {
  const seen = (window.seen = { frames: [], recording: false });
  const note = (name) => {
    if (name in seen) return;
    seen[name] = null;
    requestAnimationFrame(() => setTimeout(() => (seen[name] = performance.now())));
  };
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...all) {
    if (this.canvas.isConnected) note("picture");
    return draw.apply(this, all);
  };
  const arrays = WebGL2RenderingContext.prototype.drawArrays;
  WebGL2RenderingContext.prototype.drawArrays = function (...all) {
    note("picture");
    note("points");
    return arrays.apply(this, all);
  };
  const tick = (now) => {
    if (seen.recording) seen.frames.push(now);
    if (document.querySelector('.surface[aria-busy="false"]') && "points" in seen) note("rest");
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})();
"""


@dataclass(frozen=True)
class Shown:
    """A site in a browser, and the map that it was made from.

    Attributes
    ----------
    page : Page
    address : str
    table : Table
        The map.
    about : dict
        What the site says of itself.
    downloads : Path
        An empty folder.
    at : ndarray of float64 (n, 2)
    made : Made
    """

    page: Page
    address: str
    table: pa.Table
    about: dict[str, Any]
    downloads: Path
    at: np.ndarray = field(init=False)
    made: Made = field(init=False)

    def __post_init__(self) -> None:
        at = np.column_stack([self.table.column(axis).to_numpy().astype(np.float64) for axis in ("x", "y")])
        left, bottom, right, _ = self.about["extent"]
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "made", Made(Path(), (left, bottom, right - left), at))

    @property
    def middle(self) -> tuple[float, float]:
        left, bottom, right, top = self.about["extent"]
        return (left + right) / 2, (bottom + top) / 2

    def look(self, x: float, y: float, zoom: float, **more: Any) -> None:
        """Go to a view without loading the page again."""
        told = "&".join(f"{k}={v}" for k, v in ({"x": x, "y": y, "zoom": zoom} | more).items())
        self.page.run("location.hash = arguments[0]", told)
        self.page.settle()

    def view(self) -> tuple[float, float, float]:
        """Return the center and the zoom in the address."""
        told = self.page.run("return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
        return float(told["x"]), float(told["y"]), float(told["zoom"])


def first_picture(shown: Shown, times: int = 5) -> dict[str, Any]:
    """Load the page several times with an empty cache; return milliseconds from the start of each to its events."""
    page, runs = shown.page, []
    page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    for _ in range(times):
        page.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        page.open(shown.address)
        runs.append(page.wait(lambda: (s := page.run("return window.seen")) and s.get("rest") and s))
    told = "return performance.getEntriesByType('resource').map(e => [e.name, e.transferSize])"
    asked = page.run(told)
    return {
        **{name: sorted(round(run[name]) for run in runs) for name in ("picture", "points", "rest")},
        "requests": len(asked),
        "bytes": sum(size for _, size in asked),
        "largest_request": max(size for _, size in asked),
    }


def moving(shown: Shown, views: list[tuple[float, float, float]], moves: int = 150) -> list[dict[str, Any]]:
    """Drag the map back and forth at several views; return frames per second and points drawn."""
    page, found = shown.page, []
    for x, y, zoom in views:
        shown.look(x, y, zoom)
        told = page.text(".subtitle")
        middle = np.array(page.size) / 2
        angle = np.linspace(0, 4 * np.pi, moves)
        path = middle + np.column_stack([200 * np.sin(angle), 120 * (1 - np.cos(angle))])
        page.run("seen.frames = []; seen.recording = true")
        page.drag([tuple(place) for place in path])
        frames = np.diff(page.run("seen.recording = false; return seen.frames"))
        page.settle()
        found.append(
            {
                "zoom": zoom,
                "drawn": told if " drawn" in told else "all points in view",
                "frames": len(frames),
                "fps": round(1000 / float(np.median(frames)), 1),
                "slowest_tenth_fps": round(1000 / float(np.quantile(frames, 0.9)), 1),
            }
        )
    return found


def wandering(shown: Shown, steps: int = 40) -> None:
    """Zoom with the wheel and drag around, so that many tiles are loaded and evicted."""
    page, rng = shown.page, np.random.default_rng(3)
    shown.look(*shown.middle, 0)
    for _ in range(steps):
        x, y = rng.uniform([360, 150], [980, 700])
        for _ in range(3):
            page.wheel(x, y, float(rng.choice([-160, -160, 120])))
        page.drag([(x, y), tuple(rng.uniform([360, 150], [980, 700]))])
        page.settle()


def hovering(shown: Shown, times: int = 100) -> dict[str, Any]:
    """Hover over random rows at random zoom levels; return how often the tooltip was correct."""
    page, rng = shown.page, np.random.default_rng(1)
    told = {"times": times, "right": 0, "nearest_of_all": 0, "all_drawn": 0, "nothing_near": 0, "wrong": []}
    for _ in range(times):
        row, zoom = int(rng.integers(len(shown.at))), float(rng.uniform(0, 12))
        x, y = shown.at[row] + rng.uniform(-200, 200, 2) / page.scale(shown.made.extent[2], zoom)
        page.move_to(30, 30)
        shown.look(x, y, zoom)
        pixels = page.pixels(shown.made, shown.at, *shown.view())
        at = pixels[row].round()
        page.move_to(*at)
        time.sleep(0.1)
        everything = " drawn" not in page.text(".subtitle")
        if not page.all("#tooltip:not([hidden])"):
            told["nothing_near"] += 1
            if everything:
                told["wrong"].append(f"no card for row {row} at zoom {zoom}, where all points are drawn")
            continue
        page.wait(lambda: not page.all("#tooltip .loading"))
        found = int(page.text("#tooltip small").split()[1].replace(",", ""))
        distance = np.hypot(*(pixels - at).T)
        # Tiles store positions in quantization steps.
        step = page.scale(shown.made.extent[2], zoom) * shown.made.extent[2] / shown.about["steps"]
        wrong = _wrong_texts(shown, found)
        if distance[found] > REACH + step:
            wrong.append(f"row {found} is {distance[found]:.1f} pixels away at zoom {zoom:.2f}")
        if everything:
            told["all_drawn"] += 1
            told["nearest_of_all"] += bool(distance[found] <= distance.min() + 1)
            if distance[found] > distance.min() + 2 * step + 1:
                wrong.append(f"row {found} is not the nearest at zoom {zoom:.2f}")
        told["wrong"] += wrong
        told["right"] += not wrong
    return told


def _wrong_texts(shown: Shown, row: int) -> list[str]:
    """Return the text of the tooltip that is not in the row of the map."""
    script = (
        "const c = document.querySelector('#tooltip');"
        "return [c.querySelector('strong').textContent, ...[...c.querySelectorAll('dd')].map(d => d.textContent)]"
    )
    wrong = []
    for name, text in zip(shown.about["hover"], shown.page.run(script), strict=True):
        value = shown.table.column(name)[row].as_py()
        if isinstance(value, float):
            same = np.float32(text) == np.float32(value)
        else:
            plain = "(none)" if value is None else str(value) or "(empty)"
            same = text in (plain, plain[:2000] + "…")
        if not same:
            wrong.append(f"row {row}, {name}: {text!r} instead of {value!r}")
    return wrong


def searching(shown: Shown, times: int = 20) -> dict[str, Any]:
    """Search for words of random rows; return how often the count and the row were correct, and milliseconds."""
    page, rng = shown.page, np.random.default_rng(2)
    columns = shown.about["search"]["columns"]
    told: dict[str, Any] = {"times": times, "right": 0, "wrong": [], "ms": []}
    page.open(shown.address)
    while len(told["ms"]) < times:
        row = int(rng.integers(len(shown.at)))
        words = re.findall(r"[A-Za-z0-9]+", str(shown.table.column(columns[0])[row].as_py() or ""))
        if not words:
            continue
        word = words[int(rng.integers(len(words)))] if len(told["ms"]) % 2 else max(words, key=len)
        pattern = rf"(?i)(^|[^\pL\pN]){word}([^\pL\pN]|$)"
        holding = np.zeros(len(shown.at), bool)
        for name in columns:
            holding |= pc.fill_null(pc.match_substring_regex(shown.table.column(name), pattern), False).to_numpy()
        page.run("document.querySelector('[aria-label=\"Clear the search\"]').click()")
        page.wait(lambda: not page.text(".results .note"))
        began = time.monotonic()
        page.search(word, enter=True)
        note = page.wait(lambda: page.text(".results .note"))
        told["ms"].append(round(1000 * (time.monotonic() - began)))
        wrong = []
        if int(note.split()[-2].replace(",", "")) != holding.sum():
            wrong.append(f"{word}: {note}, and {holding.sum()} hold it")
        pins = page.run("return [...document.querySelectorAll('.hit .title')].map(e => e.textContent)")
        names = set(shown.table.column(shown.about["hover"][0]).filter(pa.array(holding)).to_pylist())
        if len(pins) != min(20, int(holding.sum())) or not set(pins) <= names:
            wrong.append(f"{word}: other rows are listed")
        page.settle()
        told["wrong"] += wrong
        told["right"] += not wrong
    told["ms"] = round(statistics.median(told["ms"]))
    return told


def selecting(shown: Shown, views: list[tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Draw lassos; return the number of rows in their CSV, and how many differ from those that NumPy finds inside."""
    page, rng, found = shown.page, np.random.default_rng(4), []
    allowed = {"behavior": "allow", "downloadPath": str(shown.downloads), "eventsEnabled": False}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    for x, y, zoom in views:
        page.open(shown.address, x=x, y=y, zoom=zoom)
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        away = rng.uniform(0.4, 1, 9)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]) * [300, 250]
        corners = (np.array(page.size) / 2 + away).round()
        began = time.monotonic()
        page.drag([*map(tuple, corners), tuple(corners[0])], shift=True)
        page.wait(lambda: "selected" in page.text(".selection .note"), 300)
        seconds = time.monotonic() - began
        page.one(".selection .primary").click()
        file = page.wait(lambda: next(iter(shown.downloads.glob("*.csv")), None), 300)
        page.wait(lambda file=file: file.read_bytes().endswith(b"\r\n"), 300)
        with file.open(newline="", encoding="utf-8") as lines:
            rows = np.array([int(line["row"]) for line in csv.DictReader(lines)], np.int64)
        file.unlink()
        offset = (corners - np.array(page.size) / 2) / page.scale(shown.made.extent[2], zoom) * [1, -1]
        inside = np.flatnonzero(_inside(offset + np.array([x, y]), shown.at))
        found.append(
            {
                "zoom": zoom,
                "rows": len(rows),
                "differ": len(np.setxor1d(rows, inside)),
                "in_order": bool((np.diff(rows) > 0).all()),
                "seconds": round(seconds, 2),
            }
        )
    return found


def _inside(polygon: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return which positions (n, 2) lie in a polygon (k, 2), by the even-odd rule in float64."""
    inside = np.zeros(len(at), bool)
    x, y = at.T
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, 1, axis=0), strict=True):
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def changed_view(shown: Shown, fresh: Page) -> dict[str, Any]:
    """Change everything that an address contains, open it in a fresh browser, and compare the pictures."""
    page, row = shown.page, len(shown.at) // 3
    page.open(shown.address)
    page.wheel(600, 420, -500)
    page.drag([(640, 400), (560, 340), (520, 330)])
    page.one(".entry").click()
    page.search(str(shown.table.column(shown.about["search"]["columns"][0])[row].as_py()))
    page.wait(lambda: page.text(".results .note"))
    page.settle()
    pixels = page.pixels(shown.made, shown.at, *shown.view())
    page.click(*pixels[np.flatnonzero(page.on_the_map(pixels))[0]].round())
    page.run("document.activeElement.blur()")
    # Onto the title: nothing is pointed at.
    page.move_to(30, 30)
    page.settle()
    url = page.driver.current_url
    fresh.driver.get(url)
    fresh.wait(lambda: fresh.all(".hit") and fresh.all(".surface"))
    fresh.settle()
    time.sleep(1)
    pictures = [picture(one) for one in (page, fresh)]
    differ = np.abs(pictures[0] - pictures[1]).max(axis=2) > SAME
    return {
        "url": url.partition("#")[2],
        "same_url": fresh.driver.current_url == url,
        "pixels_differ": float(differ.mean()),
    }


def picture(page: Page) -> np.ndarray:
    """Return the screenshot (height, width, 3) as int."""
    return np.asarray(Image.open(BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")).astype(int)


def memory(page: Page) -> dict[str, int]:
    """Return the memory in bytes of the page's JavaScript, of its process, and of the GPU process."""
    page.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    page.driver.execute_cdp_cmd("Performance.enable", {})
    metrics = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    told = {"heap": next(int(m["value"]) for m in metrics if m["name"] == "JSHeapUsedSize")}
    for process in psutil.Process(page.driver.service.process.pid).children(recursive=True):
        kind = next((a.partition("=")[2] for a in process.cmdline() if a.startswith("--type=")), "browser")
        if kind in ("renderer", "gpu-process"):
            # What pages hold in shared memory counts for each: their largest is the page.
            told[kind] = max(told.get(kind, 0), process.memory_info().rss)
    return told


def shots(shown: Shown, folder: Path, views: dict[str, dict[str, Any]]) -> None:
    """Write screenshots of the page at three widths in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        shown.page.resize(*size, mobile=size[0] < 500)
        for theme in ("dark", "light"):
            shown.page.scheme(theme)
            for name, view in views.items():
                shown.page.open(shown.address, **view)
                shown.page.driver.get_screenshot_as_file(str(folder / f"{name}-{size[0]}-{theme}.png"))
    shown.page.resize(*SIZE)
