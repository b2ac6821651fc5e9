"""Place rows that were held out on a finished map, beside the transform of umap-learn and of openTSNE, in one run.

    python -m benchmarks.transform --data packages

A tenth of the rows is held out. Every method maps the others with its defaults and then transforms these, in a process
of its own, on all cores; it has compiled its functions on a few rows before. New rows are scored by how many of the
nearest fitted rows, by vector, are among the nearest by position, and by whether these have their label; a sample of
the fitted rows is scored in the same way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import HERE, PEERS, WARM_ROWS, load, machine, versions

KS = (10, 15, 50)
N_SCORED = 5000
_LABEL_NEIGHBORS = 10
Transform = Callable[[np.ndarray], np.ndarray]


def fit_nomad(X: np.ndarray, seed: int) -> tuple[np.ndarray, Transform]:
    from nomad_dask import NomadProjection

    nomad = NomadProjection(random_state=seed).fit(X)
    return nomad.embedding_, nomad.transform


def fit_open_tsne(X: np.ndarray, seed: int) -> tuple[np.ndarray, Transform]:
    from openTSNE import TSNE

    embedding = TSNE(n_jobs=-1, random_state=seed).fit(X)
    return np.asarray(embedding), lambda new: np.asarray(embedding.transform(new))


def fit_umap(X: np.ndarray, seed: int) -> tuple[np.ndarray, Transform]:
    from umap import UMAP

    np.random.seed(seed)  # noqa: NPY002 - random_state= would limit UMAP to one thread
    umap = UMAP(n_jobs=-1).fit(X)
    return umap.embedding_, umap.transform


METHODS = {"nomad": fit_nomad, "openTSNE": fit_open_tsne, "umap-learn": fit_umap}


def fit_and_transform(method: str, folder: Path, seed: int) -> None:
    """Fit and transform the vectors in a folder, and write the positions and what each step took."""
    fitted, new = np.load(folder / "fitted.npy"), np.load(folder / "new.npy")
    METHODS[method](fitted[:WARM_ROWS], seed)[1](new[:100])
    clocks = [(time.process_time(), time.perf_counter())]
    positions, transform = METHODS[method](fitted, seed)
    clocks.append((time.process_time(), time.perf_counter()))
    placed = transform(new)
    clocks.append((time.process_time(), time.perf_counter()))
    np.savez(folder / "positions.npz", fitted=positions, new=placed)
    cost = np.diff(clocks, axis=0).round(3)
    names = ("fit_cpu_s", "fit_wall_s", "transform_cpu_s", "transform_wall_s")
    (folder / "cost.json").write_text(json.dumps(dict(zip(names, cost.ravel().tolist(), strict=True))))


def nearest(queries: np.ndarray, rows: np.ndarray, k: int, own: np.ndarray | None = None) -> np.ndarray:
    """Return the k nearest rows of each query by brute force; `own` are the numbers of the queries among the rows."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    norms = np.einsum("ij,ij->i", rows, rows)
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 256):
        part = slice(start, start + 256)
        distances = norms - 2 * queries[part] @ rows.T
        if own is not None:
            distances[np.arange(len(distances)), own[part]] = np.inf
        candidates = np.argpartition(distances, k, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distances, candidates, axis=1), axis=1)
        found[part] = np.take_along_axis(candidates, order, axis=1)
    return found


def scores(true: np.ndarray, found: np.ndarray, labels: np.ndarray, own_labels: np.ndarray) -> dict[str, float]:
    """Return the share of true neighbors that are kept for each k, and the share of rows whose neighbors agree."""
    kept = {
        f"NP@{k}": float(np.mean([len(np.intersect1d(a[:k], b[:k])) / k for a, b in zip(true, found, strict=True)]))
        for k in KS
    }
    votes = labels[found[:, :_LABEL_NEIGHBORS]]
    winners = np.array([np.bincount(vote).argmax() for vote in votes])
    return kept | {"label acc": float((winners == own_labels).mean())}


def run(method: str, folder: Path, seed: int, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the cost and the scores of one method."""
    module = [sys.executable, "-m", "benchmarks.transform", "--one", method, str(folder), str(seed)]
    subprocess.run(module, check=True, stdout=subprocess.DEVNULL)
    maps, cost = np.load(folder / "positions.npz"), json.loads((folder / "cost.json").read_text())
    labels, sample, of_new = truth["labels"], truth["sample"], truth["new_sample"]
    for_new = nearest(maps["new"][of_new], maps["fitted"], max(KS))
    for_fitted = nearest(maps["fitted"][sample], maps["fitted"], max(KS), sample)
    return {
        "method": method,
        "seed": seed,
        **cost,
        "new": scores(truth["new"], for_new, labels, truth["new_labels"][of_new]),
        "fitted": scores(truth["fitted"], for_fitted, labels, labels[sample]),
    }


def prepare(X: np.ndarray, labels: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Write the two parts of the rows, and return the true neighbors of those that are scored, and all labels."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    new, fitted = np.split(order, [len(X) // 10])
    np.save(folder / "fitted.npy", X[fitted])
    np.save(folder / "new.npy", X[new])
    codes = np.unique(labels, return_inverse=True)[1]
    sample = np.sort(rng.choice(len(fitted), min(N_SCORED, len(fitted)), replace=False))
    new_sample = np.arange(min(N_SCORED, len(new)))
    return {
        "labels": codes[fitted],
        "new_labels": codes[new],
        "sample": sample,
        "new_sample": new_sample,
        "fitted": nearest(X[fitted][sample], X[fitted], max(KS), sample),
        "new": nearest(X[new][new_sample], X[fitted], max(KS)),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    data, host = result["data"], result["machine"]
    names = [f"NP@{k}" for k in KS] + ["label acc"]
    lines = [
        f"# transform on {data['name']}: {data['new']:,} new rows on a map of {data['fitted']:,}, "
        f"{data['dims']} dimensions",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. Scores of new rows, and in "
        "brackets of fitted ones.",
        "",
        "| method | seed | fit CPU s | transform CPU s | " + " | ".join(names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for one in result["runs"]:
        cells = [f"{one['new'][name]:.3f} ({one['fitted'][name]:.3f})" for name in names]
        cost = f"{one['fit_cpu_s']:.1f} | {one['transform_cpu_s']:.1f}"
        lines.append(f"| {one['method']} | {one['seed']} | {cost} | " + " | ".join(cells) + " |")
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        method, folder, seed = sys.argv[2:]
        fit_and_transform(method, Path(folder), int(seed))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="packages", help="as in benchmarks.compare; it must have labels")
    parser.add_argument("--labels", help="of a file: a .npy file or a column")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nomad-transform-") as name:
        folder = Path(name)
        data = load(args.data, args.labels, None, folder)
        assert data.labels is not None
        X = np.load(data.npy)
        truth = prepare(X, np.asarray(data.labels).astype(str), folder)
        counts = {"fitted": len(truth["labels"]), "new": len(truth["new_labels"]), "dims": X.shape[1]}
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions([m for m in args.methods if m in PEERS], sys.executable),
            "data": {"name": data.name} | counts,
            "runs": [],
        }
        stem = f"transform-{data.name}-{result['date']}"
        for seed in args.seeds:
            for method in args.methods:
                result["runs"].append(run(method, folder, seed, truth))
                (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
                (args.out / f"{stem}.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
