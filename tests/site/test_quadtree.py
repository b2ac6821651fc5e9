"""Tiles: every row is in exactly one, at its position, and each level is a random sample."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nomad_dask.site.export import export
from nomad_dask.site.quadtree import Quad, RowStream, build_tiles, row_type
from nomad_dask.site.quantize import MAX_LEVEL, Extent, priority
from tests.helpers import site_maps as sites
from tests.helpers.site_maps import write_map


def check_tiles(site: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Check the invariants of the tiles of any site."""
    about, index, found = sites.about(site), sites.index(site), sites.tiles(site)
    left, bottom, right, top = about["extent"]
    side = right - left
    assert about["n"] == len(x)
    assert side == pytest.approx(top - bottom)
    assert list(index) == sorted(index)
    assert about["depth"] == 1 + max(z for z, _, _ in index)
    seen = []
    for (z, i, j), tile in found.items():
        rows = tile.column("row").to_numpy()
        seen.append(rows)
        assert index[z, i, j] == len(rows) > 0
        assert len(rows) <= about["tile_rows"] or z == MAX_LEVEL
        if z:
            parent = z - 1, i // 2, j // 2
            assert index[parent] == about["tile_rows"]
            # Rows of a tile above have lower priorities.
            assert priority(found[parent].column("row").to_numpy()).max() < priority(rows).min()
        assert (np.diff(priority(rows).astype(np.int64)) > 0).all()
        width = side / 2.0**z
        steps = max(65536, about["steps"] / 2**z)
        assert tile.schema.field("x").type == tile.schema.field("y").type == (pa.uint32() if z < 4 else pa.uint16())
        for values, name, origin in ((x, "x", left + i * width), (y, "y", bottom + j * width)):
            inside = origin + (tile.column(name).to_numpy() + 0.5) / steps * width
            # Half a step, and the precision of float64.
            slack = 0.501 * width / steps + 8 * np.spacing(np.abs(values).max())
            assert np.abs(inside - values[rows].astype(np.float64)).max() <= slack
    everyone = np.concatenate(seen)
    assert len(everyone) == len(x)
    assert len(np.unique(everyone)) == len(x)


@pytest.mark.parametrize("memory_rows", [1 << 20, 500])
@pytest.mark.parametrize("tile_rows", [100, 1024])
def test_every_row_is_in_one_tile_where_it_belongs(blobs, tmp_path, tile_rows, memory_rows):
    made = export(blobs, tmp_path / "s", tile_rows=tile_rows, memory_rows=memory_rows)
    positions = pq.read_table(blobs, columns=["x", "y"])
    check_tiles(made.path, positions.column("x").to_numpy(), positions.column("y").to_numpy())
    assert (made.rows, made.tiles) == (20_000, len(sites.index(made.path)))


# Few places, so that points coincide; far apart and close together.
PLACES = st.lists(
    st.tuples(*[st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, 1.0, 1 + 2**-20, -1e-30])] * 2),
    min_size=1,
    max_size=60,
)


@given(places=PLACES, tile_rows=st.integers(1, 9), memory_rows=st.integers(1, 70))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_places(tmp_path_factory, places, tile_rows, memory_rows):
    folder = tmp_path_factory.mktemp("any")
    x, y = np.array(places, np.float32).T
    path = write_map(folder / "m.parquet", x, y)
    export(path, folder / "s", tile_rows=tile_rows, memory_rows=memory_rows)
    check_tiles(folder / "s", x, y)


def by_hand(rows: np.ndarray, tile_rows: int) -> dict[Quad, list[int]]:
    """Put rows one by one, in order of priority, into the first tile that is not full."""
    held: dict[Quad, list[int]] = {}
    for row in rows[np.argsort(priority(rows["row"]))]:
        for z in range(MAX_LEVEL + 1):
            quad = Quad(z, int(row["x"]) >> (39 - z), int(row["y"]) >> (39 - z))
            tile = held.setdefault(quad, [])
            if len(tile) < tile_rows or z == MAX_LEVEL:
                tile.append(int(row["row"]))
                break
    return held


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    spots=st.integers(1, 300),
    tile_rows=st.integers(1, 20),
    memory_rows=st.integers(1, 300),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tree_is_that_of_rows_dropped_one_by_one(tmp_path_factory, seed, n, spots, tile_rows, memory_rows):
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, row_type([("c.0", np.dtype(np.uint8))]))
    rows["row"] = np.arange(n)
    # Some spots share all but their last bits.
    places = (rng.integers(2**39, size=(2, spots)) >> rng.integers(0, 39, spots)).astype(np.uint64)
    rows["x"], rows["y"] = places[:, rng.integers(spots, size=n)]
    rows["c.0"] = rows["x"] % 251
    scratch = tmp_path_factory.mktemp("scratch")
    batch = int(rng.integers(1, n + 1))
    stream = RowStream(n, rows.dtype, lambda: (rows[i : i + batch] for i in range(0, n, batch)))
    found = {}
    for tile in build_tiles(stream, Quad(0, 0, 0), tile_rows, scratch, memory_rows):
        held = np.concatenate(list(tile.rows))
        assert len(held) == tile.n
        np.testing.assert_array_equal(held, rows[held["row"]])
        found[tile.quad] = held["row"].tolist()
    assert found == by_hand(rows, tile_rows)
    assert list(scratch.iterdir()) == []


