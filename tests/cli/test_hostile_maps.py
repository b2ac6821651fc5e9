"""Maps that are damaged, foreign or no maps at all: every command ends in 0 or 2 with one line, never in 1."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nomad_dask.cli import cli
from nomad_dask.sources import open_source

N = 60
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
COSINE = json.dumps({"params": {"metric": "cosine"}}).encode()
pytestmark = pytest.mark.filterwarnings("always::nomad_dask.errors.NomadWarning")


def write(folder: Path, metadata: bytes = COSINE, **columns: object) -> Path:
    table = pa.table({"x": X[:, 0], "y": X[:, 1], "name": [f"n{i % 3}" for i in range(N)], **columns})
    pyarrow.feather.write_feather(table.replace_schema_metadata({b"nomad_dask": metadata}), str(folder / "m.feather"))
    return folder / "m.feather"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


COLUMNS = {
    "list": pa.array([[1]] * N),
    "struct": pa.array([{"a": 1}] * N),
    "binary": pa.array([b"a\xff"] * N),
    "fixed": pa.array([b"ab"] * N, pa.binary(2)),
    "map": pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "nested": pa.array([[[1]]] * N),
    "text that is not UTF-8": pa.array([b"\xff\xfe"] * N).view(pa.string()),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize(
    "command",
    [
        ["plot", "-o", "p.png", "--color", "v"],
        ["plot", "-o", "p.png", "--labels", "v"],
        ["plot", "-o", "p.png", "--label-text", "v"],
        ["export", "-o", "site", "--color", "v"],
        ["export", "-o", "site", "--hover", "v"],
        ["score", "--label", "v"],
        ["plot", "-o", "p.png", "x"],
    ],
    ids=" ".join,
)
def test_columns_that_are_no_values(tmp_path, monkeypatch, data, kind, command):
    monkeypatch.chdir(tmp_path)
    as_position = command[-1] == "x"
    path = write(tmp_path, **{"x" if as_position else "v": COLUMNS[kind]})
    first, *rest = command[:-1] if as_position else command
    code, output = run(first, *([data] if first == "score" else []), path, *rest)
    if first == "score" and kind in ("binary", "fixed"):
        assert code == 0, output  # bytes are labels as good as others
        return
    assert code == 2, output
    assert re.search(r"'v'|'x'|column of (colors|labels)|this column|labels cannot|UTF-?8", output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.feather", "x.npy"]


@pytest.mark.parametrize("command", [["plot", "-o", "p.png"], ["export", "-o", "site"], ["score"], ["view", "--quiet"]])
@pytest.mark.parametrize("kind", ["fifo", "directory", "/dev/zero", "socket", "text", "empty", "no columns", "no x"])
def test_what_is_no_map(tmp_path, monkeypatch, data, kind, command):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.parquet"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140600)
    elif kind == "/dev/zero":
        path = Path(kind)
    elif kind.startswith("no"):
        pq.write_table(pa.table({} if kind == "no columns" else {"embedding": pa.array([[1.0]]), "id": [7]}), path)
    else:
        path.write_text("no map" if kind == "text" else "")
    code, output = run(command[0], *([data] if command[0] == "score" else []), path, *command[1:])
    assert code == 2, output
    if kind == "no x":
        assert "It has 'embedding', 'id'. A map has the columns 'x' and 'y'" in output
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    "metadata", [b"{", b"\xff", b"[]", b'{"params": [1]}', b'{"params": {"metric": [1]}}', b"[" * 10**5]
)
def test_score_asks_for_a_metric_that_the_map_does_not_say(tmp_path, data, metadata):
    path = write(tmp_path, metadata)
    code, output = run("score", data, path, "--json", "--quiet", "--metric", "cosine")
    assert code == 0, output
    known = run("score", data, write(tmp_path), "--json", "--quiet")[1]
    assert json.loads(known) == json.loads(output.splitlines()[-1])
    code, output = run("score", data, write(tmp_path, metadata), "--quiet")
    assert code == (2 if b"metric" in metadata else 0)
    assert "--metric" in output


def test_a_third_axis_is_said_or_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, z=X[:, 2])
    code, output = run("plot", path, "-o", "xy.png", "--size", "220x200")
    assert (code, "three dimensions, of which x and y are shown" in output) == (0, True)
    code, output = run("plot", path, "-o", "zy.png", "--size", "220x200", "--axes", "z,y")
    assert (code, output) == (0, "zy.png\n")
    assert Path("zy.png").read_bytes() != Path("xy.png").read_bytes()
    code, output = run("export", path, "-o", "site", "--quiet", "--axes", "x,z")
    assert (code, output) == (0, "site/index.html\n")
    for wrong in ("x", "x,x", "x,w", "x,y,z"):
        code, output = run("plot", path, "-o", "no.png", "--axes", wrong)
        assert code == 2
        assert "give two different axes of the map, which has x, y, z, such as y,z" in output
    code, output = run("plot", write(tmp_path), "-o", "no.png", "--axes", "x,z")
    assert (code, "which has x, y" in output) == (2, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_without_a_position(tmp_path, monkeypatch, data, value):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, y=np.where(np.arange(N) == 7, value, X[:, 1]))
    code, output = run("plot", path, "-o", "p.png", "--size", "220x200")
    assert (
        code,
        f"1 of 60 rows have no finite position and are left out, the first is row 7 with x = {X[7, 0]}" in output,
    ) == (0, True)
    for command in (["score", data, path], ["export", path, "-o", "site"]):
        code, output = run(*command)
        assert code == 2
        assert re.search(r"[Rr]ow 7 ", output)


def test_score_refuses_sizes_without_a_choice_and_other_data(tmp_path, data):
    path = write(tmp_path)
    code, output = run("score", data, path, "--k", "5000")
    assert (code, "k=5000 is out of range: of 60 rows, all are neighbors" in output) == (2, True)
    X_nan = X.copy()
    X_nan[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", X_nan)
    code, output = run("score", tmp_path / "nan.npy", path)
    assert (code, "row 3, column 1" in output) == (2, True)


def test_score_says_if_the_vectors_are_others_than_those_of_the_map(tmp_path):
    columns = {f"v{i}": X[:, i] for i in range(4)} | {"label": np.arange(N) % 2}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    source = open_source(str(tmp_path / "in.parquet"), metadata_columns=["label"])
    described = {"name": source.name, "fingerprint": source.fingerprint()}
    path = write(tmp_path, json.dumps({"params": {"metric": "euclidean"}, "source": described}).encode())
    code, output = run("score", source.name, path, "--quiet", "--metadata-columns", "label", "--label", "label")
    assert (code, "is not as it was" in output) == (0, False)
    code, output = run("score", source.name, path, "--quiet")
    assert (code, "is not as it was when the map was made" in output) == (0, True)
    pq.write_table(pa.table(columns | {"v0": X[:, 1]}), tmp_path / "in.parquet")
    code, output = run("score", source.name, path, "--quiet", "--metadata-columns", "label")
    assert (code, "is not as it was when the map was made" in output) == (0, True)
