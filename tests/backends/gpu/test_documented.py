"""docs/gpu.md lists every kernel and module of the GPU backend, with the numbers of the last compilation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nomad_dask.backends.gpu import kernel_files as kernel_files_module
from nomad_dask.backends.gpu.kernel_files import kernel_files
from tests.helpers.every_kernel import WITHOUT_DIM

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/gpu.md").read_text()


def compiled() -> dict[tuple[str, str], list[str]]:
    """Return the cells of the table of cubins.md by kernel and dimension."""
    lines = (ROOT / "benchmarks/results/cubins.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \w+\.\w+ ", line)]
    return {(row[0], row[1]): row for row in rows}


@pytest.mark.parametrize("kernel", sorted(kernel_files()))
def test_every_kernel_is_listed_with_its_registers(kernel):
    name = f"{kernel_files()[kernel].stem}.{kernel}"
    found = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` ")]
    assert len(found) == 1, f"{name} needs one row in docs/gpu.md"
    _, _, test, registers, spilled, _ = (cell.strip() for cell in found[0].strip("|").split("|"))
    flat, solid = (compiled()[name, dim] for dim in ("2-D", "3-D"))
    dims = (flat,) if name.split(".")[0] in WITHOUT_DIM else (flat, solid)
    expected = "; ".join(", ".join(row[2:5]) for row in dims)
    assert registers == expected
    assert int(spilled) == max(int(flat[7]), int(solid[7]))
    files = list((ROOT / "tests/backends").rglob(f"{test.strip('`')}.py"))
    assert files
    assert "by " in found[0] or any(kernel in file.read_text() for file in files)


def test_every_module_is_listed():
    modules = {path.name for path in Path(kernel_files_module.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if f"`{name}`" not in PAGE} == set()


def test_every_named_test_exists():
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(?:tests/[\w/]*)?(test_\w+?)(?:\.py)?`", PAGE))
    assert named - there == set()
