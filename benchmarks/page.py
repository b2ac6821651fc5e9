"""The page of a map in headless Chromium: loading time, frame rate, size and correctness.

    python -m benchmarks.page --map packages.parquet
    python -m benchmarks.page --rows 1e7 --dir /scratch --shots /tmp/shots

With `--rows` a map is generated as for the sites. The site is written by `nomad-dask export` and served by
`nomad-dask view`. Needs Chromium with its driver.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import page_tour as tour
from benchmarks.compare import machine, versions
from tests.helpers.browser import chromium
from tests.helpers.site_maps import write_map

HERE = Path(__file__).parent

NOMAD = str(Path(sys.executable).with_name("nomad-dask"))


@contextmanager
def viewed(site: Path) -> Iterator[str]:
    """Serve a site like users do, and yield its address."""
    with subprocess.Popen(
        [NOMAD, "view", str(site)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as view:
        try:
            assert view.stdout is not None
            yield view.stdout.readline().strip()
        finally:
            view.terminate()


def about(site: Path) -> dict[str, Any]:
    """Return the metadata of a site."""
    text = (site / "site.js").read_text()
    told: dict[str, Any] = json.loads(base64.b64decode(text.split('"')[3]))
    return told


def measure(path: Path, scratch: Path, shots: Path | None) -> dict[str, Any]:
    """Return all measurements of the page of one map."""
    site = scratch / "site"
    subprocess.run([NOMAD, "export", str(path), "-o", str(site), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    (scratch / "downloads").mkdir()
    with viewed(site) as address, chromium(scratch / "profile", size=tour.SIZE) as page:
        page.scheme("dark")
        shown = tour.Shown(page, address, pq.read_table(path), about(site), scratch / "downloads")
        rng = np.random.default_rng(0)
        dense = [tuple(shown.at[row]) for row in rng.integers(len(shown.at), size=3)]
        views = [(*shown.middle, 0.0), (*dense[0], 2.0), (*dense[1], 4.0), (*dense[2], 6.0)]
        result: dict[str, Any] = {"rows": len(shown.at), "browser": page.driver.capabilities["browserVersion"]}
        for name, step in {
            "first_picture": lambda: tour.first_picture(shown),
            "memory_at_first": lambda: tour.memory(page),
            "moving": lambda: tour.moving(shown, views),
            "wandering": lambda: tour.wandering(shown),
            "memory_later": lambda: tour.memory(page),
            "hovering": lambda: tour.hovering(shown),
            "searching": lambda: tour.searching(shown),
            "selecting": lambda: tour.selecting(shown, views),
        }.items():
            result[name] = step()
            print(name, result[name], file=sys.stderr)
        with chromium(scratch / "fresh", size=tour.SIZE) as fresh:
            fresh.scheme("dark")
            result["address"] = tour.changed_view(shown, fresh)
        print(result["address"], file=sys.stderr)
        # Screenshots make the software renderer say that it is slow.
        result["console"] = [line for line in page.console() if "ReadPixels" not in line]
        if shots is not None:
            row = int(rng.integers(len(shown.at)))
            word = str(shown.table.column(shown.about["search"]["columns"][0])[row].as_py()).split()[0]
            near = {"x": dense[0][0], "y": dense[0][1], "zoom": 4}
            asked = {"search": word, "pin": f"{row}.{row // 2}"}
            tour.shots(shown, shots, {"whole": {}, "near": near, "far": {**near, "zoom": 7}, "asked": asked})
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page."""
    host, first, hover, search = (result[k] for k in ("machine", "first_picture", "hovering", "searching"))
    later, mega = result["memory_later"], 1e6
    cards = hover["times"] - hover["nothing_near"]
    middle = {k: statistics.median(first[k]) / 1000 for k in ("picture", "points", "rest")}
    lines = [
        f"# The page of {result['name']}: {result['rows']:,} points",
        "",
        f"{result['date']}. Chromium {result['browser']}, headless, 1280 × 800, WebGL in software (SwiftShader) on "
        f"{host['cpu']}, {host['cores']} cores shared with other work. From loopback with an empty cache.",
        "",
        "| | |",
        "|---|---|",
        f"| first picture, median of {len(first['picture'])} | {middle['picture']:.2f} s "
        f"({first['picture'][0] / 1000:.2f} to {first['picture'][-1] / 1000:.2f}) |",
        f"| first points | {middle['points']:.2f} s |",
        f"| all that the first view wants | {middle['rest']:.2f} s: {first['requests']} requests, "
        f"{first['bytes'] / mega:.1f} MB, the largest {first['largest_request'] / 1000:,.0f} kB |",
        *(
            f"| dragging at zoom {one['zoom']:g} ({one['drawn']}) | {one['fps']:g} frames a second; slowest tenth "
            f"{one['slowest_tenth_fps']:g} |"
            for one in result["moving"]
        ),
        f"| random rows pointed at, at random zooms | {hover['right']} of {cards} cards right; "
        f"{hover['nothing_near']} times nothing was drawn near; where all is drawn, {hover['nearest_of_all']} of "
        f"{hover['all_drawn']} nearest of all rows within a pixel |",
        f"| words searched | {search['right']} of {search['times']} right, {search['ms']} ms typed to told |",
        *(
            f"| lasso at zoom {one['zoom']:g} | {one['rows']:,} rows, {one['differ']} differ from NumPy's, "
            f"{one['seconds']:g} s |"
            for one in result["selecting"]
        ),
        f"| address in a new browser | {'the same' if result['address']['same_url'] else 'another'}, "
        f"{result['address']['pixels_differ']:.2%} of pixels differ |",
        f"| JavaScript memory without the points, first view and after wandering | "
        f"{result['memory_at_first']['heap'] / mega:.0f} MB, {later['heap'] / mega:.0f} MB |",
        f"| memory of the process of the page | {result['memory_at_first']['renderer'] / mega:.0f} MB, "
        f"{later['renderer'] / mega:.0f} MB |",
        f"| messages in the console | {len(result['console'])} |",
        "",
        *(f"- {line}" for line in [*hover["wrong"], *search["wrong"], *result["console"]]),
        "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--map", type=Path, help="a map with a column of text")
    data.add_argument("--rows", type=lambda text: int(float(text)), help="make a map of so many rows")
    parser.add_argument("--dir", type=Path, help="where the site is made, and removed again")
    parser.add_argument("--shots", type=Path, help="write pictures of the page into this folder")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="nomad-page-", dir=args.dir) as folder:
        path, name = args.map, None if args.map is None else args.map.stem
        if path is None:
            path, name = Path(folder) / "map.parquet", f"{args.rows}"
            write_map(path, args.rows)
        measured = measure(path, Path(folder), args.shots)
    result = {"date": date.today().isoformat(), "name": name, "machine": machine(), **measured}
    result["versions"] = versions([], sys.executable)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"page-{name}-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
