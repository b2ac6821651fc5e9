"""What a row costs at each stage, as the number of rows grows.

    python -m benchmarks.rows paths.npy --rows 5e4 2e5 1e6 4e6 7e6

The rows of the file must be in random order: each run takes the first of them. Every fit is a fresh process with the
defaults, compiled code cached. Options after `--` are passed to `nomad-dask fit`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import machine, versions
from benchmarks.scale import HERE, name_of_stage, watched_fit

STAGES = ("sample", "coarse", "cells", "shards", "neighbors", "layout", "rest")
_BLOCK_ROWS = 1 << 20


def fit(source: Path, folder: Path, options: list[str]) -> dict[str, Any]:
    """Make a map of a file in a new process and return the resources that it used."""
    shutil.rmtree(folder / "workspace", ignore_errors=True)  # nothing is resumed
    return watched_fit(source, folder, ["-o", str(folder / "map.parquet"), "--overwrite", *options])


def write_rows(source: Path, n: int, path: Path) -> None:
    """Write the first rows of a file to another."""
    X = np.load(source, mmap_mode="r")
    part = np.lib.format.open_memmap(path, "w+", X.dtype, (n, X.shape[1]))
    for start in range(0, n, _BLOCK_ROWS):
        part[start : start + _BLOCK_ROWS] = X[start : min(start + _BLOCK_ROWS, n)]


def by_stage(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return CPU seconds and peak memory of the stages; all stages of the coarse map count as one."""
    stages: dict[str, dict[str, float]] = {}
    for name, stage in figures["stages"].items():
        total = stages.setdefault(name_of_stage(name), {"cpu_s": 0.0, "bytes": 0})
        total["cpu_s"] += stage["cpu_s"]
        total["bytes"] = max(total["bytes"], stage["peak_pss_sum_bytes"])
    return stages


def table(runs: list[dict[str, Any]], measure: str, factor: float) -> list[str]:
    """Return the lines of a table of a measure per row, by rows and stages."""
    lines = [_line("rows", [*STAGES, "all"]), "|---" * (len(STAGES) + 2) + "|"]
    for run in runs:
        figures = [run["stages"].get(stage) for stage in STAGES] + [run["all"]]
        cells = ["" if f is None else f"{factor * f[measure] / run['rows']:,.1f}" for f in figures]
        lines.append(_line(f"{run['rows']:,}", cells))
    return lines


def growth(runs: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of the exponents with which CPU seconds grow from one run to the next."""
    lines = [_line("rows", [*STAGES, "all"]), "|---" * (len(STAGES) + 2) + "|"]
    for before, after in pairwise(runs):
        seconds = [
            [run["stages"].get(stage, {"cpu_s": 0.0})["cpu_s"] for stage in STAGES] + [run["all"]["cpu_s"]]
            for run in (before, after)
        ]
        step = math.log(after["rows"] / before["rows"])
        # Fractions of a second do not show growth.
        cells = [f"{math.log(b / a) / step:.2f}" if min(a, b) >= 1 else "" for a, b in zip(*seconds, strict=True)]
        lines.append(_line(f"{before['rows']:,} to {after['rows']:,}", cells))
    return lines


def _line(first: str, cells: list[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    host, runs = result["machine"], result["runs"]
    return "\n".join([
        f"# {result['name']}: what a row costs as rows grow",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. Options: "
        f"`{' '.join(result['options']) or 'none'}`. Versions: "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ". The stages of the coarse map count as one.",
        "", "CPU microseconds a row, of all processes:", "", *table(runs, "cpu_s", 1e6),
        "", "Peak memory of all processes (PSS), bytes a row:", "", *table(runs, "bytes", 1),
        "", "Exponent of the growth of CPU seconds:", "", *growth(runs), "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a .npy file of vectors")
    parser.add_argument("--rows", nargs="+", type=lambda text: int(float(text)), required=True)
    parser.add_argument("--name", help="of the result; that of the file by default")
    parser.add_argument("--dir", type=Path, default=HERE / "data", help="where rows and workspace lie meanwhile")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    args, options = parser.parse_args(given[:end]), given[end + 1 :]
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "name": args.name or args.source.stem,
        "machine": machine(),
        "versions": versions([], sys.executable),
        "options": options,
        "runs": [],
    }
    path = args.out / f"rows-{result['name']}-{result['date']}.json"
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rows-", dir=args.dir) as folder:
        part = Path(folder) / "rows.npy"
        for i, n in enumerate(sorted(args.rows)):
            write_rows(args.source, n, part)
            if i == 0:
                fit(part, Path(folder), options)  # loads compiled code into the cache
            figures = fit(part, Path(folder), options)
            everything = {
                "cpu_s": figures["cpu_s"],
                "bytes": figures["peak_pss_sum_bytes"],
                "wall_s": figures["wall_s"],
            }
            result["runs"].append({"rows": n, "all": everything, "stages": by_stage(figures)})
            print(f"{n:,} rows: {figures['wall_s']:.1f} s, {figures['cpu_s']:.1f} CPU s", file=sys.stderr)
            path.write_text(json.dumps(result, indent=1) + "\n")
            path.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
