"""Compare the neighbor search with pynndescent, faiss and scikit-learn: recall, CPU seconds, wall time and memory.

    python -m benchmarks.neighbors --data packages --seeds 0 1 2 --peers-python PEERS/bin/python

Every search is a fresh process that has searched a few thousand rows before, so that compiled code is loaded. The order
of the searches rotates with every seed. Recall is that of the same rows, whose neighbors are computed in float64.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare, datasets

HERE = Path(__file__).parent
K, N_QUERIES = 15, 2000
# Settings to try: CPU seconds at a recall are interpolated between them.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "nomad_dask": [{"target_recall": 0.9}, {"target_recall": 0.95}, {"target_recall": 0.98}],
    "pynndescent": [{"n_iters": 2}, {"n_iters": 3}, {}, {"n_neighbors": 24}],
    "faiss-ivf": [{"nprobe": 4}, {"nprobe": 16}, {"nprobe": 64}],
    "faiss-nndescent": [{"n_iter": 6}, {"n_iter": 10}],
    "faiss-hnsw": [{"efSearch": 48}, {"efSearch": 128}],
    "sklearn-brute": [{}],
}
DISTRIBUTIONS = {"pynndescent": "pynndescent", "faiss": "faiss-cpu", "sklearn": "scikit-learn"}


def brute_force(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the true squared distance (m,) float64 of each query to its `K`-th neighbor."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    norms = np.einsum("ij,ij->i", centered, centered)
    limits = np.empty(len(queries))
    for start in range(0, len(queries), 200):
        part = queries[start : start + 200]
        squared = norms[part, None] + norms - 2 * centered[part] @ centered.T
        squared[np.arange(len(part)), part] = np.inf
        limits[start : start + 200] = np.partition(squared, K - 1, axis=1)[:, K - 1]
    return limits


def recall(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, limits: np.ndarray) -> float:
    """Return the share of the true neighbors among the ids (m, at least `K`) of each query; ties count as found."""
    found = 0
    for query, near, limit in zip(queries, ids, limits, strict=True):
        others = np.unique(near[(near >= 0) & (near != query)])
        squared = ((rows[others].astype(np.float64) - rows[query].astype(np.float64)) ** 2).sum(axis=1)
        found += min(int((squared <= limit * (1 + 1e-6)).sum()), K)
    return found / (K * len(queries))


def machine_python(method: str, peers_python: str) -> str:
    """Return the interpreter that runs a method."""
    return sys.executable if method == "nomad_dask" else peers_python


def measure(method: str, settings: dict[str, Any], npy: Path, seed: int, python: str, scratch: Path) -> dict[str, Any]:
    """Run one search in a process of its own and return its cost, with its ids in ``scratch/ids.npy``."""
    command = [python, str(HERE / "neighbor_peers.py"), method, str(npy), str(scratch), str(seed), json.dumps(settings)]
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cost: dict[str, Any] = json.loads((scratch / "cost.json").read_text())
    return cost


def at_recall(points: list[tuple[float, float]], target: float) -> float | None:
    """Return the CPU seconds at a recall, by interpolation between (recall, CPU seconds); None outside of them."""
    points = sorted(points)
    for (low, a), (high, b) in itertools.pairwise(points):
        if low <= target <= high:
            share = (
                0.0
                if high == low
                else (np.log(1 - low) - np.log(1 - target)) / (np.log(1 - low) - np.log(max(1 - high, 1e-6)))
            )
            return float(a + share * (b - a))
    return None


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page: one row per method and setting, medians over the seeds."""
    data, host = result["data"], result["machine"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault((run["method"], json.dumps(run["settings"])), []).append(run)
    lines = [
        f"# Neighbors: {data['name']}, {data['rows']:,} rows of {data['dims']} dimensions",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. {K} neighbors, recall of "
        f"{N_QUERIES:,} rows. Medians over seeds {', '.join(map(str, result['seeds']))}; the range of CPU seconds in "
        "brackets. The load of the machine by other processes is not excluded.",
        "",
        "| method | settings | recall | CPU s | wall s | peak GB |",
        "|---|---|---|---|---|---|",
    ]
    curves: dict[str, list[tuple[float, float]]] = {}
    for (method, settings), runs in groups.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in ("recall", "cpu_s", "wall_s", "peak_gb")}
        curves.setdefault(method, []).append((middle["recall"], middle["cpu_s"]))
        cpu = [run["cpu_s"] for run in runs]
        named = ", ".join(f"{key}={value}" for key, value in json.loads(settings).items())
        lines.append(
            f"| {method} | {named} | {middle['recall']:.4f} | {middle['cpu_s']:.1f} ({min(cpu):.1f}–{max(cpu):.1f}) "
            f"| {middle['wall_s']:.1f} | {middle['peak_gb']:.2f} |"
        )
    lines += ["", "CPU seconds at recall 0.95, between the settings above:", "", "| method | CPU s |", "|---|---|"]
    for method, points in curves.items():
        seconds = at_recall(points, 0.95)
        lines.append(f"| {method} | {'outside of its settings' if seconds is None else f'{seconds:.1f}'} |")
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def versions(methods: list[str], peers_python: str) -> dict[str, str]:
    """Return the versions of the packages that are compared."""
    names = sorted({DISTRIBUTIONS[m.split("-")[0]] for m in methods if m != "nomad_dask"} | {"numba", "numpy"})
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    output = subprocess.run([peers_python, "-c", code, *names], check=True, capture_output=True, text=True).stdout
    return compare.versions([], peers_python) | {
        f"{name} (peers)": found for name, found in zip(names, output.split(), strict=True)
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="packages", help=f"{', '.join(datasets.NAMES)}, or a file")
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nomad-neighbors-") as folder:
        scratch = Path(folder)
        data = compare.load(args.data, None, None, scratch)
        rows = np.load(data.npy, mmap_mode="r")
        queries = np.sort(np.random.default_rng(1).choice(len(rows), min(N_QUERIES, len(rows)), replace=False))
        limits = brute_force(np.asarray(rows), queries)
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": compare.machine(),
            "versions": versions(args.methods, args.peers_python),
            "data": {"name": data.name, "rows": len(rows), "dims": rows.shape[1]},
            "seeds": args.seeds,
            "runs": [],
        }
        searches = [(method, settings) for method in args.methods for settings in SETTINGS[method]]
        args.out.mkdir(parents=True, exist_ok=True)
        stem = f"neighbors-{data.name}-{result['date']}"
        for turn, seed in enumerate(args.seeds):
            first = turn * len(searches) // len(args.seeds)
            for method, settings in searches[first:] + searches[:first]:
                python = machine_python(method, args.peers_python)
                cost = measure(method, settings, data.npy, seed, python, scratch)
                cost["recall"] = recall(rows, queries, np.load(scratch / "ids.npy")[queries], limits)
                result["runs"].append({"method": method, "settings": settings, "seed": seed} | cost)
                (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
                (args.out / f"{stem}.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
