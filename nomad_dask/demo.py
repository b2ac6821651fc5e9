"""The demonstration: a map of the documentation that every Python installation has.

The docstrings of the public modules, functions, classes and methods of the standard library and of the
installed packages are read from their sources, which are not imported.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.callbacks.events import Emit
from nomad_dask.callbacks.progress_bars import stage_progress
from nomad_dask.errors import InputError
from nomad_dask.params import Params
from nomad_dask.storage.atomic import atomic_write

N_DIMS = 256
SHORTEST_DOCSTRING = 40
SHOWN_CHARACTERS = 300
# Fewer would make a poor map, and the vectors could not have their dimensions.
FEWEST_ITEMS = 1000
# Not what a package is for: its tests, and copies of other packages that it carries along.
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
# What every virtual environment holds, map or no map.
SKIPPED_PACKAGES = frozenset(["pip", "pkg_resources", "setuptools", "wheel"])
METADATA_KEY = b"nomad_dask.demo"


@dataclass(frozen=True)
class Item:
    """A documented object.

    Attributes
    ----------
    name : str
        Dotted name without the private modules that hold it, such as ``"scipy.optimize.minimize"``.
    package : str
        The package it comes with; ``"python"`` for the standard library.
    kind : str
        ``"module"``, ``"class"``, ``"function"`` or ``"method"``.
    docstring : str
        Its documentation, without the indentation.
    """

    name: str
    package: str
    kind: str
    docstring: str


@dataclass(frozen=True)
class Demo:
    """What the demonstration made.

    Attributes
    ----------
    embeddings, map, picture, page : pathlib.Path
        The files; the page lies in the folder of its site.
    n_items : int
        Rows of the map.
    scores : Any
        Quality of the map, as `nomad_dask.metrics.scores.score` gives it.
    """

    embeddings: Path
    map: Path
    picture: Path
    page: Path
    n_items: int
    scores: Any


def run_demo(folder: str | os.PathLike[str], *, device: str = "auto", emit: Emit) -> Demo:
    """Collect, vectorise, fit, score, draw, and write the page.

    Parameters
    ----------
    folder : path-like
        Where the files go; made when missing. Embeddings found there are taken when the installed packages
        are still the same; the map, the picture and the page are made anew.
    device : {"auto", "cpu", "gpu"}
        Where to lay out.
    emit : Emit
        Listener to the progress.

    Raises
    ------
    InputError
        The folder cannot be written, or Python's sources are not there.
    ResourceError
        Memory or disk are too small.
    """
    from nomad_dask.maps import read_map
    from nomad_dask.metrics.scores import score
    from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.plotting.raster import draw
    from nomad_dask.site.atomic_folder import check_folder
    from nomad_dask.site.export import export
    from nomad_dask.sources import open_source

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): give another directory.") from error
    embeddings, map_path, picture = folder / "embeddings.parquet", folder / "map.parquet", folder / "map.png"
    site = folder / "site"
    check_folder(site, overwrite=True)
    if not is_current(embeddings):
        write_embeddings(embeddings, list(collect(emit)), emit)

    source = open_source(embeddings, column="embedding")
    params = Params()
    project(
        source,
        params,
        cluster=ClusterOptions(device=device),
        workspace=WorkspaceOptions(overwrite=True),
        output=OutputOptions(map_path, metadata_columns=("name", "package", "kind", "text"), overwrite=True),
        emit=emit,
    )
    found = read_map(map_path)
    packages = found.table.column("package")
    with stage_progress(emit, "score", source.n_rows, "rows") as advance:
        scores = score(source, found.positions, labels=packages, metric=params.metric, on_progress=advance)
    title = f"{source.n_rows:,} docstrings"
    draw(
        found.positions[:, 0],
        found.positions[:, 1],
        color=packages,
        color_name="package",
        title=title,
        path=picture,
    )
    export(map_path, site, color=("package", "kind"), title=title, overwrite=True, emit=emit)
    return Demo(embeddings, map_path, picture, site / "index.html", source.n_rows, scores)


def collect(emit: Emit, roots: Iterable[tuple[Path, str]] | None = None) -> Iterator[Item]:
    """Read the docstrings, each text once.

    Parameters
    ----------
    emit : Emit
        Listener to the progress.
    roots : iterable of (pathlib.Path, str), optional
        Files or folders of packages, and what to call the package each belongs to; by default everything
        that `installed` finds.
    """
    roots = list(installed() if roots is None else roots)
    files = [(file, root, package) for root, package in roots for file in _sources(root)]
    seen: set[str] = set()
    with stage_progress(emit, "docstrings", len(files), "files") as advance:
        for done, (file, root, package) in enumerate(files):
            if done % 50 == 0:
                advance(done)
            for item in _items(file, root, package):
                if len(item.docstring) >= SHORTEST_DOCSTRING and item.docstring not in seen:
                    seen.add(item.docstring)
                    yield item


def installed() -> Iterator[tuple[Path, str]]:
    """Yield the files and folders of every public module of the standard library and of what is installed."""
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


def _sources(root: Path) -> list[Path]:
    """Return the source files of a module or package, without its tests."""
    if root.is_file():
        return [root]
    return [file for file in sorted(root.rglob("*.py")) if not _is_skipped(file.relative_to(root).parts)]


def _is_skipped(parts: Sequence[str]) -> bool:
    return any(p in SKIPPED_FOLDERS or p.startswith("test_") or p == "conftest.py" for p in parts)


def _items(file: Path, root: Path, package: str) -> Iterator[Item]:
    """Yield the documented public objects of one source file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # a template, or the syntax of another Python: there is no docstring to be had from it
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


