"""The results of `gpu_quick.py` as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TOLD = 2500  # characters of a traceback
_STAGES = ("sample", "coarse", "cells", "shards", "neighbors", "layout")


def markdown(records: Mapping[str, dict[str, Any]]) -> str:
    """Return the page.

    Parameters
    ----------
    records : mapping of str to dict
        The last record of each step, by name.
    """
    machine = records.get("environment", {}).get("result", {})
    lines = [*_machine(machine), *_steps(list(records.values())), ""]
    runs: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records.values(), key=lambda r: r["rows"]):
        if record.get("result"):
            runs.setdefault(record["part"], []).append({"rows": record["rows"]} | record["result"])
    for part, section in _SECTIONS.items():
        if part in runs:
            lines += [*section(runs[part]), ""]
    for name, record in records.items():
        told = record.get("traceback") or record.get("log") or record.get("result", {}).get("output")
        if told:
            lines += [f"## {name}: {record['status']}", "", "```", told.strip()[-_TOLD:], "```", ""]
    versions = machine.get("versions", {})
    return "\n".join([*lines, "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", ""])


def _machine(machine: dict[str, Any]) -> list[str]:
    if not machine:
        return ["# An unknown GPU", ""]
    about = f"{machine['cores']} cores, {machine['host_memory_gb']} GB of memory, {machine['system']}."
    if "cuda" in machine:
        smi = machine["nvidia_smi"] or {}
        about = (
            f"{machine['memory_gb']} GB of GPU memory, {about} "
            f"Driver {smi.get('driver_version', 'not told')} for CUDA {_cuda(machine['cuda']['driver'])}, "
            f"power limit {smi.get('power.limit', 'not told')}, clock up to {smi.get('clocks.max.sm', 'not told')}."
        )
    else:
        about += " A rehearsal with emulated kernels: all times and rates are meaningless."
    return [f"# {machine['card']}", "", about, ""]


def _steps(records: list[dict[str, Any]]) -> list[str]:
    rows = []
    for record in records:
        passed = record.get("result", {}).get("passed")
        verdict = "" if passed is None else "passed" if passed else "**not passed**"
        why = str(record.get("reason", "")).split("\n")[0].replace("|", "\\|")
        rows.append((record["step"], record["status"], verdict, f"{record['seconds']:.0f}", why))
    return _table(["step", "status", "check", "s", "why"], rows)


def _agreement(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (case, f"{max(found.values()):.3f}", max(found, key=lambda name: found[name]))
        for run in runs
        for case, found in run["differences"].items()
    ]
    return [
        "## One step on the GPU and on the CPU",
        "",
        "The largest difference as a multiple of what rounding may cause: 1 or less passes.",
        "",
        *_table(["case", "difference", "of"], rows),
    ]


def _same_bits(runs: list[dict[str, Any]]) -> list[str]:
    rows = [(what, "yes" if equal else "**no**") for run in runs for what, equal in run["equal"].items()]
    return ["## Same bits", "", f"Repeated {runs[0]['times']} times.", "", *_table(["what", "equal"], rows)]


def _launches(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (str(r["launched"]), ", ".join(r["missing"]) or "none", f"{r['first_s']:.1f}", f"{r.get('again_s', 0):.1f}")
        for r in runs
    ]
    heads = ["kernels, by dimensions of the map", "missing", "s with compilation", "s again"]
    return ["## Launches", "", *_table(heads, rows)]


def _memory(runs: list[dict[str, Any]]) -> list[str]:
    (run,) = runs
    rows = [(what, f"{run[name] / 1e9:,.2f} GB") for name, what in (
        ("free_bytes", "free, as we count it"), ("allocated_bytes", "allocated at once")) if name in run]  # fmt: skip
    rows += [(what, f"{run[name] / 1e9:,.2f} GB/s") for name, what in (
        ("first_upload_bytes_s", "first upload"), ("upload_bytes_s", "upload"), ("download_bytes_s", "download"),
    ) if name in run]  # fmt: skip
    told = [f"\nAn array larger than any memory: “{run['error']}”"] if "error" in run else []
    told += [f"\nAll that is free could not be allocated: “{run['not_allocated']}”"] if "not_allocated" in run else []
    return ["## Memory", "", *_table(["what", ""], rows), *told]


def _reading(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            name, f"{f['bytes'] / 1e6:,.0f}", f"{f['from_disk_bytes_s'] / 1e9:.2f}",
            f"{f['cached_bytes_s'] / 1e9:.2f}", "yes" if f["equal"] else "**no**",
        )
        for run in runs for name, f in run["files"].items()
    ]  # fmt: skip
    installed = ", ".join(runs[0]["installed"]) or "neither KvikIO nor cuDF"
    return [
        "## Reading files to the device",
        "",
        f"Installed: {installed}. The first time from the disk, if the system forgets files when it is asked to.",
        "",
        *_table(["file", "MB", "GB/s from disk", "GB/s again", "rows are right"], rows),
    ]


def _sanitizer(runs: list[dict[str, Any]]) -> list[str]:
    rows = [(r["tool"], "yes" if r["all_launched"] else "no", "; ".join(r["summary"])) for r in runs]
    return [f"## {runs[0]['tool']}", "", *_table(["tool", "all kernels were launched", "result"], rows)]


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
        (
            f"{r['rows']:,}", f"{r['epoch_s'] * 1e3:.2f}", f"{r['ns_a_point']:.3f}", f"{r['share_of_copy']:.0%}",
            f"{r['layout_bytes'] / 1e9:.2f}", f"{r['planned_layout_bytes'] / 1e9:.2f}",
        )
        for r in runs
    ]  # fmt: skip
    return [
        "## Epochs of one shard",
        "",
        "As the layout asks for them, host and the copy of the report included, the launches replayed as a CUDA graph.",
        "",
        *_table(["rows", "ms an epoch", "ns a point", "share of the copy rate", "GB used", "GB planned"], rows),
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
    "launches": _launches,
    "agreement": _agreement,
    "ceilings": _ceilings,
    "kernels": _kernels,
    "epochs": _epochs,
    "memory": _memory,
    "reading": _reading,
    "memcheck": _sanitizer,
    "racecheck": _sanitizer,
    "synccheck": _sanitizer,
    "same bits": _same_bits,
    "maps": _maps,
    "neighbors": _neighbors,
    "umap": _umap,
}
