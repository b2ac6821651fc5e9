"""Make the pictures of the documentation, and the numbers that its pages quote, from newly computed maps.

python docs/make_images.py

Writes to docs/images/. Takes several minutes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import draw_architecture
import numpy as np
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import nomad_dask.layout.optimize as driver
from nomad_dask import Map, NomadProjection
from nomad_dask.callbacks import CheckpointWritten, Event
from nomad_dask.layout.checkpoint import checkpoint_file
from nomad_dask.metrics.scores import Scores, score
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.plotting.raster import draw

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
PACKAGES = DOCS.parent / "notebooks/packages.parquet"
METADATA_COLUMNS = ["name", "section", "text"]
PANEL = (640, 540)


def panels(name: str, *pictures: dict[str, Any]) -> None:
    """Draw pictures side by side; each is described by the arguments of `draw`."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            draw(**picture, size=PANEL, legend=False, path=Path(folder) / f"{i}.png")
            for i, picture in enumerate(pictures)
        ]
        images = [Image.open(file).convert("RGB") for file in files]
    columns = 2 if len(images) != 3 else 3
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * PANEL[0] + 4 * (columns - 1), rows * PANEL[1] + 4 * (rows - 1)), "#444a52")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (PANEL[0] + 4), i // columns * (PANEL[1] + 4)))
    save(sheet, name)


def save(image: Image.Image, name: str) -> None:
    image.quantize(256, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def columns(positions: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": positions[:, 0], "y": positions[:, 1]}


def hero(packages: Map) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = packages.plot(Path(folder) / "map.png", color="section", label_text="text", size=(1100, 900))
        save(Image.open(file).convert("RGB"), "packages.png")


def layout_over_time(sections: Any) -> None:
    """Draw the layout after several epochs, with a checkpoint after every one."""
    epochs, checkpoints = (1, 20, 60), {}
    driver._CHECKPOINT_SECONDS, driver._CHECKPOINT_COST, driver._BATCH_SECONDS = 0.0, 0, 0.0
    with tempfile.TemporaryDirectory() as workspace:

        def read_checkpoint(event: Event) -> None:
            if isinstance(event, CheckpointWritten) and event.epoch in epochs:
                checkpoints[event.epoch] = np.load(Path(workspace) / checkpoint_file(event.epoch, 0))[:, :2]

        nomad = NomadProjection(workspace=workspace, keep_stages=True, callbacks=[read_checkpoint]).fit(PACKAGES)
        rows = np.load(Path(workspace) / shard_file(0, "rows"))
    titles = {1: "after 1 epoch", 20: "after 20 epochs", 60: "after 60 epochs"}
    layouts = []
    for epoch, title in titles.items():
        positions = np.empty_like(nomad.embedding_)
        positions[rows] = checkpoints[epoch]
        layouts.append((positions, title))
    layouts.append((nomad.embedding_, f"after {nomad.diagnostics_['epochs']} epochs, the last"))
    panels("layout.png", *({**columns(p), "color": sections, "title": title} for p, title in layouts))


def cells_and_shards() -> None:
    """Draw cells, and the shards that they are assigned to."""
    with tempfile.TemporaryDirectory() as workspace:
        nomad = NomadProjection(n_shards=4, workspace=workspace, keep_stages=True).fit(PACKAGES)
        shards = np.empty(len(nomad.embedding_), "<U8")
        for s in range(4):
            shards[np.load(Path(workspace) / shard_file(s, "rows"))] = f"shard {s}"
    # Seven colors that color-blind readers can distinguish, assigned to the cells in turn.
    cells = np.char.add("cell ", (nomad.cell_labels_ % 7).astype(str))
    n_cells = nomad.cell_labels_.max() + 1
    xy = columns(nomad.embedding_)
    panels(
        "cells.png",
        {**xy, "color": cells, "title": f"{n_cells} cells in seven colors"},
        {**xy, "color": shards, "title": "the same cells in four shards"},
    )


def common_neighbors(a: np.ndarray, b: np.ndarray, k: int = 10) -> float:
    """Return the share of the k nearest rows that two layouts have in common."""
    neighbors = [NearestNeighbors(n_neighbors=k).fit(p).kneighbors(return_distance=False) for p in (a, b)]
    return float(np.mean([len(set(i) & set(j)) / k for i, j in zip(*neighbors, strict=True)]))


def values_of(scores: Scores) -> dict[str, float]:
    others = {
        "RTA": scores.triplets,
        "centroid triplets": scores.centroid_triplets,
        "rank correlation": scores.rank_correlation,
        "label accuracy": scores.labels,
    }
    np_at = {f"NP@{k}": estimate.value for k, estimate in scores.neighbors.items()}
    return np_at | {name: estimate.value for name, estimate in others.items() if estimate is not None}


def seeds(first: Map, sections: Any) -> dict[str, Any]:
    """Draw two maps of the same data with different seeds, and compare them."""
    maps = [first.positions, NomadProjection(random_state=1).fit_transform(PACKAGES)]
    panels(
        "seeds.png",
        *({**columns(p), "color": sections, "title": f"seed {seed}"} for seed, p in enumerate(maps)),
    )
    return {
        "common neighbors": common_neighbors(*maps),
        "scores": [values_of(score(PACKAGES, p, labels=sections)) for p in maps],
    }


def noise() -> dict[str, float]:
    """Draw maps of data without any structure, and score one."""
    data = np.random.default_rng(0).normal(size=(10_000, 48)).astype(np.float32)
    layout = NomadProjection().fit_transform(data)
    few = NomadProjection(n_neighbors=3).fit_transform(data)
    panels(
        "noise.png",
        {**columns(layout), "title": "noise, 15 neighbors"},
        {**columns(few), "title": "noise, 3 neighbors"},
    )
    return values_of(score(data, layout))


def widths() -> dict[str, Any]:
    """Draw groups in the plane with known widths and distances, and their map, and measure both."""
    rng = np.random.default_rng(0)
    names, centers, spread = ["narrow", "middle", "wide", "far"], [[0, 0], [25, 0], [70, 0], [400, 0]], [1, 3, 9, 3]
    data = np.concatenate([rng.normal(c, s, (2500, 2)) for c, s in zip(centers, spread, strict=True)])
    labels = np.repeat(names, 2500)
    layout = NomadProjection().fit_transform(data.astype(np.float32))
    panels(
        "widths.png",
        {**columns(data), "color": labels, "title": "four groups in the plane"},
        {**columns(layout), "color": labels, "title": "their map"},
    )

    def measure(positions: np.ndarray) -> dict[str, float]:
        middle = {n: np.median(positions[labels == n], axis=0) for n in names}
        width = {n: float(np.median(np.linalg.norm(positions[labels == n] - middle[n], axis=1))) for n in names}
        gap = {f"to {n}": float(np.linalg.norm(middle[n] - middle["middle"])) for n in ("narrow", "wide", "far")}
        return {n: w / width["middle"] for n, w in width.items()} | {n: g / gap["to narrow"] for n, g in gap.items()}

    return {"data": measure(data), "map": measure(layout)}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    draw_architecture.main()
    packages = NomadProjection(random_state=0).fit(PACKAGES, metadata_columns=METADATA_COLUMNS).map_
    sections = packages.table.column("section")
    hero(packages)
    figures = {"seeds": seeds(packages, sections), "noise": noise(), "widths": widths()}
    cells_and_shards()
    layout_over_time(sections)
    text = json.dumps(figures, indent=1, default=float)
    (IMAGES / "figures.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
