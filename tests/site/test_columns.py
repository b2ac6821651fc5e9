"""Columns: which ones become categories, numbers or text, and how values are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import NomadWarning
from nomad_dask.site.export import export
from nomad_dask.site.top_values import count_values
from tests.helpers import site_maps as sites
from tests.helpers.site_maps import write_map


def describe(path: Path, site: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Export a map, and return the descriptions of its columns by name."""
    export(path, site, **options)
    return {column["name"]: column for column in sites.about(site)["columns"]}


def codes(site: Path, name: str, n: int) -> np.ndarray:
    """Return the categories of all rows in order."""
    result = np.full(n, -1)
    for tile in sites.tiles(site).values():
        result[tile.column("row").to_numpy()] = tile.column(f"c.{name}").to_numpy()
    return result


def test_kinds_of_columns(tmp_path):
    n = 3_000
    rng = np.random.default_rng(0)
    path = write_map(
        tmp_path / "m.parquet", np.arange(n), np.arange(n),
        z=rng.normal(size=n), cell=rng.integers(700, size=n), name=[f"name {i}" for i in range(n)],
        place=[f"place {i % 900}" for i in range(n)], year=1990 + rng.integers(40, size=n),
        label=rng.integers(20, size=n), share=rng.random(n), flag=rng.random(n) < 0.5,
        whole=rng.integers(3, size=n) * 1.0,
        when=pa.array(np.arange(n), pa.timestamp("s")), vector=pa.array([[1.0, 2.0]] * n), raw=pa.array([b"\xff"] * n),
        nothing=pa.nulls(n, pa.string()), gaps=pa.nulls(n, pa.float32()),
    )  # fmt: skip
    with pytest.warns(NomadWarning, match="three dimensions, of which x and y are shown"):
        columns = describe(path, tmp_path / "s")
    assert {name: column["kind"] for name, column in columns.items() if column["in_tiles"]} == {
        "z": "number", "place": "category", "year": "number", "label": "category", "share": "number",
        "flag": "category", "whole": "category", "cell": "category", "nothing": "category", "gaps": "number",
    }  # fmt: skip
    assert {name for name, column in columns.items() if not column["in_tiles"]} == {"name", "when"}
    assert "vector" not in sites.about(tmp_path / "s")["hover"]
    assert {c["label"] for c in columns["whole"]["categories"]} == {"0", "1", "2"}
    assert columns["nothing"]["categories"] == [{"label": "(none)", "n": n, "other": True}]
    assert (columns["gaps"]["min"], columns["gaps"]["max"]) == (0, 0)


def test_numbers_beyond_what_can_be_drawn(tmp_path):
    values = [1e300, -1e300, float("inf"), float("-inf"), float("nan"), None, 0.5, -2.25]
    path = write_map(tmp_path / "m.parquet", np.arange(8), np.arange(8), v=values)
    column = describe(path, tmp_path / "s")["v"]
    assert (column["kind"], column["min"], column["max"]) == ("number", -2.25, 0.5)


def test_a_million_categories(tmp_path):
    n = 1_000_000
    rng = np.random.default_rng(0)
    often = rng.integers(400, size=n)
    values = np.where(np.arange(n) % 10 < 3, often, 1_000 + np.arange(n))
    text = pa.array(values).cast(pa.string())
    path = write_map(tmp_path / "m.parquet", np.arange(n), rng.random(n), v=text)
    column = describe(path, tmp_path / "s", color=["v"], hover=())["v"]
    counts = Counter(values.tolist())
    by_hand = sorted(((-k, str(v)) for v, k in counts.items()))[:255]
    *categories, other = column["categories"]
    assert [(-c["n"], c["label"]) for c in categories] == by_hand
    assert other == {"label": "other", "n": n + sum(k for k, _ in by_hand), "other": True}
    result = codes(tmp_path / "s", "v", n)
    place = {label: i for i, (_, label) in enumerate(by_hand)}
    assert result.tolist() == [place.get(str(v), 255) for v in values.tolist()]


