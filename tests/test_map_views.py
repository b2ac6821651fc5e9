"""A map in hand: given to others and back, drawn, and shown in a notebook."""

from __future__ import annotations

import base64
import io
import pickle
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nomad_dask
from nomad_dask import NomadProjection, read_map
from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.maps import Map, as_map
from nomad_dask.site.export import export
from nomad_dask.storage.table_files import TableFile
from tests.helpers.runs import blobs

# Most maps here have a row without a position, or three dimensions.
pytestmark = pytest.mark.filterwarnings("ignore:.*(no finite position|has three dimensions)")

N = 700
EVIL = "<script>alert(1)</script>"


@pytest.fixture(params=[2, 3])
def a_map(request: pytest.FixtureRequest) -> Map:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "cell": np.arange(N, dtype=np.int32) % 13,
            "name": [None if i % 7 == 0 else f"row {i}" for i in range(N)],
            "section": pa.array([f"section {i % 3}" for i in range(N)]).dictionary_encode(),
            "value": pa.array([None if i % 5 == 0 else i / 2 for i in range(N)]),
        }
    )
    positions = rng.normal(size=(N, request.param)).astype(np.float32)
    positions[3, 1] = np.nan
    return Map(positions, table, {"version": "1", "source": {"name": "vectors.npy"}, "diagnostics": {"recall": 0.97}})


def same(a: Map, b: Map, types: bool = True) -> None:
    assert a.positions.dtype == b.positions.dtype == np.float32
    np.testing.assert_array_equal(a.positions, b.positions)
    assert a.columns == b.columns
    for name in a.table.column_names:
        assert a.table.column(name).to_pylist() == b.table.column(name).to_pylist()
        assert not types or a.table.schema.field(name).type == b.table.schema.field(name).type


def test_there_and_back(a_map, tmp_path):
    same(as_map(a_map.to_arrow()), a_map)
    back = as_map(a_map.to_pandas())
    np.testing.assert_array_equal(back.positions, a_map.positions)
    pd.testing.assert_frame_equal(back.to_pandas(), a_map.to_pandas())
    same(as_map(pl.from_arrow(a_map.to_arrow())), a_map, types=False)
    assert a_map.to_parquet(tmp_path / "m.parquet") == tmp_path / "m.parquet"
    read = read_map(tmp_path / "m.parquet")
    same(read, a_map)
    assert read.metadata == a_map.metadata
    same(pickle.loads(pickle.dumps(a_map)), a_map)
    assert len(read) == N


def test_dask_has_the_same_rows_in_the_same_order(a_map):
    lazy = a_map.to_dask(chunk_rows=200)
    assert lazy.npartitions == 4
    found = lazy.compute()
    assert list(found.columns) == a_map.columns
    axes = list(a_map.columns[: a_map.positions.shape[1]])
    np.testing.assert_array_equal(found[axes].to_numpy(np.float32), a_map.positions)
    assert found["name"].fillna("").tolist() == [name or "" for name in a_map.table.column("name").to_pylist()]


def test_only_the_columns_asked_for_are_read(a_map, tmp_path):
    a_map.to_parquet(tmp_path / "m.parquet")
    read = read_map(tmp_path / "m.parquet", columns=["value"], optional_columns=["cell", "nothing"])
    assert read.table.column_names == ["cell", "value"]
    with pytest.raises(InputError, match=r"no column 'valeu'.*Did you mean 'value'"):
        read_map(tmp_path / "m.parquet", columns=["valeu"])


