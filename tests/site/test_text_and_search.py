"""Text chunks and the search index: exactly the content of the map, read as a page reads it."""

from __future__ import annotations

import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.site import search_index
from nomad_dask.site.export import export
from nomad_dask.site.quantize import priority
from nomad_dask.site.tokenizer import casefold_nfkc, hash_words
from tests.helpers import site_maps as sites
from tests.helpers.site_maps import write_map

NASTY = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"); alert(1); ("',
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "مرحبا بالعالم ‮reversed",
    "line\nbreak\rand\ttab\0nul",
    "a\u2028b\u2029c",
    "",
    "   ",
    None,
    "ﬁne İstanbul ǅ ẞ",
]


def fnv1a(word: str) -> int:
    h = 2166136261
    for byte in word.encode():
        h = (h ^ byte) * 16777619 % 2**32
    return h


def words_by_hand(text: str) -> set[str]:
    """Split as the format says: letters and digits, compared without case."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    split = "".join(c if unicodedata.category(c)[0] in "LN" else " " for c in plain)
    return {word[:64] for word in split.split(" ") if word}


def index_by_hand(columns: list[list[str | None]]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, values in enumerate(zip(*columns, strict=True)):
        for word in set().union(*(words_by_hand(v) for v in values if v is not None)):
            rows[word].append(row)
    return rows


def check_index(site: Path, expected: dict[str, list[int]], most: int = 10_000) -> None:
    search = sites.about(site)["search"]
    found = {}
    for h in range(search["parts"]):
        part = sites.table(site, f"search/{h}")
        assert part.schema.equals(
            pa.schema([("word", pa.string()), ("rows", pa.list_(pa.uint32())), ("n", pa.uint32())])
        )
        words = part.column("word").to_pylist()
        assert words == sorted(words, key=str.encode)
        assert all(fnv1a(word) % search["parts"] == h for word in words)
        for word, rows, n in zip(words, part.column("rows").to_pylist(), part.column("n").to_pylist(), strict=True):
            assert word not in found
            found[word] = rows
            assert n == len(expected[word])
    assert found.keys() == expected.keys()
    for word, rows in found.items():
        in_order = np.array(expected[word])[np.argsort(priority(np.array(expected[word])))]
        assert rows == in_order[:most].tolist()


def test_text_is_that_of_the_map_and_search_finds_it(blobs, tmp_path):
    made = export(blobs, tmp_path / "s")
    about, given_, texts = sites.about(tmp_path / "s"), pq.read_table(blobs), sites.texts(tmp_path / "s")
    assert about["hover"] == ["name", "group", "score", "open"]
    assert texts.column_names == ["@x", "@y", *about["hover"]]
    for axis in ("x", "y"):
        assert texts.column(f"@{axis}").combine_chunks().equals(given_.column(axis).combine_chunks())
    for name in ("name", "group"):
        assert texts.column(name).to_pylist() == given_.column(name).to_pylist()
    assert texts.column("open").to_pylist() == [str(v).lower() for v in given_.column("open").to_pylist()]
    numbers = [None if v is None else float(v) for v in texts.column("score").to_pylist()]
    assert numbers == given_.column("score").to_pylist()
    assert about["search"]["columns"] == ["name", "group"]
    check_index(tmp_path / "s", index_by_hand([given_.column(n).to_pylist() for n in ("name", "group")]))
    assert made.files == len(sites.files(tmp_path / "s"))
    assert made.bytes == sum(map(len, sites.files(tmp_path / "s").values()))
    assert made.largest_part == max(map(len, sites.files(tmp_path / "s").values()))


def test_parts_of_text_have_the_rows_that_the_site_tells(blobs, tmp_path):
    export(blobs, tmp_path / "s")
    rows = sites.about(tmp_path / "s")["text_rows"]
    n_parts = len(list((tmp_path / "s" / "text").iterdir()))
    assert n_parts == -(-20_000 // rows) > 1
    assert {sites.table(tmp_path / "s", f"text/{k}").num_rows for k in range(n_parts - 1)} == {rows}


def test_spilled_often_and_cut_short_the_index_is_the_same(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "_BUFFER_BYTES", 1)
    monkeypatch.setattr(search_index, "MAX_ROWS", 300)
    monkeypatch.setattr(search_index, "_CHUNK_BYTES", 700)
    monkeypatch.setattr("nomad_dask.site.row_text._BATCH_BYTES", 40_000)
    export(blobs, tmp_path / "s")
    assert sites.about(tmp_path / "s")["search"]["parts"] > 256
    names = [pq.read_table(blobs).column(n).to_pylist() for n in ("name", "group")]
    check_index(tmp_path / "s", index_by_hand(names), most=300)


@given(st.lists(st.none() | st.text() | st.sampled_from(NASTY), min_size=1, max_size=30))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("any")
    values = [v if v is None else v.encode("utf-8", "replace").decode() for v in values]
    path = write_map(
        folder / "m.parquet", np.arange(len(values)), np.zeros(len(values)), t=pa.array(values, pa.string())
    )
    export(path, folder / "s", color=())
    assert sites.texts(folder / "s").column("t").to_pylist() == values
    check_index(folder / "s", index_by_hand([values]))


def test_nasty_text_is_only_ever_base64(tmp_path):
    """HTML in text, in names of columns, in categories and in the title stays inside base64."""
    n = len(NASTY) * 3
    name = "<b onclick=alert(1)>\"'</b>"
    path = write_map(
        tmp_path / "m.parquet", np.arange(n), np.zeros(n), **{name: NASTY * 3, "section": pa.array(NASTY * 3)}
    )
    export(path, tmp_path / "s", title="</title><script>alert(1)</script>", color=[name, "section"])
    about = sites.about(tmp_path / "s")
    assert about["title"] == "</title><script>alert(1)</script>"
    assert about["columns"][0]["name"] == name
    labels = [c["label"] for c in about["columns"][0]["categories"] if not c.get("other")]
    assert sorted(labels) == sorted(v for v in NASTY if v is not None)
    assert sites.texts(tmp_path / "s").column(name).to_pylist() == NASTY * 3
    for path, content in sites.files(tmp_path / "s").items():
        if path.endswith(".js") and path.split("/")[0] in ("site.js", "index.js", "tiles", "text", "search"):
            assert sites.SCRIPT.fullmatch(content)
            assert b"alert" not in content


def test_long_text_is_cut_and_one_megabyte_is_no_trouble(tmp_path):
    long = ["word " * 200_000, "x" * 1_000_000, "é" * 2_000, "é" * 2_001, "👍" * 1_000_000, "short"]
    path = write_map(tmp_path / "m.parquet", np.arange(6), np.arange(6), t=long)
    export(path, tmp_path / "s", color=["t"])
    cut = [v if len(v) <= 2_000 else v[:2_000] + "…" for v in long]
    assert sites.texts(tmp_path / "s").column("t").to_pylist() == cut
    check_index(tmp_path / "s", index_by_hand([cut]))
    assert max(len(c["label"]) for c in sites.about(tmp_path / "s")["columns"][0]["categories"]) == 201


def test_a_long_text_that_all_rows_share_takes_no_more_memory_than_others(tmp_path):
    """Parquet stores a repeated text once, and does not record its size in memory."""
    import subprocess

    n = 20_000  # of 96 kB each: four times the memory that is allowed
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["lorem ipsum " * 8_000]))
    path = write_map(
        tmp_path / "m.parquet", np.arange(n), np.arange(n), t=text.cast(pa.dictionary(pa.int32(), pa.string()))
    )
    code = (
        "import sys\nfrom nomad_dask.site.export import export\n"
        "made = export(sys.argv[1], sys.argv[2])\n"
        # Not `resource`, which starts with the memory of the process that this one was forked from.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "s"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000


def test_numbers_and_times_as_people_write_them(tmp_path):
    columns = {
        "f4": pa.array([0.1, 3.0, 12345678.0, 1e-7, None, float("nan")], pa.float32()),
        "f8": pa.array([0.1, -3.0, 12345678901.0, 1e300, None, float("inf")], pa.float64()),
        "f2": pa.array(np.array([0.5, 3, 1000, -1, 0, 2], np.float16)),
        "i8": pa.array([0, -1, 2**60, 5, None, 7], pa.int64()),
        "on": pa.array([True, False, None, True, True, False]),
        "at": pa.array([0, 1_500, None, 86_400_000, -1_000, 10], pa.timestamp("ms")),
        "day": pa.array([0, 1, None, 3, 4, 5], pa.date32()),
        "none": pa.nulls(6),
    }
    path = write_map(tmp_path / "m.parquet", np.arange(6), np.arange(6), **columns, lists=pa.array([[1]] * 6))
    export(path, tmp_path / "s")
    assert sites.texts(tmp_path / "s").drop_columns(["@x", "@y"]).to_pydict() == {
        "f4": ["0.1", "3", "12345678", "1e-7", None, "nan"],
        "f8": ["0.1", "-3", "12345678901", "1e+300", None, "inf"],
        "f2": ["0.5", "3", "1000", "-1", "0", "2"],
        "i8": ["0", "-1", str(2**60), "5", None, "7"],
        "on": ["true", "false", None, "true", "true", "false"],
        "at": ["1970-01-01 00:00:00", "1970-01-01 00:00:01.500", None, "1970-01-02 00:00:00", "1969-12-31 23:59:59",
               "1970-01-01 00:00:00.010"],
        "day": ["1970-01-01", "1970-01-02", None, "1970-01-04", "1970-01-05", "1970-01-06"],
        "none": [None] * 6,
    }  # fmt: skip
    assert {c["name"]: c["kind"] for c in sites.about(tmp_path / "s")["columns"]}["at"] == "text"


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())]
)
def test_text_of_any_arrow_type(tmp_path, kind):
    values = pa.array(["ant", "bee", None, "ant"] * 100)
    values = values.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else values.cast(kind)
    path = write_map(tmp_path / "m.parquet", np.arange(400), np.arange(400), t=values, row_group_size=150)
    export(path, tmp_path / "s")
    assert sites.texts(tmp_path / "s").column("t").to_pylist() == ["ant", "bee", None, "ant"] * 100
    assert sites.about(tmp_path / "s")["columns"] == [
        {
            "name": "t", "kind": "category", "in_tiles": True,
            "categories": [
                {"label": "ant", "n": 200}, {"label": "bee", "n": 100}, {"label": "(none)", "n": 100, "other": True}
            ],
        }
    ]  # fmt: skip
    check_index(tmp_path / "s", index_by_hand([["ant", "bee", None, "ant"] * 100]))


def test_hashes_are_fnv1a():
    words = ["", "a", "foobar", "é", "日本", "👍👍", "x" * 64]
    assert hash_words(pa.array(["skipped", *words])[1:]).tolist() == [fnv1a(word) for word in words]
    assert fnv1a("foobar") == 0xBF9CF968  # from the FNV reference code


def test_letters_and_digits_are_those_that_a_page_knows():
    """Python's ``\\w`` and a browser's ``[\\p{L}\\p{N}]`` match the same characters."""
    import re

    ours = {c for c in map(chr, range(0x110000)) if re.fullmatch(r"[^\W_]", c)}
    theirs = {c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] in "LN"}
    assert ours == theirs
    assert casefold_nfkc("STRASSE") == casefold_nfkc("straße")


def test_a_map_without_other_columns_tells_where_its_rows_are_and_has_no_search(tmp_path):
    path = write_map(tmp_path / "m.parquet", np.arange(5), np.arange(5) - 2**40)
    export(path, tmp_path / "s")
    about = sites.about(tmp_path / "s")
    assert (about["columns"], about["hover"], about["search"]) == ([], [], None)
    assert sites.texts(tmp_path / "s").to_pydict() == {"@x": [*range(5)], "@y": [-(2**40) + i for i in range(5)]}
    assert not (tmp_path / "s" / "search").exists()


def test_columns_may_be_called_as_the_place_is_and_the_place_may_be_shown(tmp_path):
    n = 40
    names = [f"name {i}" for i in range(n)]
    x = np.arange(n, dtype=np.float32) / 4
    path = write_map(tmp_path / "m.parquet", x, x, **{"@x": names})
    export(path, tmp_path / "s", hover=["x", "@x"], search=["@x"])
    texts = sites.texts(tmp_path / "s")
    assert texts.column_names == ["@x", "@y", "x", "@x"]
    assert texts.column(0).to_pylist() == x.tolist()
    assert [float(v) for v in texts.column(2).to_pylist()] == x.tolist()
    assert texts.column(3).to_pylist() == names
    check_index(tmp_path / "s", index_by_hand([names]))


def test_chosen_columns_only(blobs, tmp_path):
    export(blobs, tmp_path / "s", color=["score"], hover=["group", "name"], search=["name"])
    about = sites.about(tmp_path / "s")
    assert [(c["name"], c["kind"], c["in_tiles"]) for c in about["columns"]] == [
        ("score", "number", True),
        ("group", "text", False),
        ("name", "text", False),
    ]
    assert (about["hover"], about["search"]["columns"]) == (["group", "name"], ["name"])
    export(blobs, tmp_path / "t", color=(), hover=(), search=())
    about = sites.about(tmp_path / "t")
    assert (about["columns"], about["hover"], about["search"]) == ([], [], None)
