"""The docstrings of the public modules, functions, classes and methods of this Python installation.

They are read from the sources of the standard library and of the installed packages, which are not imported.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomad_dask.callbacks.events import Emit
from nomad_dask.callbacks.progress_bars import stage_progress

MIN_DOCSTRING_LENGTH = 40
# Tests of a package, and copies of other packages in it.
SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "_tests",
        "testing",
        "idlelib",
        "_vendor",
        "vendor",
        "_vendored",
        "externals",
        "_externals",
    ]
)
# In every virtual environment.
SKIPPED_PACKAGES = frozenset(["pip", "pkg_resources", "setuptools", "wheel"])


@dataclass(frozen=True)
class Item:
    """A documented object.

    Attributes
    ----------
    name : str
        Dotted name without private modules, such as ``"scipy.optimize.minimize"``.
    package : str
        Its package; ``"python"`` for the standard library.
    kind : str
        ``"module"``, ``"class"``, ``"function"`` or ``"method"``.
    docstring : str
        Its documentation, without indentation.
    """

    name: str
    package: str
    kind: str
    docstring: str


def collect(emit: Emit, roots: Iterable[tuple[Path, str]] | None = None) -> Iterator[Item]:
    """Read the docstrings, without duplicates.

    Parameters
    ----------
    emit : Emit
        Receives the events.
    roots : iterable of (pathlib.Path, str), optional
        Files or folders of packages, each with the name of its package; by default those of
        `installed_packages`.
    """
    roots = list(installed_packages() if roots is None else roots)
    files = [(file, root, package) for root, package in roots for file in _source_files(root)]
    seen: set[str] = set()
    with stage_progress(emit, "docstrings", len(files), "files") as advance:
        for done, (file, root, package) in enumerate(files):
            if done % 50 == 0:
                advance(done)
            for item in _read_items(file, root, package):
                if len(item.docstring) >= MIN_DOCSTRING_LENGTH and item.docstring not in seen:
                    seen.add(item.docstring)
                    yield item


def installed_packages() -> Iterator[tuple[Path, str]]:
    """Yield the files and folders of the public modules of the standard library and the installed packages."""
    paths = sysconfig.get_paths()
    for name in sorted(sys.stdlib_module_names):
        for root in (Path(paths["stdlib"]) / name, Path(paths["stdlib"]) / f"{name}.py"):
            if root.exists() and not name.startswith("_") and name not in SKIPPED_FOLDERS:
                yield root, "python"
    for site in sorted({paths["purelib"], paths["platlib"]}):
        for root in sorted(Path(site).iterdir()):
            importable = root.suffix == ".py" or (root / "__init__.py").exists()
            if importable and not root.stem.startswith("_") and root.stem not in SKIPPED_PACKAGES:
                yield root, root.stem


def _source_files(root: Path) -> list[Path]:
    """Return the source files of a module or package, without its tests."""
    if root.is_file():
        return [root]
    return [file for file in sorted(root.rglob("*.py")) if not _is_skipped(file.relative_to(root).parts)]


def _is_skipped(parts: Sequence[str]) -> bool:
    return any(p in SKIPPED_FOLDERS or p.startswith("test_") or p == "conftest.py" for p in parts)


def _read_items(file: Path, root: Path, package: str) -> Iterator[Item]:
    """Yield the documented public objects of one source file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in other packages
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # a template, or the syntax of another version of Python
    parts = [p for p in file.relative_to(root.parent).with_suffix("").parts if p != "__init__"]
    public = [p for p in parts if not p.startswith("_")]
    module = ".".join(public)
    if public == parts and (docstring := ast.get_docstring(tree)):
        yield Item(module, package, "module", docstring)
    yield from _definitions(tree.body, module, package, in_class=False)


def _definitions(body: Sequence[ast.stmt], owner: str, package: str, *, in_class: bool) -> Iterator[Item]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("_"):
                if docstring := ast.get_docstring(node):
                    yield Item(f"{owner}.{name}", package, "method" if in_class else "function", docstring)
            case ast.ClassDef(name=name) if not name.startswith("_"):
                if docstring := ast.get_docstring(node):
                    yield Item(f"{owner}.{name}", package, "class", docstring)
                yield from _definitions(node.body, f"{owner}.{name}", package, in_class=True)
            case ast.If(body=then, orelse=otherwise) | ast.Try(body=then, orelse=otherwise):
                yield from _definitions([*then, *otherwise], owner, package, in_class=in_class)
            case _:
                pass