def test_what_is_no_map_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"The frame has no column 'y'"):
        as_map(pd.DataFrame({"x": [1.0]}))
    with pytest.raises(InputError, match="'x' of the table holds string: positions must be numbers"):
        as_map(pa.table({"x": ["a"], "y": ["b"]}))
    with pytest.raises(InputError, match="A list is not a map"):
        as_map([1, 2])
    with pytest.raises(MissingInputError):
        as_map(tmp_path / "none.parquet")


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("dask.dataframe", "to_dask")])
def test_without_a_package_it_says_what_to_install(a_map, monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install"):
        getattr(a_map, method)()


def test_the_estimator_has_its_map(tmp_path):
    frame = pd.DataFrame({"vector": list(blobs(300, 8)), "name": [f"row {i}" for i in range(300)], "n": range(300)})
    nomad = NomadProjection(n_epochs=5).fit(frame, column="vector", metadata_columns=["n", "name"])
    found = nomad.map_
    np.testing.assert_array_equal(found.positions, nomad.embedding_)
    np.testing.assert_array_equal(found.table.column("cell"), nomad.cell_labels_)
    assert found.columns == ["x", "y", "cell", "n", "name"]
    assert found.table.column("name").to_pylist() == frame["name"].tolist()
    assert found.table.column("n").to_pylist() == list(range(300))
    assert found.metadata["params"]["n_epochs"] == 5
    assert found.metadata["source"]["rows"] == 300
    same(read_map(found.to_parquet(tmp_path / "m.parquet")), found)
    with pytest.raises(InputError, match=r"no column 'nmae' to keep.*Did you mean 'name'"):
        nomad.fit(frame, column="vector", metadata_columns=["nmae"])
    with pytest.raises(InputError, match="cannot be kept"):
        nomad.fit(frame, column="vector", metadata_columns=["cell"])
    assert nomad.fit(blobs(300, 8)).map_.columns == ["x", "y", "cell"]


def test_plot_draws_maps_files_and_frames(a_map, tmp_path):
    a_map.to_parquet(tmp_path / "m.parquet")
    for i, found in enumerate([a_map, tmp_path / "m.parquet", str(tmp_path / "m.parquet"), a_map.to_arrow()]):
        nomad_dask.plot(found, tmp_path / f"{i}.png", color="section", labels="section", size=(300, 240))
    pictures = [(tmp_path / f"{i}.png").read_bytes() for i in range(4)]
    assert len(set(pictures)) == 1
    plain = nomad_dask.plot(a_map, tmp_path / "plain.png", color="section", size=(300, 240)).read_bytes()
    assert plain != pictures[0]
    assert a_map.plot(tmp_path / "t.svg", label_text="name", color="x", size=(300, 240)).exists()
    for wrong in ({"color": "sektion"}, {"labels": "sektion"}, {"label_text": "sektion"}):
        with pytest.raises(InputError, match=r"no column 'sektion'.*Did you mean 'section'"):
            a_map.plot(tmp_path / "no.png", **wrong)
    with pytest.raises(InputError, match="not both"):
        a_map.plot(tmp_path / "no.png", labels="section", label_text="name")
    assert not (tmp_path / "no.png").exists()


def test_explore_takes_maps_files_and_frames(a_map, tmp_path):
    path = a_map.to_parquet(tmp_path / "m.parquet")
    found = [a_map, path, str(path), a_map.to_pandas(), pl.from_arrow(a_map.to_arrow())]
    views = [nomad_dask.explore(x, "section", ["name", "x"], size=(400, 300)) for x in found]
    for view in views:
        np.testing.assert_array_equal(view.widget.points, views[0].widget.points)
        assert view.widget.color == views[0].widget.color
        assert view.widget.tooltip_properties == ["color", "name", "x"]
    with pytest.raises(InputError, match=r"no column 'sektion'.*Did you mean 'section'"):
        nomad_dask.explore(path, "sektion")
    with pytest.raises(InputError, match="is one name"):
        nomad_dask.explore(path, hover="name")


def test_of_a_file_only_what_is_shown_is_read(a_map, tmp_path, monkeypatch):
    path = a_map.to_parquet(tmp_path / "m.parquet")
    read = []
    whole = TableFile.read
    monkeypatch.setattr(TableFile, "read", lambda self, columns: read.append(columns) or whole(self, columns))
    nomad_dask.explore(path, "value", ["name"])
    nomad_dask.plot(path, tmp_path / "a.png", color="x", size=(200, 200))
    nomad_dask.plot(path, tmp_path / "b.png", label_text="name", size=(200, 200))
    axes = a_map.columns[: a_map.positions.shape[1]]
    assert read == [[*axes, "name", "value"], axes, [*axes, "cell", "name"]]


class Parts(HTMLParser):
    """Collects tags, attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_a_small_picture_and_the_columns(a_map):
    parts = Parts(a_map._repr_html_())
    (image,) = [attributes for tag, attributes in parts.tags if tag == "img"]
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert picture.shape == (260, 320, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    assert [text for text in parts.texts if text in a_map.columns] == a_map.columns
    assert " of 700 rows, of vectors.npy, recall 0.970" in parts.texts
    assert repr(a_map).startswith("<Map of 700 rows: x, y, ")


def test_script_in_column_names_and_metadata_is_text():
    table = pa.table({EVIL: ["a"], '"><img src=x onerror=alert(1)>': ["b"], "long" * 500: ["c"]})
    found = Map(np.zeros((1, 2), np.float32), table, {"source": {"name": EVIL}})
    parts = Parts(found._repr_html_())
    assert {tag for tag, _ in parts.tags} <= {"div", "img", "strong", "table", "tr", "td", "code"}
    assert sum(tag == "img" for tag, _ in parts.tags) == 1
    assert not [name for _, attributes in parts.tags for name in attributes if name.startswith("on")]
    assert EVIL in parts.texts
    assert max(map(len, parts.texts)) <= 250


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_map_is_shown_too(n):
    found = Map(np.zeros((n, 2), np.float32), pa.table({"cell": np.zeros(n, np.int32)}), {})
    assert "data:image/png" in found._repr_html_()
    assert as_map(found.to_arrow()).columns == ["x", "y", "cell"]


@pytest.mark.parametrize("package", ["PIL", "colorcet"])
def test_without_a_package_for_pictures_the_columns_are_shown(a_map, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    parts = Parts(a_map._repr_html_())
    assert not [tag for tag, _ in parts.tags if tag == "img"]
    assert any("nomad-dask[plot]" in text for text in parts.texts)


def test_a_parquet_file_of_others_stays_readable(a_map, tmp_path):
    path = Path(a_map.to_parquet(tmp_path / "m.parquet"))
    assert pq.read_schema(path).names == a_map.columns
    assert list(pd.read_parquet(path).columns) == a_map.columns


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m, p: m.plot(p, color=5), "no column 5"),
        (lambda m, p: m.plot(p, size=300), "size=300 is out of range"),
        (lambda m, p: m.plot(p, size=(300.5, 300)), "is out of range"),
        (lambda m, p: m.plot(p, axes=5), "axes=5 is not accepted"),
        (lambda m, p: m.plot(p, axes=(["x"], "y")), "is not accepted"),
        (lambda m, p: m.plot(p, theme=["dark"]), "theme="),
        (lambda m, p: m.explore(size=5), "size=5 is out of range"),
        (lambda m, p: m.explore(hover=5), "hover=5 is one name"),
        (lambda m, p: nomad_dask.explore(m, hover=5), "hover=5 is one name"),
        (lambda m, p: read_map(5), "5 is not a path"),
        (
            lambda m, p: export(as_map(pa.table({"x": [1], "y": [1]})).to_csv(f"{p}.csv"), p, color="x"),
            "'x' is one name",
        ),
        (lambda m, p: export("m.csv", p, tile_rows="a"), "tile_rows=a is out of range"),
    ],
)
def test_arguments_of_other_types_are_named(a_map, tmp_path, use, message):
    with pytest.raises(InputError, match=message):
        use(a_map, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()