def test_each_level_is_a_fair_sample(blobs, tmp_path):
    """In the upper levels, where every quad has more rows than its tile, the columns are spread as in the map."""
    export(blobs, tmp_path / "s", tile_rows=2_000)
    heap = pq.read_table(blobs, columns=["cell"]).column("cell").to_numpy()
    root = sites.table(tmp_path / "s", "tiles/0/0-0").column("row").to_numpy()
    for values in (heap, np.arange(20_000) // 1_000, np.arange(20_000) % 7):
        everyone = np.bincount(values)
        seen = np.bincount(values[root], minlength=len(everyone))
        often = everyone * len(root) / len(values) >= 5
        expected = everyone[often] * (seen[often].sum() / everyone[often].sum())
        assert chisquare(seen[often], expected).pvalue > 1e-3
    # A tile further down is a random sample of the rows of its quad that are in no tile above.
    tiles_there = sites.tiles(tmp_path / "s")
    full = [quad for quad, tile in tiles_there.items() if quad[0] and tile.num_rows == 2_000]
    assert full
    for z, i, j in full:
        below = [
            t.column("row").to_numpy()
            for (w, k, m), t in tiles_there.items()
            if w >= z and (k >> (w - z), m >> (w - z)) == (i, j)
        ]
        rows, everyone = tiles_there[z, i, j].column("row").to_numpy(), np.concatenate(below)
        edges = np.linspace(0, 20_000, 6)
        seen, there = np.histogram(rows, edges)[0], np.histogram(everyone, edges)[0]
        some = there * len(rows) / len(everyone) >= 5
        expected = there[some] * (seen[some].sum() / there[some].sum())
        assert chisquare(seen[some], expected).pvalue > 1e-3


def test_priorities_are_distinct_and_spread():
    found = priority(np.arange(1 << 20))
    assert len(np.unique(found)) == len(found)
    assert chisquare(np.bincount(found >> 24)).pvalue > 1e-3
    ranks = np.argsort(np.argsort(found[:5000]))
    assert abs(np.corrcoef(np.arange(5000), ranks)[0, 1]) < 0.05


@pytest.mark.parametrize("memory_rows", [1 << 20, 300])
def test_the_same_map_gives_the_same_site(blobs, tmp_path, memory_rows):
    for name, rows in (("a", 1 << 20), ("b", memory_rows)):
        export(blobs, tmp_path / name, tile_rows=256, memory_rows=rows)
    assert sites.files(tmp_path / "a") == sites.files(tmp_path / "b")


def test_the_layout_of_the_file_does_not_matter(blobs, tmp_path):
    table = pq.read_table(blobs)
    pq.write_table(table, tmp_path / "blobs.parquet", row_group_size=777, compression="none", use_dictionary=False)
    for name, path in (("a", blobs), ("b", tmp_path / "blobs.parquet")):
        export(path, tmp_path / name, tile_rows=256)
    a, b = (
        {k: v for k, v in sites.files(tmp_path / name).items() if not k.startswith(("text/", "search/", "site"))}
        for name in "ab"
    )
    assert a == b


@pytest.mark.parametrize("memory_rows", [1 << 20, 100])
def test_points_that_are_all_equal(tmp_path, memory_rows):
    x, y = np.full(3_000, 7.25, np.float32), np.full(3_000, -1e6, np.float32)
    path = write_map(tmp_path / "m.parquet", x, y)
    made = export(path, tmp_path / "s", tile_rows=100, memory_rows=memory_rows)
    check_tiles(tmp_path / "s", x, y)
    index = sites.index(tmp_path / "s")
    assert made.levels == MAX_LEVEL + 1 == len(index)
    assert max(index.values()) == 3_000 - MAX_LEVEL * 100


def test_one_point(tmp_path):
    path = write_map(tmp_path / "m.parquet", [0.0], [0.0], name=["only"], value=[3.5])
    export(path, tmp_path / "s")
    check_tiles(tmp_path / "s", np.zeros(1), np.zeros(1))
    texts = sites.texts(tmp_path / "s").to_pydict()
    assert texts == {"@x": [0.0], "@y": [0.0], "name": ["only"], "value": ["3.5"]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.int64])
def test_positions_of_any_kind(tmp_path, dtype):
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(2, 500)) * 100).astype(dtype)
    path = write_map(tmp_path / "m.parquet", x, y)
    export(path, tmp_path / "s", tile_rows=50)
    check_tiles(tmp_path / "s", x, y)


@given(st.floats(-1e300, 1e300), st.floats(0, 1e300), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_grid_is_in_its_bounds_and_in_order(origin, side, shares):
    extent = Extent(origin, origin, side or 1.0)
    values = np.sort(origin + np.array(shares) * side)
    steps = extent.grid(values, origin)
    assert steps.max() < 2**39
    assert all(a <= b for a, b in itertools.pairwise(steps.tolist()))


def test_colors_of_the_tiles_are_those_of_the_map(blobs, tmp_path):
    export(blobs, tmp_path / "s", tile_rows=512, memory_rows=2_000)
    about, given_ = sites.about(tmp_path / "s"), pq.read_table(blobs)
    columns = {c["name"]: c for c in about["columns"]}
    assert [name for name, c in columns.items() if c["in_tiles"]] == ["group", "score", "open", "cell"]
    for tile in sites.tiles(tmp_path / "s").values():
        rows = given_.take(tile.column("row"))
        assert tile.schema.field("c.score").type == pa.float32()
        np.testing.assert_array_equal(
            tile.column("c.score").to_numpy(), rows.column("score").to_numpy().astype(np.float32)
        )
        for name in ("group", "open", "cell"):
            assert tile.schema.field(f"c.{name}").type == pa.uint8()
            labels = [c["label"] for c in columns[name]["categories"]]
            texts = ["(none)" if v is None else str(v).lower() for v in rows.column(name).to_pylist()]
            assert [labels[code] for code in tile.column(f"c.{name}").to_pylist()] == texts
