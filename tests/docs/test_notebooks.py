"""The notebooks run from top to bottom, show what their text says, and are stored with their outputs."""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.run import NEEDS_GPU, run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
LARGEST_PICTURE = 300_000  # bytes
# Variables of a notebook that are instances of our classes, with the class.
OURS = {
    "nomad": "nomad_dask.NomadProjection",
    "nomad.map_": "nomad_dask.Map",
    "scores": "nomad_dask.metrics.scores.Scores",
}


class Ran:
    """The code cells of a notebook that was run in a folder with the data beside it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.cells = [cell for cell in run(NOTEBOOKS / name, folder).cells if cell.cell_type == "code"]
        assert [path.name for path in folder.iterdir()] == ["packages.parquet"]

    def cell(self, code: str) -> str:
        """Return the output of the first cell with this code, as text."""
        cell = next(cell for cell in self.cells if code in cell.source)
        texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
        return "\n".join(texts)

    def pictures(self) -> int:
        return sum("image/png" in out.get("data", {}) for cell in self.cells for out in cell.outputs)

    def warned(self) -> list[str]:
        return [out.text for cell in self.cells for out in cell.outputs if out.get("name") == "stderr"]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", text)]


def row(text: str, name: str) -> list[float]:
    """Return the numbers of a row of a data frame, which may be shown in several parts, without intervals."""
    shown = re.sub(r"\([^)]*\)", "", text)
    return [x for line in shown.splitlines() if re.match(rf"{name}\s", line) for x in numbers(line)]


@pytest.mark.slow
def test_five_minutes(tmp_path: Path) -> None:
    ran = Ran("five_minutes.ipynb", tmp_path)
    assert ran.warned() == []
    assert ran.cell("nomad.fit(").startswith("<Map of 10,000 rows: x, y, cell, name, section, text>")
    assert ran.cell("embedding_.shape") == "((10000, 2), dtype('float32'))"
    assert ran.pictures() == 2
    of_axes, of_map = (row(ran.cell("plain = score"), name) for name in ("two axes", "map"))
    assert of_map[0] > 5 * of_axes[0]  # NP@10
    assert of_map[2] > 2 * of_axes[2]  # label accuracy
    assert of_axes[1] > 0.6  # "the axes do well on RTA"


@pytest.mark.slow
def test_larger_than_memory(tmp_path: Path) -> None:
    ran = Ran("larger_than_memory.ipynb", tmp_path)
    assert ran.warned() == []
    assert "12,000 × 32" in ran.cell("nomad-dask plan")
    address = ast.literal_eval(ran.cell("client.dashboard_link"))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/status", address)
    assert "[(0, 'CPU'), (1, 'CPU')]" in ran.cell("exchanged_bytes")
    assert ran.cell("np.array_equal") == "(True, ['sample', 'cells', 'shards', 'neighbors', 'layout'])"
    assert len(ast.literal_eval(ran.cell("client.run(peak_memory)"))) == 2


@pytest.mark.slow
def test_judging_a_map(tmp_path: Path) -> None:
    ran = Ran("judging_a_map.ipynb", tmp_path)
    assert ran.warned() == []
    of_map, of_axes, drawn = row(ran.cell("PCA(2"), "NP@10")
    assert of_map > 5 * of_axes > 5 * drawn
    assert abs(row(ran.cell("PCA(2"), "RTA")[2] - 0.5) < 0.02
    for cell in ("seed {seed}", "sharded = "):
        assert max(row(ran.cell(cell), "NP@10")) - min(row(ran.cell(cell), "NP@10")) < 0.03
    in_one, in_both = numbers(ran.cell("in_both"))
    assert in_both > in_one + 0.05
    assert "'components': 1" in ran.cell("nomad.diagnostics_")
    assert "small components of the neighbor graph" in ran.cell("n_neighbors=1,")
    assert ran.pictures() == 2


@pytest.mark.slow
def test_exploring(tmp_path: Path) -> None:
    ran = Ran("exploring.ipynb", tmp_path)
    assert ran.warned() == []
    assert ran.pictures() == 3
    view = next(cell for cell in ran.cells if "map_.explore(" in cell.source)
    assert any("application/vnd.jupyter.widget-view+json" in out.get("data", {}) for out in view.outputs)
    assert "astronom" in ran.cell("view.selection(").lower()
    assert re.search(r"^other +9\d{3}$", ran.cell("value_counts()"), re.MULTILINE)
    assert "chess" in ran.cell("near_in_map")
    assert re.match(r"\d+ files, [\d,]+ bytes", ran.cell("export("))


@pytest.mark.gpu
def test_rapids(tmp_path: Path) -> None:
    ran = Ran(NEEDS_GPU, tmp_path)
    assert "cupy.ndarray" in ran.cell("X_gpu)\ntype(layout)").replace("class ", "")
    on_gpu, on_cpu = (numbers(line) for line in ran.cell("on_cpu = ").splitlines()[-2:])
    np_differs, rta_differs = (abs(a - b) for a, b in zip(on_gpu, on_cpu, strict=True))
    assert np_differs < 0.03
    assert rta_differs < 0.03


def test_notebook_that_needs_a_gpu_says_so_and_has_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOKS / NEEDS_GPU, as_version=4)
    assert "has not been run: there was no GPU" in notebook.cells[0].source
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)


def test_notebook_that_needs_a_gpu_calls_existing_functions() -> None:
    """Imports from the package exist, and calls match their signatures; ruff finds undefined names."""
    cells = nbformat.read(NOTEBOOKS / NEEDS_GPU, as_version=4).cells
    tree = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    known: dict[str, Any] = {name: resolved(path) for name, path in OURS.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nomad_dask"):
            known |= {alias.name: resolved(f"{node.module}.{alias.name}") for alias in node.names}
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := known.get(ast.unparse(node.value))) is not None:
            documented = (inspect.getdoc(owner) or "") + str(getattr(owner, "__dataclass_fields__", {}))
            assert hasattr(owner, node.attr) or re.search(rf"\b{node.attr}\b", documented), ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        function, first = known.get(ast.unparse(node.func)), []
        if isinstance(node.func, ast.Attribute):
            owner = node.func.value
            kind = known.get(ast.unparse(owner.func if isinstance(owner, ast.Call) else owner))
            function, first = getattr(kind, node.func.attr, None), [None]
        if function is not None:
            keywords = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(function).bind(*first, *node.args, **keywords)
            called.add(ast.unparse(node.func))
    assert {"NomadProjection", "score", "nomad.fit", "nomad.map_.to_cudf"} <= called


def resolved(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_notebooks_are_stored_with_their_outputs(path: Path) -> None:
    text = path.read_text()
    assert "/tmp/" not in text
    assert str(Path.home()) not in text
    if path.name == NEEDS_GPU:
        return
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "python notebooks/run.py"
    for out in (out for cell in cells for out in cell.outputs):
        assert out.output_type != "error"
        assert out.get("name") != "stderr"
        if png := out.get("data", {}).get("image/png"):
            assert len(base64.b64decode(png)) < LARGEST_PICTURE
