"""The site of a map: bytes on disk, the largest part, memory and time of its writer, for synthetic maps.

    python -m benchmarks.sites --rows 1e6 1e7
    python -m benchmarks.sites --rows 6e7 --nameless

Every export is a fresh process, `nomad-dask export` as users run it. The result is written after every map, beside
those of the same day.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.compare import machine, measured, versions

HERE = Path(__file__).parent
BLOCK_ROWS = 1 << 18
N_GROUPS, N_SECTIONS, N_WORDS = 1000, 40, 50_000
NOTHING = {"files": 0, "bytes": 0, "largest": 0}
PARTS = ("site.js", "index.js", "tiles", "text", "search", "overview")


def write_map(path: Path, n: int, names: bool = True, seed: int = 0) -> None:
    """Write a map of `n` rows block by block: groups of unequal weight and width, with sections and scores.

    With `names` each row has one, of words as frequent as in a language (Zipf); it ends in a word that no other row
    has, as identifiers do.
    """
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(N_GROUPS, 0.5))
    centers = 20 * rng.normal(size=(N_GROUPS, 2))
    widths = rng.lognormal(-0.5, 0.7, size=N_GROUPS)
    sections = pa.array([f"section {i}" for i in range(N_SECTIONS)])
    syllables = np.array(["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "ru", "sa", "te", "vi", "wo", "zu"])
    words = pa.array(["".join(syllables[rng.integers(15, size=k)]) for k in rng.integers(2, 5, N_WORDS)])
    chances = np.cumsum(1 / np.arange(1, N_WORDS + 1))
    chances /= chances[-1]
    writer = None
    for start in range(0, n, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, n - start)
        group = rng.choice(N_GROUPS, rows, p=weights)
        places = (centers[group] + widths[group, None] * rng.normal(size=(rows, 2))).astype(np.float32)
        columns = {"x": places[:, 0], "y": places[:, 1], "cell": group.astype(np.int32)}
        if names:
            lengths = rng.integers(2, 9, rows)
            chosen = words.take(pa.array(np.searchsorted(chances, rng.random(lengths.sum()))))
            lists = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), chosen)
            own = pc.binary_join_element_wise("id", pa.array(np.arange(start, start + rows)).cast(pa.string()), "")
            columns["name"] = pc.binary_join_element_wise(pc.binary_join(lists, " "), own, " ")
        columns["section"] = sections.take(pa.array(group % N_SECTIONS))
        columns["score"] = rng.normal(size=rows).astype(np.float32)
        block = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, block.schema, compression="zstd")
        writer.write_table(block)
    if writer is not None:
        writer.close()


def measure(n: int, names: bool, home: Path) -> dict[str, Any]:
    """Return the cost and the output of an export of `n` rows; without `names` only two color columns are exported."""
    path, site = home / f"{n}.parquet", home / f"{n}"
    write_map(path, n, names)
    command = [str(Path(sys.executable).with_name("nomad-dask")), "export", str(path), "-o", str(site), "--json"]
    if not names:
        command += ["--color", "section,score", "--hover", ""]
    cost = measured(command, home)
    told = json.loads((home / "log.txt").read_text().splitlines()[-1])
    sizes = {
        part: [f.stat().st_size for f in site.rglob("*") if f.is_file() and f.is_relative_to(site / part)]
        for part in PARTS
    }
    result = {
        "rows": n,
        "names": names,
        "map_bytes": path.stat().st_size,
        **{name: told[name] for name in ("tiles", "levels", "files", "bytes", "largest_part", "seconds")},
        "parts": {part: {"files": len(s), "bytes": sum(s), "largest": max(s)} for part, s in sizes.items() if s},
        **cost,
    }
    shutil.rmtree(site)
    path.unlink()
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page."""
    host, runs = result["machine"], result["runs"]
    lines = [
        "# The site of a map",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB, shared with other work. "
        f"Synthetic maps of {N_GROUPS:,} groups with {N_SECTIONS} sections and a score to color by; most with names of "
        "3 to 9 words, one of them its own, and with cells. Peak memory is that of the one process that writes.",
        "",
        "| rows | names | bytes a point | tiles | text | search | files | peak memory | CPU s | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        each = [f"{run['parts'].get(part, NOTHING)['bytes'] / run['rows']:.1f}" for part in ("tiles", "text", "search")]
        lines.append(
            f"| {run['rows']:,} | {'yes' if run['names'] else 'no'} | {run['bytes'] / run['rows']:.1f} | "
            + " | ".join(each)
            + f" | {run['files']:,} | {run['peak_bytes'] / 1e9:.2f} GB | {run['cpu_s']:,.0f} | {run['wall_s']:,.0f} |"
        )
    lines += [
        "",
        "The largest file of each kind, in kB:",
        "",
        "| rows | names | " + " | ".join(f"`{part}`" for part in PARTS) + " |",
        "|---" * (2 + len(PARTS)) + "|",
    ]
    for run in runs:
        largest = [f"{run['parts'].get(part, NOTHING)['largest'] / 1e3:,.0f}" for part in PARTS]
        lines.append(f"| {run['rows']:,} | {'yes' if run['names'] else 'no'} | " + " | ".join(largest) + " |")
    told = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return "\n".join([*lines, "", f"Versions: {told}.", ""])


def earlier(path: Path, n: int, names: bool) -> list[dict[str, Any]]:
    """Return the other runs in the result of the same day."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    return [run for run in runs if (run["rows"], run["names"]) != (n, names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(float(text)), nargs="+", default=[1_000_000])
    parser.add_argument(
        "--nameless", action="store_true", help="maps without names: no text but where rows are, no search"
    )
    parser.add_argument("--dir", type=Path, help="where the maps and sites are made, and removed again")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args()

    today = date.today().isoformat()
    kept = args.out / f"sites-{today}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    for n in args.rows:
        with tempfile.TemporaryDirectory(prefix="nomad-sites-", dir=args.dir) as home:
            run = measure(n, not args.nameless, Path(home))
        print(run, file=sys.stderr)
        result = {
            "date": today,
            "machine": machine(),
            "versions": versions([], sys.executable),
            "runs": sorted([*earlier(kept, n, run["names"]), run], key=lambda run: (run["rows"], run["names"])),
        }
        kept.write_text(json.dumps(result, indent=1) + "\n")
        kept.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
