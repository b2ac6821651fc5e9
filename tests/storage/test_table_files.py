"""Tables in Parquet, Arrow and CSV files: what is written is read back, and damage is an error."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.errors import InputError, MissingInputError, NomadError
from nomad_dask.storage import csv_files
from nomad_dask.storage.open_table import open_table
from nomad_dask.storage.table_formats import format_to_write
from nomad_dask.storage.table_writer import check_writable, table_writer

N = 400
TEXTS = [None, "", 'a "b", c', "line\nbreak", "naïve 🦆", "NA", "null"]
SUFFIXES = [".parquet", ".pq", ".feather", ".arrow", ".csv"]


def table(n: int = N) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "x": rng.normal(size=n).astype(np.float32),
            "y": np.append([np.inf, np.nan, 1e-30], rng.normal(size=n))[:n],
            "id": pa.array([None if i % 7 == 0 else i * 2**53 // n for i in range(n)]),
            "large": pa.array([2**64 - 1 - i for i in range(n)], pa.uint64()),
            "zip": [f"{i:05}" for i in range(n)],
            "digits": [str(10**25 + i) for i in range(n)],
            "text": pa.array([TEXTS[i % 7] for i in range(n)]),
            "flag": pa.array([[True, False, None][i % 3] for i in range(n)]),
            "nothing": pa.nulls(n, pa.string()),
        }
    )


def write(path: Path, content: pa.Table, block: int = 150) -> Path:
    with table_writer(path, format_to_write(path), content.schema) as append:
        for start in range(0, max(1, content.num_rows), block):
            append(content.slice(start, block))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n", [0, 1, N])
def test_what_is_written_is_read(tmp_path, monkeypatch, suffix, n):
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 5_000)
    content = table(n)
    file = open_table(write(tmp_path / f"t{suffix.upper()}", content))
    assert (file.n_rows, file.schema.names) == (n, content.column_names)
    back = file.read(["y", "x", *content.column_names[2:]])
    for name in content.column_names:
        if n or suffix != ".csv":
            found = back.column(name).cast(content.schema.field(name).type)
            pd.testing.assert_series_equal(found.to_pandas(), content.column(name).to_pandas(), check_names=False)
    batches = list(file.batches(["id"], max_bytes=800))
    assert sum(b.num_rows for b in batches) == n
    assert max((b.num_rows for b in batches), default=0) <= 100


@pytest.mark.parametrize("suffix", [".feather", ".csv"])
def test_others_read_it(tmp_path, suffix):
    written = table().drop_columns(["digits", "large"])
    path = write(tmp_path / f"t{suffix}", written)
    frames = {
        ".feather": [pd.read_feather, lambda p: pl.read_ipc(p).to_pandas(), pyarrow.feather.read_feather],
        ".csv": [pd.read_csv, lambda p: pl.read_csv(p, infer_schema_length=None).to_pandas()],
    }[suffix]
    for read in frames:
        frame = read(path)
        assert list(frame.columns) == written.column_names
        np.testing.assert_array_equal(frame["x"].to_numpy(np.float32), table().column("x").to_numpy())
        assert frame["text"][3] == "line\nbreak"


@pytest.mark.parametrize("how", ["pandas", "polars", "pandas csv", "polars csv"])
def test_files_of_others_are_read(tmp_path, how):
    frame = pd.DataFrame({"x": [1.5, 2, np.nan], "y": [1, 2, 3], "name": ["a", None, "c,d"]})
    path = tmp_path / f"t.{'csv' if 'csv' in how else 'feather'}"
    if how == "pandas":
        frame.to_feather(path)
    elif how == "polars":
        pl.from_pandas(frame).write_ipc(path, compression="zstd")
    elif how == "pandas csv":
        frame.to_csv(path, index=False)
    else:
        pl.from_pandas(frame).write_csv(path)
    back = open_table(path).read(["x", "y", "name"]).to_pandas()
    np.testing.assert_array_equal(back["x"], frame["x"])
    assert back["y"].tolist() == [1, 2, 3]
    assert [None if pd.isna(v) else v for v in back["name"]] == ["a", None, "c,d"]


def test_a_column_of_csv_has_the_type_of_all_its_values(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 200)
    rows = 100
    late = {"float": "2.5", "text": "b", "whole": str(2**63), "zeros": "01", "bool": "false"}
    first = {"float": "1", "text": "1", "whole": "1", "zeros": "1", "bool": "true"}
    lines = [",".join(late)] + [",".join(first.values())] * rows + [",".join(late.values())]
    (tmp_path / "t.csv").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    file = open_table(tmp_path / "t.csv")
    assert [str(t) for t in file.schema.types] == ["double", "string", "uint64", "string", "bool"]
    assert file.read(["zeros", "whole"]).slice(rows - 1).to_pydict() == {"zeros": ["1", "01"], "whole": [1, 2**63]}


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_types_that_a_format_cannot_hold_are_named(suffix):
    kinds: dict[str, Any] = {
        "lists": pa.array([[1]]), "structs": pa.array([{"a": 1}]), "bytes": pa.array([b"a"]),
        "categories": pa.array(["a"]).dictionary_encode(), "half": pa.array([np.float16(1)]),
        "view": pa.array(["a"], pa.string_view()), "decimal": pa.array([1]).cast(pa.decimal128(30, 2)),
        "time": pa.array([1], pa.timestamp("ns", "UTC")),
    }  # fmt: skip
    refused = {"lists", "structs", "bytes"} if suffix == ".csv" else set()
    for name, column in kinds.items():
        part = pa.table({name: column}).schema
        kind = format_to_write(Path(f"t{suffix}"))
        if name in refused:
            with pytest.raises(InputError, match=rf"'{name}' holds .* CSV cannot hold .*, or write a Parquet file"):
                check_writable(kind, part)
        else:
            check_writable(kind, part)


@pytest.mark.parametrize("name", ["map", "map.txt", "map.csv.gz", "map.h5", ".parquet"])
def test_other_suffixes_are_refused(name):
    with pytest.raises(InputError, match=r"name ending in \.parquet, \.csv, \.feather or \.arrow"):
        format_to_write(Path(name))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    with pytest.raises(MissingInputError, match="does not exist"):
        open_table(path)
    path.mkdir()
    with pytest.raises(InputError, match="is a directory"):
        open_table(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a FIFO"):
        open_table(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device"):
        open_table(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InputError, match="cannot be opened"):
        open_table(path)


def test_content_comes_before_the_suffix_and_others_are_named(tmp_path):
    write(tmp_path / "t.parquet", table(3)).rename(tmp_path / "t.csv")
    assert open_table(tmp_path / "t.csv").format == "Parquet"
    (tmp_path / "t.txt").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"its name does not end in \.csv"):
        open_table(tmp_path / "t.txt")
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(100) + b"FEA1")
    with pytest.raises(InputError, match="version 1 of Feather"):
        open_table(tmp_path / "old.feather")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        open_table(tmp_path / "empty.csv")
    (tmp_path / "twice.csv").write_text("x,x\n1,2\n")
    with pytest.raises(InputError, match="column 'x' twice"):
        open_table(tmp_path / "twice.csv")


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_names_that_are_not_utf8(tmp_path, suffix):
    path = write(tmp_path / f"t{suffix}", table(5))
    odd = path.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff" + suffix.encode())))
    assert open_table(odd).read(["id"]).num_rows == 5


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
def test_damaged_files_are_read_or_refused(tmp_path, suffix, seed):
    rng = random.Random(seed)
    content = bytearray(write(tmp_path / f"t{suffix}", table(60)).read_bytes())
    for _ in range(rng.choice([1, 1, 3, 30])):
        at = rng.randrange(len(content))
        how = rng.randrange(3)
        if how == 0:
            content[at] = rng.randrange(256)
        elif how == 1:
            del content[at : at + rng.randrange(1, 40)]
        else:
            content[at:at] = rng.randbytes(rng.randrange(1, 10))
        content = content or bytearray(b"x")
    (tmp_path / f"d{suffix}").write_bytes(content)
    try:
        file = open_table(tmp_path / f"d{suffix}", as_dictionaries=bool(seed % 2))
        file.read(file.schema.names).validate(full=True)
    except NomadError:
        pass
    except pa.ArrowInvalid:  # pyarrow reads text of Parquet without a check of its encoding
        assert suffix == ".parquet"


def test_a_damaged_footer_does_not_end_the_process(tmp_path):
    """Some bytes of it make pyarrow's C++ raise where Python cannot catch it."""
    words = pa.table({"t": [f"word {i % 3}" for i in range(40)]})
    sound = write(tmp_path / "t.parquet", words).read_bytes()
    length = int.from_bytes(sound[-8:-4], "little") + 8
    n_read = 0
    for at in range(len(sound) - length, len(sound)):
        damaged = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
        (tmp_path / "d.parquet").write_bytes(damaged)
        with contextlib.suppress(InputError):
            n_read += open_table(tmp_path / "d.parquet", as_dictionaries=True).n_rows == 40
    assert 0 < n_read < length


def test_a_column_is_read_without_the_others(tmp_path):
    write(tmp_path / "t.feather", table())
    file = open_table(tmp_path / "t.feather")
    assert next(iter(file.batches(["flag", "x"]))).schema.names == ["flag", "x"]
    assert pq.ParquetFile(write(tmp_path / "t.parquet", table())).num_row_groups == 3