def vectorise(texts: Sequence[str]) -> np.ndarray:
    """Return latent semantic vectors: TF-IDF of the words, reduced by a truncated SVD.

    Parameters
    ----------
    texts : sequence of str
        At least a few hundred.

    Returns
    -------
    ndarray of float32, shape (len(texts), 256)
        Unit rows; a text without a word that others use has a row of zeros.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=3, max_df=0.5, dtype=np.float32)
    svd = TruncatedSVD(N_DIMS, n_iter=2, random_state=0)
    vectors = svd.fit_transform(words.fit_transform(texts))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return units


def write_embeddings(path: Path, items: Sequence[Item], emit: Emit) -> None:
    """Vectorise the items and write them as Parquet: name, package, kind, text, embedding.

    Raises
    ------
    InputError
        There are too few items.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(items) < FEWEST_ITEMS:
        raise InputError(
            f"Only {len(items)} docstrings were found, the demo needs {FEWEST_ITEMS}: "
            "run it with a Python that has its sources (.py files)."
        )
    with stage_progress(emit, "vectors", len(items), "rows"):
        vectors = vectorise([item.docstring for item in items])
    meant = np.flatnonzero(np.any(vectors, axis=1))
    kept = [items[i] for i in meant.tolist()]
    table = pa.table(
        {
            "name": [item.name for item in kept],
            "package": [item.package for item in kept],
            "kind": [item.kind for item in kept],
            "text": [" ".join(item.docstring.split())[:SHOWN_CHARACTERS] for item in kept],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors[meant].ravel()), N_DIMS),
        }
    )
    with atomic_write(path) as partial:
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: _environment()}), partial)


def is_current(path: Path) -> bool:
    """Tell whether a file holds the embeddings of what is installed now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return False
    return bool(metadata.get(METADATA_KEY) == _environment())


def _environment() -> bytes:
    """Return what the embeddings depend on: Python and the installed packages."""
    packages = sorted({f"{d.name}=={d.version}" for d in distributions()})
    return json.dumps({"format": 1, "python": platform.python_version(), "packages": packages}).encode()
