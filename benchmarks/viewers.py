"""Compare viewers of large maps in one browser: first picture, frames while panning, bytes on disk.

    python -m venv peers && peers/bin/pip install embedding-atlas datamapplot jupyter-scatter jupyterlab quadfeather
    npm install --prefix web deepscatter deck.gl@9.1 apache-arrow d3 jquery@3.7.1
    python -m benchmarks.viewers --peers-python peers/bin/python --modules web/node_modules --rows 1e6 1e7

Needs Chromium with its driver, and nomad-dask with its `dev` extra. deepscatter is measured here and used nowhere else:
its license forbids commercial use, and quadfeather, which makes its tiles, has none. All display the same maps
(`sites.write_map`). The result is written after every viewer.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium.common.exceptions import TimeoutException

from benchmarks.compare import machine
from benchmarks.viewer_peers import VIEWERS, Peers, Viewer
from tests.helpers.browser import SOFTWARE_GL, Page, chromium, served
from tests.helpers.site_maps import write_map

HERE = Path(__file__).parent

SIZE = (1280, 800)
MIDDLE = {"x": 340, "y": 150, "width": 600, "height": 500}  # what is watched: no panels lie there
UNLIKE, SHARE = 6, 0.01  # a picture: such a share of pixels differ from the ground by more than that
CALM_S = 4.0  # seconds without change after which all is drawn
PAN_S = 5.0
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
COUNT = """
const seen = window.framesSeen = [];
const tick = at => { seen.push(at); if (seen !== window.framesSeen) return; requestAnimationFrame(tick); };
requestAnimationFrame(tick);
"""
IDLE = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
OTHERS = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => /^http/.test(n))"


def middle(page: Page) -> np.ndarray:
    """Return a screenshot of the center of the page, uint8 (height, width, 3)."""
    shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": {**MIDDLE, "scale": 0.5}})
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))


def taken(seen: np.ndarray) -> float:
    """Return the share of pixels that do not have the most frequent color."""
    colors, counts = np.unique(seen.astype(np.int32) @ [1 << 16, 1 << 8, 1], return_counts=True)
    ground = np.array([colors[counts.argmax()] >> shift & 255 for shift in (16, 8, 0)])
    return float((np.abs(seen - ground).max(axis=2) > UNLIKE).mean())


def changed(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.abs(a.astype(int) - b).max(axis=2) > 2 * UNLIKE).mean() > 1e-3)


def watched(page: Page, began: float, limit: float, empty: float, picture: Path) -> dict[str, float | None]:
    """Return the seconds until a picture appeared, which is saved, and until it no longer changed."""
    first, last, before = None, 0.0, None
    while (at := time.monotonic() - began) < limit:
        try:
            seen = middle(page)
        except TimeoutException:  # too busy to be looked at
            continue
        at = time.monotonic() - began
        if before is None or changed(seen, before):
            last, before = at, seen
        if first is None and taken(seen) > empty + SHARE:
            first = at
            Image.fromarray(seen).save(picture)
        if first is not None and at - last > CALM_S:
            return {"first_s": round(first, 2), "all_s": round(last, 2)}
        time.sleep(0.05)
    return {"first_s": None if first is None else round(first, 2), "all_s": None}


def panned(page: Page) -> dict[str, Any]:
    """Return the frames per second while the map is dragged, and the longest frame."""
    before = middle(page)
    x, y = MIDDLE["x"] + MIDDLE["width"] / 2, MIDDLE["y"] + MIDDLE["height"] / 2
    page._mouse("mouseMoved", x, y)
    page._mouse("mousePressed", x, y)
    page.run(COUNT)
    began = time.monotonic()
    while (at := time.monotonic() - began) < PAN_S:
        page._mouse("mouseMoved", x + 120 * np.sin(at * 2.5), y + 80 * np.sin(at * 4), held=True)
        time.sleep(1 / 120)
    frames = np.array(page.run("const seen = window.framesSeen; window.framesSeen = []; return seen"))
    moved = changed(middle(page), before)
    page._mouse("mouseReleased", x, y)
    waits = np.diff(frames) if len(frames) > 1 else np.array([PAN_S * 1000])
    return {
        "frames_per_s": round(1000 / float(waits.mean()), 1),
        "longest_ms": round(float(waits.max())),
        "moved": moved,
    }


@contextmanager
def in_lab(folder: Path, peers: Peers) -> Iterator[str]:
    """Serve a folder with JupyterLab."""
    options = ["--ServerApp.token=", "--ServerApp.password=", "--no-browser", "--allow-root", "--port=0"]
    told = folder / "lab.log"
    with told.open("w") as log:
        lab = subprocess.Popen(
            [peers.tool("jupyter-lab"), "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1", *options],
            cwd=folder,
            stderr=log,
            stdout=log,
        )
        try:
            end = time.monotonic() + 300
            while not (found := [w for w in told.read_text().split() if w.startswith("http://127.0.0.1:")]):
                if time.monotonic() > end:
                    raise RuntimeError(f"JupyterLab did not start: {told.read_text()[-300:]}")
                time.sleep(0.2)
            yield found[0].partition("/lab")[0].rstrip("/") + "/"
        finally:
            lab.terminate()
            lab.wait()


def look(viewer: Viewer, folder: Path, entry: str, peers: Peers, limit: float, picture: Path) -> dict[str, Any]:
    """Open the output in a fresh browser and measure it."""
    host = in_lab(folder, peers) if viewer.in_notebook else served(folder)
    with (
        host as address,
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile), *SOFTWARE_GL, NO_NETWORK, size=SIZE) as page,
    ):
        page.driver.set_page_load_timeout(limit)
        page.driver.set_script_timeout(limit)
        began, empty = time.monotonic(), 0.0
        page.driver.get(address + entry)
        if viewer.in_notebook:
            # What counts begins when the cell is run.
            page.wait(lambda: page.run(IDLE), 300)
            began, empty = time.monotonic(), taken(middle(page))
            page.run("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        result: dict[str, Any] = watched(page, began, limit, empty, picture.with_suffix(".first.png"))
        page.driver.save_screenshot(str(picture))
        if result["first_s"] is not None:
            result |= panned(page)
        result["heap_mb"] = round(page.run("return performance.memory.usedJSHeapSize") / 1e6)
        others = [name for name in page.run(OTHERS) if not name.startswith(address)]
        console = [json.loads(line)["message"] for line in page.console() if json.loads(line)["level"] == "SEVERE"]
        return result | {"others": sorted(set(others))[:10], "console": [line[:300] for line in console[:5]]}


def measure(name: str, path: Path, peers: Peers, home: Path, limit: float, repeats: int, pictures: Path) -> dict:
    """Return the measurements of a viewer: the best of several visits, as the machine may be busy."""
    viewer = VIEWERS[name]
    result: dict[str, Any] = {"viewer": name, "license": viewer.license, "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory(dir=home) as made:
        folder = Path(made)
        began = time.monotonic()
        try:
            entry = viewer.make(path, folder, peers)
            result["make_s"] = round(time.monotonic() - began, 1)
            on_disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            result["bytes"] = path.stat().st_size if viewer.in_notebook else on_disk
            visits = [
                look(viewer, folder, entry, peers, limit, pictures / f"{name}-{path.stem}.png") for _ in range(repeats)
            ]
        except Exception as error:  # noqa: BLE001 - that a viewer fails is a result
            return result | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
    result["visits"] = visits
    if not any(visit.get("moved") for visit in visits):
        said = [line for visit in visits for line in visit["console"] if "favicon" not in line]
        return result | {"error": "no map that could be moved" + "".join(f"; {line}" for line in dict.fromkeys(said))}
    for key, best in (("first_s", min), ("all_s", min), ("frames_per_s", max), ("longest_ms", min), ("heap_mb", min)):
        known = [visit[key] for visit in visits if visit.get(key) is not None]
        result[key] = best(known) if known else None
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page."""
    host = result["machine"]
    lines = [
        "# Viewers of large maps",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. "
        f"{result['browser']}, headless, {SIZE[0]} × {SIZE[1]}, drawn by SwiftShader: no graphics card.",
    ]
    for n in sorted({run["rows"] for run in result["runs"]}):
        lines += [
            "",
            f"## {n:,} points",
            "",
            "| | first picture | all drawn | frames/s, panning | longest frame | on disk | made in | script heap |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for run in (r for r in result["runs"] if r["rows"] == n):
            lines.append(f"| {run['viewer']} | " + " | ".join(_cells(run)) + " |")
    told = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return "\n".join([*lines, "", f"Versions: {told}.", ""])


def _cells(run: dict[str, Any]) -> list[str]:
    if "error" in run:
        return [f"did not run: {run['error']}".replace("|", "¦"), *[""] * 6]

    def told(key: str, unit: str) -> str:
        return "–" if run.get(key) is None else f"{run[key]:,} {unit}".strip()

    return [
        told("first_s", "s"),
        told("all_s", "s"),
        told("frames_per_s", ""),
        told("longest_ms", "ms"),
        f"{run['bytes'] / 1e6:,.0f} MB",
        told("make_s", "s"),
        told("heap_mb", "MB"),
    ]


def versions(peers: Peers) -> dict[str, str]:
    """Return the versions of the viewers."""
    from importlib.metadata import version

    names = [v.package for v in VIEWERS.values() if v.package not in ("nomad-dask", "deepscatter")] + ["jupyterlab"]
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = subprocess.run([str(peers.python), "-c", code, *names], check=True, capture_output=True, text=True)
    web = {
        n: json.loads((peers.modules / n / "package.json").read_text())["version"] for n in ("deepscatter", "deck.gl")
    }
    return {"nomad-dask": version("nomad-dask"), **dict(zip(names, told.stdout.split(), strict=True)), **web}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(float(text)), nargs="+", default=[1_000_000])
    parser.add_argument("--viewers", nargs="+", choices=VIEWERS, default=list(VIEWERS))
    parser.add_argument("--peers-python", type=Path, required=True, help="a Python that has the other viewers")
    parser.add_argument("--modules", type=Path, required=True, help="npm's folder node_modules")
    parser.add_argument("--repeats", type=int, default=3, help="visits of each page; the best counts")
    parser.add_argument("--limit", type=float, default=120, help="seconds to wait for a page")
    parser.add_argument("--dir", type=Path, help="where maps and pages are made, and removed again")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots, to see what was measured")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args()

    # A symbolic link to an interpreter names the environment: it is not to be followed.
    peers = Peers(args.peers_python.absolute(), args.modules.absolute())
    seen = subprocess.run(["chromium", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    today = date.today().isoformat()
    file = args.out / f"viewers-{today}.json"
    result: dict[str, Any] = {"date": today, "machine": machine()}
    result |= {"browser": seen, "versions": versions(peers), "runs": []}
    if file.exists():
        result["runs"] = json.loads(file.read_text())["runs"]
    with tempfile.TemporaryDirectory(prefix="nomad-viewers-", dir=args.dir) as scratch:
        home = Path(scratch)
        for n in args.rows:
            path = home / f"{n}.parquet"
            write_map(path, n)
            for name in args.viewers:
                pictures = args.pictures or home
                pictures.mkdir(parents=True, exist_ok=True)
                run = measure(name, path, peers, home, args.limit, args.repeats, pictures) | {"rows": n}
                print(run, file=sys.stderr, flush=True)
                kept = [r for r in result["runs"] if (r["rows"], r["viewer"]) != (n, name)]
                result["runs"] = sorted([*kept, run], key=lambda r: (r["rows"], list(VIEWERS).index(r["viewer"])))
                args.out.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(result, indent=1) + "\n")
                file.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
