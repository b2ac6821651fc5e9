"""Compare nomad_dask with openTSNE, umap-learn and PaCMAP in one run: cost and quality of maps.

    python -m benchmarks.compare --data fashion --seeds 0 1 2 --peers-python PEERS/bin/python

Every fit is a fresh process, from a file of vectors to a file of positions. Its CPU seconds include the start of
the process and imports. Compiled code is cached before: every method makes one map that is not measured. The order
of the methods rotates with every seed. All maps are scored by nomad_dask.metrics.scores on the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import datasets

HERE = Path(__file__).parent
NOMAD = {"nomad": [], "nomad-fast": ["--preset", "fast"], "nomad-best": ["--preset", "best"]}
PEERS = {"openTSNE": "openTSNE", "umap-learn": "umap-learn", "PaCMAP": "pacmap"}  # their distributions
_QUERIES = 5000  # 1,000 tell the label accuracy within 0.03 only, more than methods differ by
WARM_ROWS = 2000  # of the peers: enough to compile every function that they cache


@dataclass(frozen=True)
class Data:
    """The vectors to map: the file that nomad_dask reads, the same as ``.npy`` for the peers, and the labels."""

    name: str
    file: Path
    npy: Path
    labels: np.ndarray | None


def load(name: str, labels: str | None, rows: int | None, scratch: Path) -> Data:
    """Find or prepare the data: a name of `datasets.NAMES` or a file; `rows` selects a random sample."""
    from nomad_dask.sources import open_source

    file, where = datasets.fetch(name) if name in datasets.NAMES else (Path(name), labels)
    name = name if name in datasets.NAMES else file.stem
    is_column = where is not None and Path(where).suffix != ".npy"
    source = open_source(file, metadata_columns=[str(where)] if is_column else [])
    column = None
    if is_column:
        column = np.array(source.columns([str(where)], 0, source.n_rows).column(0).to_pylist(), dtype=object)
    elif where is not None:
        column = np.load(where, allow_pickle=False)
    if rows is None and file.suffix == ".npy":
        return Data(name, file, file, column)
    # The peers read no Parquet: they get the same vectors as .npy, which is quicker to read.
    npy = scratch / "vectors.npy"
    X = np.concatenate([block for _, block in source.iterate(65_536)])
    if rows is not None:
        some = np.sort(np.random.default_rng(0).permutation(len(X))[:rows])
        X, column = X[some], None if column is None else column[some]
    np.save(npy, X)
    return Data(name, file if rows is None else npy, npy, column)


def command(method: str, data: Data, out: Path, seed: int, peers_python: str) -> list[str]:
    """Return the command that makes a map."""
    if method in NOMAD:
        nomad = Path(sys.executable).with_name("nomad-dask")
        return [
            str(nomad),
            "fit",
            str(data.file),
            "-o",
            str(out),
            "--seed",
            str(seed),
            "--quiet",
            *NOMAD[method],
        ]
    return [peers_python, str(HERE / "peers.py"), method, str(data.npy), str(out), str(seed)]


def measured(command: list[str], scratch: Path) -> dict[str, Any]:
    """Run a command in its own process and return its cost."""
    cost, log = scratch / "cost.json", scratch / "log.txt"
    measure = [sys.executable, "-S", str(HERE / "measure.py"), str(cost), str(log), *command]
    subprocess.run(measure, check=True)
    figures: dict[str, Any] = json.loads(cost.read_text())
    if figures.pop("exit_code") != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return figures


def scored(data: Data, positions: Path) -> dict[str, Any]:
    """Score a map; the queries and triplets are the same for all maps of the same data."""
    from nomad_dask.metrics.scores import score
    from nomad_dask.sources import open_source

    if positions.suffix == ".npy":
        Y = np.load(positions)
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(positions, columns=["x", "y"])
        Y = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()])
    return score(open_source(data.npy), Y, labels=data.labels, n_queries=_QUERIES).as_dict()


def run(data: Data, methods: list[str], seeds: list[int], peers_python: str, scratch: Path) -> Iterator[dict[str, Any]]:
    """Make and score the maps one after another; the order of the methods rotates by one with every seed."""
    small = scratch / "warm.npy"
    np.save(small, np.load(data.npy, mmap_mode="r")[:WARM_ROWS])
    for method in methods:
        print(f"warming {method}", file=sys.stderr)
        warm_data = data if method in NOMAD else Data("warm", small, small, None)
        out = scratch / f"warm-{method}{'.parquet' if method in NOMAD else '.npy'}"
        measured(command(method, warm_data, out, 0, peers_python), scratch)
    for i, seed in enumerate(seeds):
        turn = i % len(methods)
        for method in methods[turn:] + methods[:turn]:
            out = scratch / f"{method}-{seed}{'.parquet' if method in NOMAD else '.npy'}"
            cost = measured(command(method, data, out, seed, peers_python), scratch)
            told = f"{method}, seed {seed}: {cost['cpu_s']:.1f} CPU s, {cost['wall_s']:.1f} s"
            print(told, file=sys.stderr)
            yield {"method": method, "seed": seed, **cost, "scores": scored(data, out)}


def figures(run: dict[str, Any]) -> dict[str, float | None]:
    """Return the numbers of one run that the table shows."""
    scores = run["scores"]
    return {
        "wall s": run["wall_s"],
        "CPU s": run["cpu_s"],
        "peak GB": run["peak_bytes"] / 1e9,
        **{f"NP@{k}": estimate["value"] for k, estimate in scores["neighbors"].items()},
        "RTA": scores["triplets"]["value"],
        "centroid triplets": _value(scores["centroid_triplets"]),
        "rank corr": scores["rank_correlation"]["value"],
        "label acc": _value(scores["labels"]),
    }


def _value(estimate: dict[str, float] | None) -> float | None:
    return None if estimate is None else estimate["value"]


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(methods: list[str], peers_python: str) -> dict[str, str]:
    """Return the versions of the packages."""
    ours = ["nomad-dask", "numpy", "scipy", "numba", "scikit-learn", "dask"]
    found = {"python": platform.python_version()} | {name: version(name) for name in ours}
    peers = [PEERS[m] for m in methods if m in PEERS]
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = subprocess.run([peers_python, "-c", code, *peers], check=True, capture_output=True, text=True)
    return found | dict(zip(peers, told.stdout.split(), strict=True))


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page: one row per method, medians over the seeds."""
    data, host = result["data"], result["machine"]
    by_method: dict[str, list[dict[str, float | None]]] = {}
    for one in result["runs"]:
        by_method.setdefault(one["method"], []).append(figures(one))
    columns = list(next(iter(by_method.values()))[0])
    first = next((m for m in by_method if m in NOMAD), next(iter(by_method)))
    base = _median(by_method[first], "CPU s")
    lines = [
        f"# {data['name']}: {data['rows']:,} rows of {data['dims']} dimensions",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. "
        f"Medians over seeds {', '.join(map(str, result['seeds']))}; the range of CPU seconds in brackets. "
        f"Last column: CPU seconds over those of {first}.",
        "",
        "| " + " | ".join(["method", *columns, f"CPU / {first}"]) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for method, runs in by_method.items():
        cells = []
        for column in columns:
            middle = _median(runs, column)
            if middle is None:
                cells.append("")
            elif column == "CPU s":
                all_of_them = [r[column] or 0.0 for r in runs]
                cells.append(f"{middle:.1f} ({min(all_of_them):.1f}–{max(all_of_them):.1f})")
            else:
                cells.append(f"{middle:.1f}" if column == "wall s" else f"{middle:.3f}")
        ratio = (_median(runs, "CPU s") or 0.0) / (base or 1.0)
        lines.append("| " + " | ".join([method, *cells, f"{ratio:.1f}"]) + " |")
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _median(runs: list[dict[str, float | None]], column: str) -> float | None:
    values = [r[column] for r in runs if r[column] is not None]
    return statistics.median(values) if values else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion", help=f"{', '.join(datasets.NAMES)}, or a file")
    parser.add_argument("--labels", help="of a file: a .npy file or a column")
    parser.add_argument("--rows", type=int, help="take so many random rows only")
    parser.add_argument("--methods", nargs="+", default=["nomad", *PEERS], choices=[*NOMAD, *PEERS], metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory(prefix="nomad-compare-") as folder:
        scratch = Path(folder)
        data = load(args.data, args.labels, args.rows, scratch)
        rows, dims = np.load(data.npy, mmap_mode="r").shape
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions(args.methods, args.peers_python),
            "data": {"name": data.name, "rows": rows, "dims": dims},
            "seeds": args.seeds,
            "runs": [],
        }
        args.out.mkdir(parents=True, exist_ok=True)
        stem = f"{data.name}{'' if args.rows is None else f'-{args.rows}'}-{result['date']}"
        for one in run(data, args.methods, args.seeds, args.peers_python, scratch):
            result["runs"].append(one)  # written at once: peers take hours on large data
            (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
            (args.out / f"{stem}.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