def test_more_categories_than_fit_beside_missing_values(tmp_path):
    n = 6_000
    values = [None if i % 7 == 0 else f"v{i % 300}" for i in range(n)]
    path = write_map(tmp_path / "m.parquet", np.arange(n), np.arange(n), v=pa.array(values))
    categories = describe(path, tmp_path / "s")["v"]["categories"]
    assert len(categories) == 256
    assert [c["label"] for c in categories[254:]] == ["other", "(none)"]
    assert all(c["other"] for c in categories[254:])
    counts = Counter(values)
    labels = [c["label"] for c in categories[:254]]
    assert labels == [v for v, _ in sorted(counts.items(), key=lambda e: (-e[1], str(e[0]))) if v is not None][:254]
    result = codes(tmp_path / "s", "v", n)
    assert [c["n"] for c in categories] == np.bincount(result, minlength=256).tolist()
    assert (result[::7] == 255).all()


def test_as_many_categories_as_fit(tmp_path):
    n = 255 * 4 + 2
    values = [f"v{i % 255}" for i in range(n - 2)] + [None, None]
    path = write_map(tmp_path / "m.parquet", np.arange(n), np.arange(n), v=pa.array(values))
    categories = describe(path, tmp_path / "s")["v"]["categories"]
    assert [c["n"] for c in categories] == [4] * 255 + [2]
    assert codes(tmp_path / "s", "v", n)[-2:].tolist() == [255, 255]


def test_a_label_that_looks_like_missing_is_another(tmp_path):
    path = write_map(tmp_path / "m.parquet", np.arange(9), np.arange(9), v=["(none)", "other", None] * 3)
    categories = describe(path, tmp_path / "s", color=["v"])["v"]["categories"]
    assert [(c["label"], c.get("other", False)) for c in categories] == [
        ("(none)", False), ("other", False), ("(none)", True),
    ]  # fmt: skip
    assert codes(tmp_path / "s", "v", 9).tolist() == [0, 1, 2] * 3


@given(
    st.lists(st.lists(st.none() | st.sampled_from("abcdefghij") | st.text(max_size=2), max_size=40), max_size=8),
    st.integers(1, 6),
)
def test_counts_are_exact(batches, most):
    arrays = [pa.array([v and v.encode("utf-8", "replace").decode() for v in b], pa.string()) for b in batches]
    counted = count_values(lambda: iter(arrays), most)
    everyone = Counter(v for a in arrays for v in a.to_pylist())
    none = everyone.pop(None, 0)
    expected = sorted(everyone.items(), key=lambda e: (-e[1], e[0].encode()))[:most]
    assert counted is not None
    assert list(counted.labels) == expected
    assert (counted.other, counted.none) == (sum(everyone.values()) - sum(n for _, n in expected), none)


def test_frequent_values_are_found_among_more_than_are_held():
    rng = np.random.default_rng(0)
    often = [f"often {i}" for i in range(20)]
    arrays = []
    for start in range(0, 2_000_000, 100_000):
        rare = [f"rare {start + i}" for i in range(80_000)]
        arrays.append(pa.array(rare + [often[i] for i in (20 * rng.random(20_000) ** 2).astype(int)]))
    counted = count_values(lambda: iter(arrays), 10, max_values=50_000)
    expected = Counter(v for a in arrays for v in a.to_pylist() if v.startswith("often")).most_common(10)
    assert counted is not None
    assert list(counted.labels) == expected
    assert counted.other == 2_000_000 - sum(n for _, n in expected)


def test_counting_gives_up_on_text_that_differs():
    values = pa.array([str(i) for i in range(100_000)])
    assert count_values(lambda: iter([values] * 3), 255, max_distinct=1_000) is None
    assert count_values(lambda: iter([values[:1_000]] * 3), 255, max_distinct=1_000) is not None
