"""Which functions of RAPIDS and CuPy the package calls, and in which forms: read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nomad_dask

PACKAGE = Path(nomad_dask.__file__).parent
# Files outside the package that call them: the benchmark of a GPU.
BESIDE = tuple(sorted((Path(__file__).parents[3] / "benchmarks").glob("gpu*.py")))
LIBRARIES = {
    "cudf", "cuml", "cupy", "cupy_backends", "cuvs", "dask_cuda", "dask_cudf", "kvikio",
    "pylibraft", "pynvml", "raft_dask", "rmm",
}  # fmt: skip
# Names of modules that are passed as arguments.
HANDED = {"xp": "cupy", "_cupy": "cupy", "cupy": "cupy", "cuda": "cupy.cuda.runtime"}
# Files that use objects of these libraries: methods called here may be methods of these objects.
WITH_OBJECTS = (
    *sorted((PACKAGE / "backends/gpu").glob("*.py")),
    PACKAGE / "backends/cuml_kmeans.py",
    PACKAGE / "backends/devices.py",
    PACKAGE / "backends/kmeans_tree.py",
    PACKAGE / "backends/pca.py",
    *(PACKAGE / f"sources/{name}.py" for name in ("cudf", "cupy", "dask_cudf", "dask_cupy", "device", "open_device")),
    PACKAGE / "maps/convert.py",
    PACKAGE / "maps/open.py",
    *(file for file in BESIDE if file.stem not in ("gpu_prediction", "gpu_quick", "gpu_report", "gpu_steps")),
)
OTHER_MODULES = {"da", "dask", "heapq", "importlib", "json", "math", "np", "os", "pa", "pq", "re", "threading"}


@dataclass(frozen=True, order=True)
class Form:
    """A form of a call: the number of positional arguments, and the names of the keyword arguments."""

    name: str
    n_positional: int
    keywords: tuple[str, ...]

    def __str__(self) -> str:
        return f'("{self.name}", {self.n_positional}, "{" ".join(self.keywords)}"),'


@cache
def _parse(source: str) -> ast.Module:
    """Return the syntax tree; where another thread parses too, CPython 3.11 may raise an error (gh-106905)."""
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)


def form_of(name: str, call: ast.Call) -> Form:
    assert all(k.arg for k in call.keywords), f"{ast.unparse(call)}: what ** passes cannot be checked, write it out"
    positional = [a for a in call.args if not isinstance(a, ast.Starred)]
    assert len(positional) == len(call.args), f"{ast.unparse(call)}: what * passes cannot be checked, write it out"
    return Form(name, len(positional), tuple(sorted(str(k.arg) for k in call.keywords)))


def chain(node: ast.expr) -> list[str] | None:
    """Return the names of ``a.b.c``; None for other expressions."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*reversed([*names, node.id])] if isinstance(node, ast.Name) else None


class _Names:
    """The meaning of the names in a file, from its imports and from assignments such as ``runtime = cupy.cuda``."""

    def __init__(self, tree: ast.Module) -> None:
        self.meaning: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] in LIBRARIES:
                        self.meaning[alias.asname or alias.name.split(".")[0]] = (
                            alias.name if alias.asname else alias.name.split(".")[0]
                        )
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
                for alias in node.names:
                    self.meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    pairs = [(target, node.value)]
                    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        pairs = list(zip(target.elts, node.value.elts, strict=True))
                    for name, value in pairs:
                        message = self.of(value)
                        if isinstance(name, ast.Name) and message is not None and message != "cupy":
                            self.meaning[name.id] = message

    def of(self, node: ast.expr) -> str | None:
        """Return the full name in a library, such as ``cupy.cuda.Stream``; None for other expressions."""
        names = chain(node)
        if names is None:
            return None
        for i, name in enumerate(names):
            if name in HANDED:
                return ".".join([HANDED[name], *names[i + 1 :]])
        if names[0] in self.meaning:
            return ".".join([self.meaning[names[0]], *names[1:]])
        return None


def _all_files() -> tuple[Path, ...]:
    return (*sorted(PACKAGE.rglob("*.py")), *BESIDE)


def _where(file: Path, node: ast.expr) -> str:
    return f"{file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file.name}:{node.lineno}"


def _parsed(files: Iterator[Path] | tuple[Path, ...]) -> Iterator[tuple[Path, ast.Module]]:
    for file in files:
        yield file, _parse(file.read_text())


def functions_called() -> dict[Form, str]:
    """Return the calls of functions and classes by full name, with one location of each."""
    found: dict[Form, str] = {}
    for file, tree in _parsed(_all_files()):
        names = _Names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := names.of(node.func)) not in (None, "cupy"):
                found.setdefault(form_of(str(name), node), _where(file, node))
    return found


def constants_read() -> dict[str, str]:
    """Return the full names of other attributes that are read from a library, with one location of each."""
    found: dict[str, str] = {}
    for file, tree in _parsed(_all_files()):
        names = _Names(tree)
        parts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        parts |= {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in parts:
                name = names.of(node)
                if name is not None and "." in name:
                    found.setdefault(name, _where(file, node))
    return found


def methods_called() -> dict[Form, str]:
    """Return the calls of methods in files that use objects of the libraries, with one location of each."""
    found: dict[Form, str] = {}
    for file, tree in _parsed(WITH_OBJECTS):
        names = _Names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and names.of(node.func) is None:
                root = chain(node.func)
                if node.func.attr.startswith("_") or (root is not None and root[0] in OTHER_MODULES):
                    continue
                plain = not any(k.arg is None for k in node.keywords)
                if plain and not any(isinstance(a, ast.Starred) for a in node.args):
                    found.setdefault(form_of(node.func.attr, node), _where(file, node))
    return found


def own_names() -> set[str]:
    """Return the names of all functions and methods that the package defines."""
    return {
        node.name
        for _, tree in _parsed(_all_files())
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
