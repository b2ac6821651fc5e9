"""A real Chromium, headless, for tests of the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.helpers.small_sites import Made

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    # Processes for pages to come, and pages kept alive that nobody goes back to, took a quarter of the time.
    "--disable-features=BackForwardCache,SpareRendererForSitePerProcess",
)
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MARGIN = 0.94  # share of the shorter side that the whole map takes at zoom 0


def missing() -> str | None:
    """Return what keeps the tests from a browser, or None."""
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)):
        if not any(map(shutil.which, names)):
            return f"There is no {names[0]} here (on Debian: apt-get install chromium chromium-driver)"
    return None


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port and yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # a connection for many files

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium(profile: Path, *flags: str, size: tuple[int, int] = (1280, 800)) -> Iterator[Page]:
    """Start a browser of its own profile; it is closed in the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(
        p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))
    )
    for flag in (*FLAGS, *(flags or SOFTWARE_GL), f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        page = Page(driver)
        page.resize(*size)
        yield page
    finally:
        driver.quit()


class Page:
    """The page in a browser, and what people do there."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str, **view: Any) -> None:
        """Open a site at a view, from new, and wait until all of it is drawn."""
        self.driver.get("about:blank")
        self.driver.get(f"{address}index.html" + (f"#{urlencode(view)}" if view else ""))
        self.wait(lambda: self.all(".surface, .fatal-error"))
        self.settle()

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.size = (width, height)

    def scheme(self, name: str) -> None:
        features = [
            {"name": "prefers-color-scheme", "value": name},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def wait(self, ready: Any, seconds: float = 30) -> Any:
        """Wait for something true and return it."""
        end = time.monotonic() + seconds
        while not (found := ready()):
            if time.monotonic() > end:
                raise TimeoutError(f"Not within {seconds} s; the console says {self.console()}")
            time.sleep(0.03)
        return found

    def settle(self) -> None:
        """Wait until the view is drawn and written into the address."""
        self.wait(lambda: self.all(".fatal-error") or self.one(".surface").get_attribute("aria-busy") == "false")
        time.sleep(0.3)
        self.wait(lambda: self.all(".fatal-error") or self.one(".surface").get_attribute("aria-busy") == "false")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def named(self, label: str) -> Any:
        """Return the element with a label."""
        return self.one(f'[aria-label="{label}"]')

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def text(self, selector: str) -> str:
        """Return the whole text of an element, also of what is clipped."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements at one moment: those of a list may be replaced between two questions."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText)"
        return list(self.run(script, selector))

    def console(self) -> list[str]:
        """Return the console messages since the last call."""
        return [json.dumps(entry) for entry in self.driver.get_log("browser")]

    def move_to(self, x: float, y: float) -> None:
        self._mouse("mouseMoved", x, y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._mouse(kind, x, y)

    def drag(self, path: list[tuple[float, float]], shift: bool = False) -> None:
        """Press at the first place, move along the others, release at the last."""
        self._mouse("mouseMoved", *path[0], shift)
        self._mouse("mousePressed", *path[0], shift)
        for place in path[1:]:
            self._mouse("mouseMoved", *place, shift, held=True)
        self._mouse("mouseReleased", *path[-1], shift)

    def touch(self, kind: str, *fingers: tuple[float, float]) -> None:
        """Send a touch event: ``touchStart``, ``touchMove`` or ``touchEnd``, the last without fingers."""
        points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(fingers)]
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def wheel(self, x: float, y: float, delta: float) -> None:
        event = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": delta}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def search(self, words: str, enter: bool = False) -> None:
        self.one("#search").clear()
        self.one("#search").send_keys(words + (Keys.ENTER if enter else ""))

    def _mouse(self, kind: str, x: float, y: float, shift: bool = False, held: bool = False) -> None:
        press = kind in ("mousePressed", "mouseReleased")
        event = {"type": kind, "x": x, "y": y, "modifiers": 8 if shift else 0, "clickCount": 1 if press else 0}
        event |= {"button": "left" if press or held else "none", "buttons": 1 if held or kind == "mousePressed" else 0}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    # Where things are

    def scale(self, side: float, zoom: float) -> float:
        """Return the pixels for one unit of a map."""
        return min(self.size) * MARGIN / side * 2.0**zoom

    def pixels(self, made: Made, at: np.ndarray, x: float, y: float, zoom: float) -> np.ndarray:
        """Return where positions (n, 2) are on the screen, in a view of a site."""
        offset = (at - [x, y]) * self.scale(made.extent[2], zoom) * [1, -1]
        return np.asarray(offset + np.array(self.size) / 2)

    def panels(self) -> list[tuple[str, float, float, float, float]]:
        """Return class, left, top, right and bottom of all panels in sight, without the card."""
        script = (
            "return [...document.querySelectorAll('.panel')].filter(p => p.offsetParent && p.id !== 'tooltip')"
            ".map(p => [p.className, p.getBoundingClientRect()])"
            ".map(([c, b]) => [c, b.left, b.top, b.right, b.bottom])"
        )
        return [tuple(panel) for panel in self.run(script)]

    def on_the_map(self, pixels: np.ndarray) -> np.ndarray:
        """Tell which pixels (n, 2) lie on the map itself, not under panels nor at the edge."""
        free = ((pixels > 20) & (pixels < np.array(self.size) - 20)).all(axis=1)
        for _, left, top, right, bottom in self.panels():
            free &= ~((pixels >= [left - 5, top - 5]) & (pixels <= [right + 5, bottom + 5])).all(axis=1)
        return np.asarray(free)

    def choose_color(self, i: int) -> None:
        """Choose an entry of the colour columns."""
        script = "const c = document.querySelector('#color'); c.selectedIndex = arguments[0];"
        self.run(script + "c.dispatchEvent(new Event('change'))", i)

    def inks(self) -> set[str]:
        """Return the colors of the legend of which the map has many pixels."""
        pixels = np.asarray(Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")).astype(int)[
            130:, 340:1000
        ]
        found = set()
        for swatch in self.all(".swatch"):
            color = swatch.value_of_css_property("background-color")
            rgb = np.array([int(v) for v in color.partition("(")[2].rstrip(")").split(",")[:3]])
            # Points let a little of the ground through.
            ground = np.array([16, 19, 24])
            share = np.clip(((pixels - ground) @ (rgb - ground)) / ((rgb - ground) ** 2).sum(), 0, 1)[..., None]
            near = np.abs(ground + share * (rgb - ground) - pixels).max(axis=2) < 12
            if (near & (share[..., 0] > 0.6)).sum() > 300:
                found.add(color)
        return found
