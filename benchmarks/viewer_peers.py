"""Generate the output of each viewer for a map; the peers' part of `viewers.py`.

Each function takes the map, an empty folder and the installations of the peers, writes the files for a browser, and
returns the name of the page in the folder. Each viewer is used as its guide describes, with its defaults.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_S = 1800  # that making a page may take
# Where datamapplot's pages get their libraries, and the same files of the same versions in npm's packages.
_CDN = {
    "https://unpkg.com/deck.gl@9.1/dist.min.js": "deck.gl/dist.min.js",
    "https://unpkg.com/apache-arrow@latest/Arrow.es2015.min.js": "apache-arrow/Arrow.es2015.min.js",
    "https://unpkg.com/d3@latest/dist/d3.min.js": "d3/dist/d3.min.js",
    "https://unpkg.com/jquery@3.7.1/dist/jquery.min.js": "jquery/dist/jquery.min.js",
}
_LARGE = 2_000_000  # rows from which datamapplot's guide keeps the data beside the page, not in it
_DATAMAPPLOT = """
import sys
from pathlib import Path
import datamapplot, numpy as np, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
found = datamapplot.create_interactive_plot(
    np.stack([table["x"], table["y"]], axis=1), np.array(table["section"].to_pylist()),
    hover_text=table["name"].to_pylist(), **eval(sys.argv[3]),
)
found.save(sys.argv[2])
"""
_DEEPSCATTER = """<!doctype html><meta charset="utf-8"><body style="margin: 0"><div id="map"></div>
<script type="module">
import Scatterplot from "./deepscatter.js";
const plot = new Scatterplot("#map", innerWidth, innerHeight);
plot.plotAPI({
  source_url: new URL("tiles", location.href).href,
  // As in its smallest example; by itself it draws a thousand points.
  max_points: 1000000, alpha: 25, zoom_balance: 0.7, point_size: 5,
  background_color: "#101318",
  encoding: {
    x: { field: "x", transform: "literal" },
    y: { field: "y", transform: "literal" },
    color: { field: "cell", range: "viridis", domain: [0, 1000] },
  },
});
</script>
"""
_SCATTER = """import pandas as pd
import jscatter
found = pd.read_parquet({path!r})
jscatter.plot(data=found, x="x", y="y", color_by="section", height=600)"""


@dataclass(frozen=True)
class Peers:
    """The installations of the other viewers: a Python environment, and npm's folder of packages."""

    python: Path
    modules: Path

    def tool(self, name: str) -> str:
        return str(self.python.with_name(name))


def _run(*command: str) -> None:
    """Run a command; the end of its output is the error if it fails.

    Raises
    ------
    RuntimeError
        It failed, or took more than half an hour.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_S)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"not made in {MOST_S} s") from error
    if done.returncode < 0:
        raise RuntimeError(f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RuntimeError(last[-1] if last else f"ended by {done.returncode}, without a word")


def nomad_dask(path: Path, folder: Path, peers: Peers) -> str:
    _run(str(Path(sys.executable).with_name("nomad-dask")), "export", str(path), "-o", str(folder), "--overwrite")
    return "index.html"


def embedding_atlas(path: Path, folder: Path, peers: Peers) -> str:
    columns = ["--x", "x", "--y", "y", "--text", "name", "--disable-projection"]
    _run(peers.tool("embedding-atlas"), str(path), *columns, "--export-application", str(folder))
    return "index.html"


def datamapplot(path: Path, folder: Path, peers: Peers) -> str:
    import pyarrow.parquet as pq

    large = pq.read_metadata(path).num_rows > _LARGE
    how = {"inline_data": False, "offline_data_path": str(folder / "data")} if large else {}
    _run(str(peers.python), "-c", _DATAMAPPLOT, str(path), str(folder / "index.html"), repr(how))
    page = (folder / "index.html").read_text()
    for address, file in _CDN.items():
        if address in page:
            shutil.copy(peers.modules / file, folder / Path(file).name)
            page = page.replace(address, Path(file).name)
    (folder / "index.html").write_text(page)
    return "index.html"


def deepscatter(path: Path, folder: Path, peers: Peers) -> str:
    tiles = ["--tile_size", "50000", "--destination", str(folder / "tiles")]
    _run(peers.tool("quadfeather"), "--files", str(path), *tiles)
    _copy_children_into_tiles(folder / "tiles")
    shutil.copy(peers.modules / "deepscatter/dist/deepscatter.js", folder)
    (folder / "index.html").write_text(_DEEPSCATTER)
    return "index.html"


def _copy_children_into_tiles(tiles: Path) -> None:
    """Copy metadata into each tile, where deepscatter 2.15 expects them; quadfeather 2.3 writes a separate file."""
    import pyarrow.feather as feather

    listed = feather.read_table(tiles / "manifest.feather").to_pylist()
    children: dict[str, list[str]] = {tile["key"]: [] for tile in listed}
    for key in children:
        level, x, y = map(int, key.split("/"))
        if level:
            children[f"{level - 1}/{x // 2}/{y // 2}"].append(key)
    for tile in listed:
        file = tiles / f"{tile['key']}.feather"
        told = {"extent": tile["extent"], "children": json.dumps(children[tile["key"]])}
        # deepscatter reads the first record batch only.
        table = feather.read_table(file, memory_map=False).combine_chunks().replace_schema_metadata(told)
        feather.write_feather(table, str(file), compression="uncompressed", chunksize=max(1, len(table)))


def jupyter_scatter(path: Path, folder: Path, peers: Peers) -> str:
    cell = {"cell_type": "code", "id": "map", "metadata": {}, "execution_count": None, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [cell | {"source": _SCATTER.format(path=str(path))}]
    book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "map.ipynb").write_text(json.dumps(book))
    return "lab/tree/map.ipynb"


@dataclass(frozen=True)
class Viewer:
    """A viewer: how to make its page, its packages, and its license."""

    make: Callable[[Path, Path, Peers], str]
    package: str
    license: str
    in_notebook: bool = False


VIEWERS = {
    "nomad-dask": Viewer(nomad_dask, "nomad-dask", "Apache-2.0"),
    "embedding-atlas": Viewer(embedding_atlas, "embedding-atlas", "MIT"),
    "deepscatter": Viewer(deepscatter, "deepscatter", "CC BY-NC-SA 4.0; quadfeather: none"),
    "datamapplot": Viewer(datamapplot, "datamapplot", "MIT"),
    "jupyter-scatter": Viewer(jupyter_scatter, "jupyter-scatter", "Apache-2.0", in_notebook=True),
}
