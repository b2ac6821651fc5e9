"""The notebooks run from top to bottom, and say what their text says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run(name: str, folder: Path) -> list[Any]:
    """Execute a notebook and return its code cells."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def results(cells: list[Any]) -> list[dict[str, Any]]:
    return [out.data for cell in cells for out in cell.outputs if out.output_type == "execute_result"]


def test_first_map(tmp_path: Path) -> None:
    cells = run("first_map.ipynb", tmp_path)
    assert not [out for cell in cells for out in cell.outputs if out.output_type in ("stream", "error")]
    found = results(cells)
    assert found[0]["text/plain"] == "(1797, 64)"
    assert found[1]["text/plain"] == "((1797, 2), dtype('float32'))"
    plain_and_map = ast.literal_eval(found[4]["text/plain"])
    assert plain_and_map["NP@10"][1] > 2 * plain_and_map["NP@10"][0]
    assert plain_and_map["label accuracy"][1] > 0.9 > plain_and_map["label accuracy"][0]
    assert all("image/png" in data for data in found[5:7])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs"), "clear all outputs before you commit"
