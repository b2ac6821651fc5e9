"""What is imported when, and which room may import from which."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nomad_dask

PACKAGE = Path(nomad_dask.__file__).parent
HEAVY = ["dask", "datashader", "distributed", "matplotlib", "numba", "pandas", "pyarrow", "scipy", "sklearn"]

# From the ground up: a room imports only from rooms above it in this list, and from itself.
ROOMS = [
    "errors", "_version", "params", "utils", "storage", "plotting", "callbacks", "site", "sources", "backends",
    "planning", "cluster", "partition", "neighbors", "layout", "metrics", "maps", "pipeline", "model", "estimator",
    "demo", "cli",
]  # fmt: skip


def loaded_after(statements: str) -> set[str]:
    code = f"{statements}\nimport json, sys\nprint(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_imports_next_to_nothing():
    assert not loaded_after("import nomad_dask; nomad_dask.__version__").intersection(HEAVY)


def test_params_and_errors_import_nothing_heavy():
    assert not loaded_after(
        "from nomad_dask import Params, errors; from nomad_dask.callbacks import events"
    ).intersection(HEAVY)


def test_the_estimator_imports_no_cluster_and_no_plotting_before_a_fit():
    late = {"datashader", "distributed", "matplotlib", "numba"}
    # scikit-learn itself imports pandas where that is installed, and pandas pyarrow: not ours to keep out.
    assert not loaded_after("from nomad_dask import NomadProjection; NomadProjection()").intersection(late)


def test_a_picture_needs_nothing_that_takes_seconds_to_import_or_compile(tmp_path):
    """datashader, and Numba for its functions."""
    draw = f"draw(np.arange(9), np.arange(9) % 2, color=list('aab') * 3, path={str(tmp_path / 'map.png')!r})"
    found = loaded_after(f"import numpy as np\nfrom nomad_dask.plotting.raster import draw\n{draw}")
    assert not found.intersection({"dask", "datashader", "numba", "scipy"})
    assert (tmp_path / "map.png").exists()


def test_all_names_are_there():
    assert {name for name in nomad_dask.__all__ if hasattr(nomad_dask, name)} == set(nomad_dask.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = nomad_dask.nothing_like_it


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Return the modules of this package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "nomad_dask"}


FILES = sorted(PACKAGE.rglob("*.py"))


def test_modules_do_not_import_in_circles():
    """Neither within a package, which the order of the rooms leaves open, nor by an import inside a function."""
    names = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in FILES}
    graph = {
        module: {name if name in names else name.rpartition(".")[0] for name in imports(file)} - {module}
        for module, file in names.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a circle


def test_contributing_lists_the_same_order():
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^\| `(\w+)(?:\.py|/)` \|", page, re.MULTILINE) == ROOMS


def test_every_room_has_its_place():
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    assert rooms - {"__init__", "__main__"} <= set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_rooms_above_it(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    allowed = {*ROOMS[: ROOMS.index(room) + 1], "__version__"}
    wrong = {name for name in imports(file) if room_of(name) not in allowed}
    assert not wrong


def dotted_strings(file: Path) -> set[str]:
    """Return the string constants of a file that name a module of this package."""
    constants = (node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and value.startswith("nomad_dask.")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_only_backends_import_a_backend(file):
    """CPU and GPU differ behind one seam: everything else imports the modules that both share."""
    if file.relative_to(PACKAGE).parts[0] == "backends":
        return
    named = imports(file) | dotted_strings(file)
    wrong = {n for n in named if n.startswith(("nomad_dask.backends.cpu", "nomad_dask.backends.gpu"))}
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_only_a_backend_knows_its_own_libraries(file):
    """Numba kernels live behind the seam. The grouping of rows into patches is the one exception."""
    room = file.relative_to(PACKAGE).parts[0]
    if room == "backends" or file.name == "patches.py":
        return
    text = file.read_text()
    assert "import numba" not in text
    assert "from numba" not in text
