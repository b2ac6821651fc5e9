"""The tables of what a row costs, from runs whose growth is known."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import STAGES, growth, table


def run(rows: int, exponent: float) -> dict[str, Any]:
    """Return a run in which each stage but that of the coarse map takes 1e-5 · rows^exponent CPU seconds."""
    figures = {"cpu_s": 1e-5 * rows**exponent, "bytes": 100 * rows}
    return {"rows": rows, "all": figures, "stages": {stage: figures for stage in STAGES if stage != "coarse"}}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_costs_are_per_row():
    lines = table([run(100_000, 1.0), run(2_000_000, 1.0)], "cpu_s", 1e6)
    assert cells(lines[0]) == ["rows", *STAGES, "all"]
    assert cells(lines[2]) == ["100,000", "10.0", "", *["10.0"] * 6]
    assert cells(lines[3])[0] == "2,000,000"
    assert cells(table([run(100_000, 1.0)], "bytes", 1)[2])[-1] == "100.0"


def test_exponents_are_those_of_the_growth():
    lines = growth([run(100_000, 1.25), run(400_000, 1.25), run(1_000_000, 1.25)])
    assert [cells(line)[0] for line in lines[2:]] == ["100,000 to 400,000", "400,000 to 1,000,000"]
    assert cells(lines[2])[1:] == ["1.25", "", *["1.25"] * 6]


def test_fractions_of_a_second_show_no_growth():
    assert cells(growth([run(1_000, 1.0), run(400_000, 1.0)])[2])[1:] == [""] * 8
