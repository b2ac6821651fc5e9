"""How cost and quality go with the number of shards, and of worker processes on the same cores.

    python -m benchmarks.scaling shards --data fashion --shards 1 2 4 8 16 --workers 1 2 4 1 1
    python -m benchmarks.scaling workers --data paths200k --workers 1 2 4 --repeats 3

Every fit is a fresh process, compiled code cached; measured and scored as in `compare.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.compare import Data, command, load, machine, measured, scored

RESULTS = Path(__file__).parent / "results"


def fit(data: Data, scratch: Path, options: list[str]) -> dict[str, Any]:
    """Make one map with additional options, and return its cost and quality."""
    out = scratch / "map.parquet"
    cost = measured([*command("nomad", data, out, 0, sys.executable), "--overwrite", *options], scratch)
    scores = scored(data, out)
    return cost | {f"NP@{k}": v["value"] for k, v in scores["neighbors"].items()} | {"RTA": scores["triplets"]["value"]}


def by_shards(name: str, shards: list[int], workers: list[int], scratch: Path) -> list[dict[str, Any]]:
    """Fit the data with several numbers of shards; several workers are separate processes."""
    data = load(name, None, None, scratch)
    fit(data, scratch, ["--epochs", "2"])
    results = []
    for s, w in zip(shards, workers, strict=True):
        row = {"shards": s, "workers": w} | fit(data, scratch, ["--shards", str(s), "--workers", str(w)])
        results.append(row)
        print(row, flush=True)
    return results


def by_workers(name: str, workers: list[int], repeats: int, scratch: Path) -> list[dict[str, Any]]:
    """Fit the data with one shard per worker process, in turns; a single worker is the driver's own process."""
    data = load(name, None, None, scratch)
    fit(data, scratch, ["--epochs", "2"])
    runs: dict[int, list[dict[str, Any]]] = {w: [] for w in workers}
    for _ in range(repeats):
        for w in workers:
            runs[w].append(fit(data, scratch, ["--shards", str(w), "--workers", str(w)]))
            print(w, runs[w][-1], flush=True)
    wall = {w: statistics.median(run["wall_s"] for run in runs[w]) for w in workers}
    together = {w: fit(data, scratch, ["--shards", str(w), "--workers", "1"])["NP@10"] for w in workers}
    return [
        {"workers": w, "wall_s": wall[w], "speed_up": round(wall[workers[0]] / wall[w], 3)}
        | {"NP@10_in_one_process": together[w], "runs": runs[w]}
        for w in workers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["shards", "workers"])
    parser.add_argument("--data", default="paths1m")
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 1, 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nomad-scaling-") as folder:
        if args.what == "workers":
            results = by_workers(args.data, args.workers, args.repeats, Path(folder))
        else:
            results = by_shards(args.data, args.shards, args.workers, Path(folder))
    name = Path(args.data).stem if args.data.endswith((".npy", ".parquet")) else args.data
    today = date.today().isoformat()
    path = args.out / f"{args.what}-{name}-{today}.json"
    path.write_text(json.dumps({"date": today, "data": name, "machine": machine(), "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
