"""Large runs: generated data, a fit limited by a memory cgroup, the resources of every stage, and a projection.

    python -m benchmarks.scale --bytes 12e9 --dims 1024 --limit 2e9 -- --memory-limit 2GB
    python -m benchmarks.scale --rows 4e6 --dims 64 --dtype float16
    python -m benchmarks.scale --rows 1e7 --dims 64 --dtype float16
    python -m benchmarks.scale --source paths.npy --labels sections.npy --name paths7.3m
    python -m benchmarks.scale --project 6e7 results/scale-4mx64-DATE.json results/scale-10mx64-DATE.json

Options after `--` are passed to `nomad-dask fit`. As root, the source is on its own file system (a loop device), whose
reads are counted: these are exactly the reads of the source.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import machine, versions
from benchmarks.watch import watched
from nomad_dask import read_map
from nomad_dask.metrics import score
from nomad_dask.sources import open_source

HERE = Path(__file__).parent
OUTPUT = "told.json"
"""What a watched fit writes to its standard output."""
_BLOCK_ROWS = 1 << 15
_QUERIES = 2500
# Number of axes along which the centers of the groups, and the rows of one group, vary.
_CENTER_RANK, _RANK = 6, 16
# Growth of the time of a stage with the number of rows n by design: the exponents of its two parts.
# A row is compared with the centroids of some √n cells to find its own; K-Means does the same on a sample.
_BY_DESIGN = {
    "sample": (1.0, 1.0),
    "coarse": (1.0, 1.5),
    "cells": (1.5, 1.5),
    "shards": (1.0, 1.5),
    "neighbors": (1.0, 1.0),
    "layout": (1.0, 1.0),
    "rest": (1.0, 1.0),
}


def make(path: Path, n: int, d: int, dtype: str, n_groups: int, seed: int) -> None:
    """Write rows of a mixture of Gaussians, block by block, as ``.npy``.

    Groups have unequal weights and widths. Each varies along a few axes of its own, and slightly along all: in many
    dimensions, rows of spherical Gaussians have no meaningful neighbors, and spherical clouds of centers no structure.
    """
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_groups, 0.5))
    few = min(_CENTER_RANK, d)
    centers = (rng.normal(size=(n_groups, few)) @ rng.normal(size=(few, d)) / math.sqrt(few)).astype(np.float32)
    axes = rng.normal(size=(n_groups, min(_RANK, d), d)).astype(np.float32) / math.sqrt(min(_RANK, d))
    axes *= rng.uniform(0.2, 0.8, (n_groups, 1, 1)).astype(np.float32)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (n, d)}
    with path.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, header)
        for start in range(0, n, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, n - start)
            block_rng = np.random.default_rng([seed, start])
            groups = block_rng.choice(n_groups, rows, p=weights)
            within = block_rng.standard_normal((rows, axes.shape[1]), np.float32)
            block = np.float32(0.05) * block_rng.standard_normal((rows, d), np.float32)
            order = np.argsort(groups, kind="stable")
            edges = np.searchsorted(groups[order], np.arange(n_groups + 1))
            for g in np.flatnonzero(np.diff(edges)):
                members = order[edges[g] : edges[g + 1]]
                block[members] += centers[g] + within[members] @ axes[g]
            block.astype(dtype).tofile(f)


def _told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def own_file_system(folder: Path, size: int) -> Iterator[tuple[Path, str | None]]:
    """Yield a directory on its own file system, and its block device; else an ordinary one and None."""
    image, place = folder / "source.img", folder / "source"
    place.mkdir()
    device = None
    with contextlib.ExitStack() as stack:
        try:
            with image.open("wb") as f:
                f.truncate(int(size * 1.02) + (64 << 20))
            stack.callback(image.unlink)
            _told("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
            device = _told("losetup", "--find", "--show", "--direct-io=on", str(image))
            stack.callback(_told, "losetup", "--detach", device)
            _told("mount", "-o", "noatime", device, str(place))
            stack.callback(_told, "umount", str(place))
        except (OSError, subprocess.CalledProcessError) as error:
            stack.close()
            device = None
            why = getattr(error, "stderr", None) or error
            print(f"The source has no file system of its own ({why}): its reads are not told apart.", file=sys.stderr)
        yield place, None if device is None else Path(device).name


def out_of_cache(place: Path, device: str | None) -> None:
    """Clear the cache, so that the next reads come from the disk."""
    if device is not None:
        _told("umount", str(place))
        _told("mount", "-o", "noatime", f"/dev/{device}", str(place))
        return
    for path in place.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def vectors(args: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the file of the vectors, and the device whose reads are its own, if there is one."""
    if args.source:
        yield args.source, None
        return
    item = np.dtype(args.dtype).itemsize
    rows = args.rows or int(args.bytes // (args.dims * item))
    with own_file_system(folder, rows * args.dims * item) as (place, device):
        source = place / "vectors.npy"
        print(f"making {rows:,} rows of {args.dims} {args.dtype} ...", file=sys.stderr)
        make(source, rows, args.dims, args.dtype, args.groups, args.seed)
        out_of_cache(place, device)
        yield source, device


def watched_fit(
    source: Path, folder: Path, options: list[str], limit_bytes: int | None = None, source_device: str | None = None
) -> dict[str, Any]:
    """Make a map in a new process and return the resources that it used; its output is `OUTPUT` in the folder."""
    nomad, log, workspace = str(Path(sys.executable).with_name("nomad-dask")), folder / "log.txt", folder / "workspace"
    command = [nomad, "fit", str(source), "--workspace", str(workspace), "--device", "cpu", "-v", *options]
    figures = watched(
        command, out=folder / OUTPUT, log=log, folder=workspace, limit_bytes=limit_bytes, source_device=source_device
    )
    if figures["exit_code"] != 0:
        raise SystemExit(f"the fit ended with {figures['exit_code']}:\n{log.read_text()[-3000:]}\n{figures}")
    return figures


def name_of_stage(stage: str) -> str:
    """Return the name under which a stage counts: all stages of the coarse map, and of its own, count as one."""
    return "coarse" if stage.startswith("coarse") else stage


def fit_and_score(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make a map of the vectors, and its scores."""
    target = args.map or folder / "map.parquet"
    with vectors(args, folder) as (source, device):
        options = ["-o", str(target), "--seed", str(args.seed), "--json", *args.more]
        figures = watched_fit(source, folder, options, limit_bytes=args.limit, source_device=device)
        told = json.loads((folder / OUTPUT).read_text())
        print(f"made in {figures['wall_s']:.0f} s; scoring ...", file=sys.stderr)
        labels = None if args.labels is None else np.load(args.labels)
        scores = score(open_source(source), read_map(target), labels=labels, n_queries=_QUERIES).as_dict()
        rows, dims = np.load(source, mmap_mode="r").shape
        data = {"rows": rows, "dims": dims, "dtype": str(np.load(source, mmap_mode="r").dtype)}
    size = rows * dims * np.dtype(data["dtype"]).itemsize
    made = {"source": args.source.name} if args.source else {"groups": args.groups}
    return {
        "data": data | {"bytes": size} | made,
        "options": args.more,
        "fit": figures,
        "told": {"seconds": told["seconds"], "diagnostics": told["diagnostics"]},
        "scores": scores,
    }


def _gb(size: float | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


def markdown(name: str, result: dict[str, Any]) -> str:
    """Return the result as a page."""
    data, fit, host, scores = result["data"], result["fit"], result["machine"], result["scores"]
    held = fit["held_by"]
    if isinstance(held, dict):
        limit = (
            f"Each process was held to {_gb(held['limit_bytes'])} GB by a memory cgroup ({held['cgroup']}), page cache "
            f"included: {held['oom_kills']} were killed."
        )
    else:
        limit = f"No limit was set: {held}." if held else "No limit was set."
    source = fit["read_source_bytes"]
    read = "not told apart" if source is None else f"{_gb(source)} GB, {source / data['bytes']:.2f} times its size"
    lines = [
        f"# {name}: {data['rows']:,} rows of {data['dims']} {data['dtype']}, {_gb(data['bytes'])} GB",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. {limit}",
        "",
        f"Wall {fit['wall_s']:.0f} s. Largest process: {_gb(fit['processes'][0]['peak_rss_bytes'])} GB resident, "
        f"{_gb(fit['processes'][0]['peak_anonymous_bytes'])} GB of it its own. All {len(fit['processes'])} processes "
        f"together: {_gb(fit['peak_pss_sum_bytes'])} GB (PSS). Disk of the workspace: {_gb(fit['peak_disk_bytes'])} GB "
        f"at most. Read of the source: {read}.",
        "",
        ", ".join(f"{name} {value:.3f}" for name, value in _values(scores).items()) + ".",
        "",
        "| stage | s | resident GB | own GB | all processes GB | disk GB | read of the source GB | read in all GB |",
        "|---" * 8 + "|",
    ]
    for stage, f in fit["stages"].items():
        peaks = [f["peak_rss_bytes"], f["peak_anonymous_bytes"], f["peak_pss_sum_bytes"], f["peak_disk_bytes"]]
        cells = [_gb(b) for b in (*peaks, f["read_source_bytes"], f["read_calls_bytes"])]
        lines.append(f"| {stage} | {f['seconds']:.1f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Memory was sampled every 0.2 s. Options: `{' '.join(result['options']) or 'none'}`. Versions: "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _values(scores: dict[str, Any]) -> dict[str, float]:
    """Return the scores by the names that are usual for them."""
    values = {f"NP@{k}": interval["value"] for k, interval in scores["neighbors"].items()}
    values["RTA"] = scores["triplets"]["value"]
    if scores.get("labels"):
        values["label accuracy"] = scores["labels"]["value"]
    return values


def project(rows: int, paths: list[Path]) -> str:
    """Return the estimated time of a larger run, stage by stage, from two measured runs."""
    small, large = sorted((json.loads(p.read_text()) for p in paths), key=lambda r: r["data"]["rows"])
    n, m = small["data"]["rows"], large["data"]["rows"]
    lines = [
        f"# {rows:,} rows, projected from {n:,} and {m:,}",
        "",
        "Seconds. By design, a stage has a part that grows as the rows and one that grows faster, "
        "by the powers in the table; the two runs tell how much there is of each. The exponent is what they would tell "
        "without a design. "
        f"{large['date']}, {large['machine']['cpu']}, {large['machine']['cores']} cores.",
        "",
        f"| stage | {n:,} | {m:,} | exponent | {rows:,} by exponent | powers by design | {rows:,} by design |",
        "|---" * 7 + "|",
    ]
    before, after = _by_stage(small), _by_stage(large)
    sums = np.zeros(4)
    for stage, (low, high) in _BY_DESIGN.items():
        a, b = before.get(stage, 0.0), after.get(stage, 0.0)
        # Fractions of a second do not show growth.
        exponent = math.log(b / a) / math.log(m / n) if min(a, b) >= 1 else low
        by_exponent, by_design = b * (rows / m) ** exponent, _two_powers(n, m, a, b, low, high, rows)
        sums += (a, b, by_exponent, by_design)
        powers = f"{low:g}" if low == high else f"{low:g} and {high:g}"
        lines.append(
            f"| {stage} | {a:.1f} | {b:.1f} | {exponent:.2f} | {by_exponent:.0f} | {powers} | {by_design:.0f} |"
        )
    lines.append(f"| all | {sums[0]:.0f} | {sums[1]:.0f} | | {sums[2]:.0f} | | {sums[3]:.0f} |")
    lines.append("")
    peaks = [r["fit"]["peak_pss_sum_bytes"] for r in (small, large)]
    disks = [r["fit"]["peak_disk_bytes"] for r in (small, large)]
    for what, (a, b) in (("Memory of all processes", peaks), ("Disk of the workspace", disks)):
        a_row = (b - a) / (m - n)
        lines.append(
            f"{what}: {_gb(a)} and {_gb(b)} GB, so {a_row:.0f} bytes a row more, and {_gb(b + a_row * (rows - m))} GB "
            f"at {rows:,} rows."
        )
    return "\n".join([*lines, ""])


def _by_stage(result: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of the stages; all stages of the coarse map, and of its own coarse map, count as one."""
    seconds: dict[str, float] = {}
    for stage, figures in result["fit"]["stages"].items():
        name = name_of_stage(stage)
        seconds[name] = seconds.get(name, 0.0) + figures["seconds"]
    unknown = set(seconds) - set(_BY_DESIGN)
    if unknown:
        raise SystemExit(f"How these stages grow is not told in scale.py: {', '.join(sorted(unknown))}.")
    return seconds


def _two_powers(n: int, m: int, a: float, b: float, low: float, high: float, rows: int) -> float:
    """Return the value at `rows` of a non-negative sum of two powers that is `a` at `n` and `b` at `m`."""
    if low == high:
        return b * (rows / m) ** low
    steep = (b - a * (m / n) ** low) / (m**high - n**high * (m / n) ** low)
    steep = min(max(steep, 0.0), b / m**high)
    flat = (b - steep * m**high) / m**low
    return flat * rows**low + steep * rows**high


def _whole(text: str) -> int:
    return int(float(text))


def _short(rows: int) -> str:
    for unit, size in (("m", 1_000_000), ("k", 1000)):
        if rows >= size:
            return f"{rows / size:.3g}{unit}"
    return str(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rows", type=_whole)
    size.add_argument("--bytes", type=_whole, help="of the source, instead of rows")
    size.add_argument("--source", type=Path, help="a .npy file of vectors, instead of a mixture")
    size.add_argument("--project", type=_whole, metavar="ROWS", help="tell what so many rows would take")
    parser.add_argument("results", nargs="*", type=Path, help="two results to project from")
    parser.add_argument("--labels", type=Path, help="a .npy file of the labels of a source's rows")
    parser.add_argument("--map", type=Path, help="keep the map in this file")
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--dtype", choices=["float16", "float32", "float64"], default="float32")
    parser.add_argument("--groups", type=int, default=200, help="Gaussians of the mixture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=_whole, metavar="BYTES", help="memory of each process, held by a cgroup")
    parser.add_argument("--name", help="of the result; the rows and dimensions by default")
    parser.add_argument("--dir", type=Path, default=HERE / "data", help="where source and workspace lie meanwhile")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:end])
    args.more = given[end + 1 :]
    args.out.mkdir(parents=True, exist_ok=True)
    today = date.today().isoformat()
    if args.project:
        if len(args.results) != 2:
            parser.error("give two results to project from")
        page = project(args.project, args.results)
        (args.out / f"scale-{_short(args.project)}-projected-{today}.md").write_text(page)
        print(page)
        return
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=args.dir) as folder:
        result = {
            "date": today,
            "machine": machine(),
            "versions": versions([], sys.executable),
            **fit_and_score(args, Path(folder)),
        }
    name = args.name or f"{_short(result['data']['rows'])}x{result['data']['dims']}"
    page = markdown(name, result)
    (args.out / f"scale-{name}-{today}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / f"scale-{name}-{today}.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
