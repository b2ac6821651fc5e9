"""The results of `gpu.py` as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_STAGES = ("sample", "coarse", "cells", "shards", "neighbors", "layout")


def markdown(results: dict[str, Any]) -> str:
    """Return the page: one section per part, one row per measurement."""
    machine = results["machine"]
    smi = machine["nvidia_smi"] or {}
    lines = [
        f"# {machine['card']}",
        "",
        f"{results['date']}. {machine['memory_gb']} GB of GPU memory, {machine['cores']} cores, {machine['system']}. "
        f"Driver {smi.get('driver_version', 'not told')} for CUDA {_cuda(machine['cuda']['driver'])}, "
        f"power limit {smi.get('power.limit', 'not told')}, clock up to {smi.get('clocks.max.sm', 'not told')}.",
        "",
    ]
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(results["runs"], key=lambda r: r["rows"]):
        runs.setdefault(run["part"], []).append(run)
    for part, section in _SECTIONS.items():
        if part in runs:
            lines += [*section(runs[part]), ""]
    told = [f"- {r['part']} at {r['rows']:,} rows: {r['ended']}." for r in results["runs"] if "ended" in r]
    if told:
        lines += ["## Not finished", "", *told, ""]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    return [
        "| " + " | ".join(heads) + " |",
        "|---" + "|---:" * (len(heads) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _ceilings(runs: list[dict[str, Any]]) -> list[str]:
    rows = []
    for run in runs:
        if "copy_bytes_s" in run:
            rows += [("copy on the device, read and written", f"{run['copy_bytes_s'] / 1e9:,.0f} GB/s")]
            rows += [
                (f"matrix product, {kind}", f"{run[f'{kind}_flop_s'] / 1e12:,.0f} Tflop/s")
                for kind in ("float16", "TF32", "float32")
            ]
    return ["## Ceilings", "", *_table(["what", "rate"], rows)]


def _kernels(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            f"{run['rows']:,}", name, f"{k['ns_a_point']:.3f}", f"{k['seconds'] * 1e3:.3f}",
            f"{k['bytes'] / run['rows']:.0f}", f"{k['share_of_copy']:.0%}",
        )
        for run in runs for name, k in run.get("kernels", {}).items()
    ]  # fmt: skip
    heads = ["rows", "kernel", "ns a point", "ms", "bytes a point that must move", "share of the copy rate"]
    return [
        "## Kernels",
        "",
        "Two dimensions, caches washed before every run, medians. What must move counts every array once for each "
        "pass and all else as cached. The copy rate is that of the same process.",
        "",
        *_table(heads, rows),
    ]


def _epochs(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (f"{r['rows']:,}", f"{r['epoch_s'] * 1e3:.2f}", f"{r['ns_a_point']:.3f}", f"{r['share_of_copy']:.0%}")
        for r in runs
        if "epoch_s" in r
    ]
    return [
        "## Epochs of one shard",
        "",
        "As the layout asks for them, host and the copy of the report included, the launches replayed as a CUDA graph.",
        "",
        *_table(["rows", "ms an epoch", "ns a point", "share of the copy rate"], rows),
    ]


def _neighbors(runs: list[dict[str, Any]]) -> list[str]:
    rows = []
    for run in runs:
        for name, m in run.get("methods", {}).items():
            if "failed" in m:
                rows.append((f"{run['rows']:,}", name, m["failed"], "", "", "", ""))
                continue
            known = "distances_s" in m
            rows.append(
                (
                    f"{run['rows']:,}", name, f"{m['seconds']:.2f}", f"{m['rows_s']:,.0f}",
                    f"{m['distances_s']:.3g}" if known else "", f"{m['share_of_float16']:.1%}" if known else "",
                    f"{m['recall']:.4f}",
                )
            )  # fmt: skip
    heads = ["rows", "method", "s", "rows/s", "distances/s", "share of the float16 rate", "recall"]
    notes = sorted({r["cuvs"] for r in runs if "cuvs" in r})
    return [
        "## Neighbors",
        "",
        "15 neighbors of every row. A distance of d dimensions counts as 2·d operations. nomad_dask has its cells "
        "before and reads rows from a file; cuVS has the rows on the card.",
        "",
        *_table(heads, rows),
        *(["", f"{'; '.join(notes)}."] if notes else []),
    ]


def _maps(runs: list[dict[str, Any]]) -> list[str]:
    heads = ["rows", "s", *_STAGES, "ms an epoch", "recall", "NP@10", "RTA"]
    rows = []
    for run in runs:
        if "stages" not in run:
            continue
        stages = [f"{run['stages'][s]:.1f}" if s in run["stages"] else "" for s in _STAGES]
        recall = run["diagnostics"].get("recall")
        rows.append(
            (
                f"{run['rows']:,}", f"{run['seconds']:.1f}", *stages, f"{run['epoch_s'] * 1e3:.2f}",
                "" if recall is None else f"{recall:.3f}", *_scores(run),
            )
        )  # fmt: skip
    return [
        "## Whole maps",
        "",
        "From rows made on the card, block by block, to positions; workers on the card are started within. Seconds "
        "by stage. The paper's 5.8 hours for 60 million rows are of eight H100 and of other data.",
        "",
        *_table(heads, rows),
    ]


def _umap(runs: list[dict[str, Any]]) -> list[str]:
    rows = [(f"{r['rows']:,}", f"{r['seconds']:.1f}", *_scores(r)) for r in runs if "seconds" in r]
    return [
        "## UMAP of cuML",
        "",
        "The same rows, already on the GPU; 15 neighbors, else the defaults. Scored on the same rows and triplets.",
        "",
        *_table(["rows", "s", "NP@10", "RTA"], rows),
    ]


def _scores(run: dict[str, Any]) -> tuple[str, str]:
    scores = run.get("scores", {})

    def told(name: str) -> str:
        one = scores.get(name)
        return f"{one['value']:.3f} ({one['low']:.3f}–{one['high']:.3f})" if one else ""

    return told("NP@10"), told("RTA")


_SECTIONS = {
    "ceilings": _ceilings,
    "kernels": _kernels,
    "epochs": _epochs,
    "neighbors": _neighbors,
    "maps": _maps,
    "umap": _umap,
}
