"""The demonstration: the docstrings that it reads, the vectors, and the files that it writes."""

from __future__ import annotations

import importlib
import inspect
import shlex
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow.parquet as pq
import pytest

from nomad_dask import cli
from nomad_dask.callbacks import Event, StageFinished, StageStarted
from nomad_dask.demo import docstrings, embeddings
from nomad_dask.errors import InputError
from tests.helpers.processes import without_progress

PACKAGES = ("dask", "rich")  # two with a little more than the docstrings that are needed
LONG = "Long enough to be a docstring that says something about itself."

SOURCE = f'''"""Module: {LONG}"""

def public():
    """Function: {LONG}"""

async def waits():
    """Coroutine: {LONG}"""

def _private():
    """Private: {LONG}"""

def short():
    """Too short."""

def bare():
    pass

class Thing:
    """Class: {LONG}"""

    def method(self):
        """Method:
            {LONG}"""

    def __repr__(self):
        """Magic: {LONG}"""

    class Inner:
        """Inner: {LONG}"""

if True:
    def conditional():
        """Conditional: {LONG}"""
else:
    def otherwise():
        """Otherwise: {LONG}"""

try:
    from elsewhere import again
except ImportError:
    def again():
        """Function: {LONG}"""
'''


def silent(event: Event) -> None:
    pass


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "parcel"
    for folder in (root, root / "_inner", root / "tests"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (root / "_inner" / "things.py").write_text(SOURCE)
    (root / "tests" / "test_things.py").write_text(f'"""Tests: {LONG}"""')
    (root / "broken.py").write_text(f'"""Broken: {LONG}"""\ndef (:')
    (root / "zeros.py").write_bytes(b'"""Zeros: ' + LONG.encode() + b'"""\0')
    return root


def test_reads_the_public_objects_once_and_names_them_as_users_do(package: Path) -> None:
    items = list(docstrings.collect(silent, [(package, "parcel")]))
    assert {(item.name, item.kind) for item in items} == {
        ("parcel.things.public", "function"),
        ("parcel.things.waits", "function"),
        ("parcel.things.Thing", "class"),
        ("parcel.things.Thing.method", "method"),
        ("parcel.things.Thing.Inner", "class"),
        ("parcel.things.conditional", "function"),
        ("parcel.things.otherwise", "function"),
    }
    assert {item.package for item in items} == {"parcel"}
    assert len({item.docstring for item in items}) == len(items)


def test_a_public_module_is_an_item_and_a_single_file_is_a_package(tmp_path: Path) -> None:
    file = tmp_path / "lonely.py"
    file.write_text(SOURCE)
    first = next(docstrings.collect(silent, [(file, "lonely")]))
    assert first == docstrings.Item("lonely", "lonely", "module", f"Module: {LONG}")


def test_the_same_docstrings_as_inspect_finds_by_importing() -> None:
    folder = Path(importlib.import_module("json").__file__ or "").parent
    found = {item.name: item.docstring for item in docstrings.collect(silent, [(folder, "python")])}
    for module in ("json", "json.decoder", "json.encoder"):
        for name, thing in inspect.getmembers(importlib.import_module(module)):
            if not (inspect.isfunction(thing) or inspect.isclass(thing)) or thing.__module__ != module:
                continue
            expected = inspect.cleandoc(thing.__doc__ or "")
            if len(expected) >= docstrings.MIN_DOCSTRING_LENGTH and not name.startswith(("_", "py_")):
                assert found.pop(f"{module}.{name}") == expected


def test_the_standard_library_and_the_installed_packages_are_found() -> None:
    roots = list(docstrings.installed_packages())
    packages = Counter(package for _, package in roots)
    assert packages["python"] > 100
    assert {"numpy", "scipy", "sklearn", "pandas", "dask", "pyarrow"} <= packages.keys()
    assert not packages.keys() & docstrings.SKIPPED_PACKAGES
    assert all(root.exists() for root, _ in roots)
    assert not any("site-packages" in str(root) for root, package in roots if package == "python")


def test_collecting_imports_nothing(package: Path) -> None:
    (package / "loud.py").write_text(f'"""Loud: {LONG}"""\nraise SystemExit')
    before = set(sys.modules)
    events: list[Event] = []
    items = list(docstrings.collect(events.append, [(package, "parcel")]))
    assert any(item.name == "parcel.loud" for item in items)
    assert set(sys.modules) == before
    assert isinstance(events[0], StageStarted)
    assert events[0].total == 6
    assert isinstance(events[-1], StageFinished)


@pytest.fixture(scope="module")
def corpus() -> list[docstrings.Item]:
    """Docstrings of two packages that every environment of this one has."""
    roots = [(root, package) for root, package in docstrings.installed_packages() if package in PACKAGES]
    return list(docstrings.collect(silent, roots))


def test_embeddings_are_unit_rows_beside_their_texts(corpus: list[docstrings.Item], tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    assert not embeddings.is_current(path)
    embeddings.write_embeddings(path, corpus, silent)
    assert embeddings.is_current(path)
    table = pq.read_table(path)
    assert table.column_names == ["name", "package", "kind", "text", "embedding"]
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<element: float>[256]")
    vectors = np.stack(table.column("embedding").to_numpy())
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)
    assert 0.95 * len(corpus) < len(vectors) <= len(corpus)
    assert max(map(len, table.column("text").to_pylist())) == embeddings.MAX_TEXT_LENGTH


def test_alike_texts_have_near_vectors_and_wordless_ones_none(corpus: list[docstrings.Item]) -> None:
    texts = [item.docstring for item in corpus]
    vectors = embeddings.vectorize([*texts, texts[0], "xyzzy plugh"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[-2], vectors[0], atol=1e-6)
    assert not vectors[-1].any()
    np.testing.assert_array_equal(vectors, embeddings.vectorize([*texts, texts[0], "xyzzy plugh"]))


def test_embeddings_of_another_environment_or_a_broken_file_are_not_taken(
    corpus: list[docstrings.Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "embeddings.parquet"
    embeddings.write_embeddings(path, corpus, silent)
    monkeypatch.setattr(embeddings.platform, "python_version", lambda: "3.99.0")
    assert not embeddings.is_current(path)
    path.write_bytes(b"PAR1 and no more")
    assert not embeddings.is_current(path)


def test_too_few_docstrings_are_refused(tmp_path: Path) -> None:
    items = [docstrings.Item(f"a.b{i}", "a", "function", LONG) for i in range(10)]
    with pytest.raises(InputError, match=r"Only 10 docstrings .* sources"):
        embeddings.write_embeddings(tmp_path / "embeddings.parquet", items, silent)
    assert list(tmp_path.iterdir()) == []


def test_the_command_maps_scores_draws_and_reuses_the_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = [(root, package) for root, package in docstrings.installed_packages() if package in PACKAGES]
    monkeypatch.setattr(docstrings, "installed_packages", lambda: iter(few))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nomad-dask", "demo"])

    def run() -> list[str]:
        with pytest.raises(SystemExit) as end:
            cli.cli(prog_name="nomad-dask")
        out, err = capfd.readouterr()
        assert (end.value.code, without_progress(err)) == (0, "")
        return out.splitlines()

    lines = run()
    paths = [
        tmp_path / line.split()[1] for line in lines if line.startswith(("embeddings ", "map ", "picture ", "page "))
    ]
    vectors, map_path, picture, page = paths
    assert sorted((tmp_path / "demo").iterdir()) == sorted([vectors, map_path, picture, page.parent])
    (address,) = (line.strip() for line in lines if line.startswith("  file://"))
    assert Path(url2pathname(urlsplit(address).path)) == page.resolve()
    assert {"index.html", "site.js", "tiles", "text", "search"} <= {p.name for p in page.parent.iterdir()}
    made, given = pq.read_table(map_path), pq.read_table(vectors)
    assert made.column_names == ["x", "y", "cell", "name", "package", "kind", "text"]
    assert made.column("name").equals(given.column("name"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    (accuracy,) = (line for line in lines if line.startswith("label accuracy"))
    assert float(accuracy.split()[2]) > 0.8  # of two packages, one with a third of the items
    before = vectors.stat().st_mtime_ns
    assert run() == lines
    assert vectors.stat().st_mtime_ns == before
    assert pq.read_table(map_path).equals(made)

    # What it proposes to try next works as it stands.
    proposed = [shlex.split(line)[1:] for line in lines if line.startswith("  nomad-dask ")]
    assert [words[0] for words in proposed] == ["plot", "score", "fit"]
    for words in proposed:
        monkeypatch.setattr(sys, "argv", ["nomad-dask", *words])
        run()
