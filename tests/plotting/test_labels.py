"""Labels: their words, against brute force, and their positions."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from nomad_dask.errors import InputError
from nomad_dask.plotting import labels as labels_module
from nomad_dask.plotting.canvas import clean, text_width
from nomad_dask.plotting.color_mapping import map_colors, select_rows
from nomad_dask.plotting.label_placement import place_labels, wrap
from nomad_dask.plotting.labels import (
    LEVELS,
    Label,
    class_tf_idf,
    densest_points,
    group_cells,
    labels_of_column,
    labels_of_text,
    same_word,
)
from nomad_dask.plotting.palettes import THEMES

TOPICS = ("cheese bread butter", "guitar piano violin", "planet comet galaxy", "tiger zebra lion")
FRUIT = ["apple", "pear", "plum", "fig"]


@pytest.fixture
def topics() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Four islands of texts on one topic each, with words that all use, in 40 cells."""
    rng = np.random.default_rng(0)
    topic = np.repeat(np.arange(4), 500)
    centers = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    x, y = (centers[topic] + rng.normal(size=(2000, 2))).T.astype(np.float32)
    cells = topic * 10 + rng.integers(10, size=2000)
    texts = [f"Something about {rng.choice(TOPICS[t].split())} and {rng.choice(TOPICS[t].split())}" for t in topic]
    return x, y, cells, texts


def brute_force(texts: list[str], groups: np.ndarray) -> dict[int, dict[str, float]]:
    """Return class-based TF-IDF by the formula, word by word."""
    counts: dict[int, Counter[str]] = {g: Counter() for g in set(groups.tolist())}
    for text, group in zip(texts, groups.tolist(), strict=True):
        counts[group].update(set(text.lower().split()))
    everywhere = sum(counts.values(), Counter())
    mean = sum(everywhere.values()) / len(counts)
    return {
        group: {w: n / own.total() * math.log(1 + mean / everywhere[w]) for w, n in own.items()}
        for group, own in counts.items()
    }


@given(
    st.lists(st.lists(st.sampled_from(FRUIT), min_size=1, max_size=4), min_size=1, max_size=20),
    st.data(),
)
def test_class_tf_idf_is_what_the_formula_says(texts, data):
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(texts), max_size=len(texts))))
    _, groups = np.unique(groups, return_inverse=True)
    words = sorted({w for text in texts for w in text})
    has = csr_array(np.array([[float(w in text) for w in words] for text in texts]))
    scores = class_tf_idf(has, groups, groups.max() + 1)
    expected = brute_force([" ".join(text) for text in texts], groups)
    for group, own in expected.items():
        np.testing.assert_allclose(scores[group], [own.get(w, 0.0) for w in words], rtol=1e-12)


def test_labels_of_text_are_the_best_words_of_their_groups(topics, monkeypatch):
    x, y, cells, texts = topics
    monkeypatch.setattr(labels_module, "LEVELS", (4, 8, 16))
    found = labels_of_text(x, y, pa.array(texts), cells)
    first = group_cells(x, y, cells)[0]
    stop = {"about", "and", "something"}
    expected = brute_force([" ".join(w for w in t.lower().split() if w not in stop) for t in texts], first)
    for label in (lab for lab in found if lab.level == 0):
        near = int(first[np.argmin((x - label.x) ** 2 + (y - label.y) ** 2)])
        ranked = sorted(expected[near].values(), reverse=True)
        own = [expected[near][w] for w in label.text.split(", ")]
        np.testing.assert_allclose(own, ranked[: len(own)])
        assert len(own) == 2 or ranked[1] <= ranked[0] / 2
        assert label.weight == (first == near).sum() == 500
    by_topic = [{w for lab in found for w in lab.text.split(", ") if w in t.split()} for t in TOPICS]
    assert all(by_topic)
    assert not {w for lab in found for w in lab.text.split(", ")} & stop
    # A part does not repeat the words of the group above.
    whole = {lab.text for lab in found if lab.level == 0}
    assert not {lab.text for lab in found if lab.level > 0} & whole


def test_a_label_of_text_is_at_the_rows_with_its_first_word(monkeypatch):
    """Not at the densest part of its group, whose rows may have other words."""
    monkeypatch.setattr(labels_module, "LEVELS", (1, 2, 4))
    rng = np.random.default_rng(0)
    has_word = np.arange(1000) < 400
    texts = ["perl module" if has else f"word{i % 100}" for i, has in enumerate(has_word)]
    x, y = np.where(has_word, 5, -5) + rng.normal(size=(2, 1000)) * np.where(has_word, 1, 0.3)
    label = next(label for label in labels_of_text(x, y, texts, np.arange(1000) % 20) if label.level == 0)
    assert label.text.split(", ")[0] in ("module", "perl")
    assert label.weight == 1000
    assert math.hypot(label.x - 5, label.y - 5) < 1


def test_each_level_is_within_the_one_above(topics):
    x, y, cells, _ = topics
    groups = group_cells(x, y, cells)
    assert len(groups) == len(LEVELS)
    for above, below in itertools.pairwise(groups):
        pairs = np.unique(np.stack([above, below], axis=1), axis=0)
        assert len(pairs) == below.max() + 1
    # A cell is in one group.
    assert len(np.unique(np.stack([cells, groups[-1]], axis=1), axis=0)) == 40


@pytest.mark.parametrize("cells", ["many", "none", "one"])
def test_many_cells_none_and_one(topics, monkeypatch, cells):
    x, y, _, texts = topics
    monkeypatch.setattr(labels_module, "_MAX_NODES", 50)
    given_cells = {"many": np.arange(2000) // 4, "none": None, "one": np.zeros(2000, int)}[cells]
    groups = group_cells(x, y, given_cells)
    assert groups[0].max() + 1 == (1 if cells == "one" else LEVELS[0])
    again = group_cells(x, y, given_cells)
    assert all(np.array_equal(a, b) for a, b in zip(groups, again, strict=True))
    assert labels_of_text(x, y, texts, given_cells)


def test_a_label_of_a_column_is_at_the_densest_part_of_its_rows():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-10, 10, size=(2, 3000))
    names = np.array(["spread"] * 2000 + ["island"] * 1000, object)
    x[2000:2900], y[2000:2900] = rng.normal(5, 0.2, 900), rng.normal(-5, 0.2, 900)
    x[0] = np.nan
    names[1:11] = None
    names[11:20] = " "
    spread, island = labels_of_column(x, y, names)
    assert (spread.text, spread.weight, island.text, island.weight) == ("spread", 1980, "island", 1000)
    assert abs(island.x - 5) < 0.2
    assert abs(island.y + 5) < 0.2
    assert island.level == 0


def test_a_million_names_are_the_most_frequent_ones():
    n = 1_000_000
    names = pa.array(np.concatenate([np.arange(n - 3000), np.repeat([-1, -2], 1500)]).astype(str))
    rng = np.random.default_rng(0)
    found = labels_of_column(*rng.normal(size=(2, n)).astype(np.float32), names)
    assert len(found) == 500
    assert {label.text for label in found[:2]} == {"-1", "-2"}
    assert [label.weight for label in found[:3]] == [1500, 1500, 1]


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one_point(n):
    empty = np.zeros(n)
    assert [label.text for label in labels_of_column(empty, empty, ["a"] * n)] == ["a"] * n
    if n:
        assert {label.text for label in labels_of_text(empty, empty, ["one word"])} >= {"word"}
    with pytest.raises(InputError, match="use a column of text"):
        labels_of_text(np.zeros(3), np.zeros(3), [None, "", "12 34"])


def test_some_select_rows_a_column_in_chunks():
    column = pa.chunked_array([["a", None], [], ["b", "c", "d"]])
    assert select_rows(column, np.array([1, 2, 4])).to_pylist() == [None, "b", "d"]
    assert select_rows(pa.table({"t": column}), np.array([0, 3])).column("t").to_pylist() == ["a", "c"]
    assert select_rows(column, np.array([], int)).to_pylist() == []


def test_equal_points_and_endless_texts():
    texts = ["x" * 1_000_000, "🦆 quack " * 100_000, "שלום עולם", "<b>bold</b>"]
    found = labels_of_text(np.ones(4), np.ones(4), texts)
    assert all(len(label.text) < 2100 and (label.x, label.y) == (1, 1) for label in found)
    assert {label.level for label in found} <= {0, 1, 2}


def test_the_densest_point_is_not_the_mean():
    x = np.array([0.0] * 10 + [100.0] * 9)
    np.testing.assert_array_equal(densest_points(x, np.zeros(19), np.zeros(19, int), 1), [[0, 0]])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [("library", "libraries", True), ("font", "fonts", True), ("perl", "per", True), ("java", "javascript", False)],
)
def test_forms_of_a_word(a, b, same):
    assert same_word(a, b) == same_word(b, a) == same


texts_of_labels = st.text(max_size=80) | st.sampled_from(["one", "a few more words than fit on a line", "שלום", "🦆"])
some_labels = st.lists(
    st.tuples(texts_of_labels, st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**8), st.integers(0, 2)),
    max_size=40,
)


@settings(max_examples=60)
@given(some_labels, st.sampled_from([200, 300, 1200, 6000]), st.sampled_from([0.5, 1, 2]))
def test_no_two_labels_overlap_and_all_are_inside(drawn, height, shape):
    width = int(height * shape)
    area = (10, 20, 10 + width, 20 + height)
    given_labels = [Label(*label) for label in drawn]
    at = np.array([[lab.x, lab.y] for lab in given_labels]).reshape(-1, 2) * [width, height] + [10, 20]
    placed = place_labels(given_labels, at, area)
    boxes = [p.box for p in placed]
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert area[0] <= left < right <= area[2]
        assert area[1] <= top < bottom <= area[3]
        assert placed[i].size >= 10
        assert all(text_width(line, placed[i].size) <= right - left for line in placed[i].lines)
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    assert sum((b[2] - b[0]) * (b[3] - b[1]) for b in boxes) <= 0.12 * width * height + 1e-6


def test_the_largest_comes_first_and_the_next_moves_aside():
    two = [Label("small", 0, 0, 5, 0), Label("large", 0, 0, 50, 0), Label("coarse", 0, 0, 1, 0)]
    placed = place_labels(two, np.full((3, 2), 500.0), (0, 0, 1000, 1000))
    assert [p.lines for p in placed] == [("large",), ("small",), ("coarse",)]
    left, top, right, bottom = placed[0].box
    assert ((left + right) / 2, (top + bottom) / 2) == (500, 500)


def test_larger_pictures_have_room_for_more_and_larger_letters():
    rng = np.random.default_rng(0)
    many = [Label(f"label {i}", 0, 0, 1000 - i, i // 60) for i in range(180)]
    at = rng.uniform(0, 1, size=(180, 2))
    shown = {s: place_labels(many, at * s, (0, 0, s, s)) for s in (300, 1200, 6000)}
    assert 4 <= len(shown[300]) < len(shown[1200]) < len(shown[6000])
    assert 10 == shown[300][0].size < shown[1200][0].size < shown[6000][0].size
    assert shown[6000][0].size < 6000 / 1200 * shown[1200][0].size


def test_lines_are_wrapped_cut_and_cleaned():
    assert wrap("one", 20) == ("one",)
    assert wrap(" \n\t ", 20) == ()
    lines = wrap("a text of very many words that will never fit into the three lines it may have, ever", 20)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert clean("a\x00b\u202ec\nd\ud800") == "a b c d"


def test_a_million_categories_are_twenty_colors_and_other():
    n = 1_000_000
    names = np.concatenate([np.arange(n - 3000), np.repeat([-1, -2], 1500)]).astype(str).tolist()
    for column in (pa.array(names), pa.array(names).dictionary_encode()):
        found = map_colors(column, THEMES["dark"])
        assert found.names[:2] == ["-1", "-2"]
        assert found.names[2:] == [*(str(i) for i in range(18)), "other (996,982)"]
        assert found.counts == [1500, 1500, *([1] * 18), n - 3018]
        assert (np.bincount(found.codes) == found.counts).all()


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array([1, None, 1, 2]), ["1", "2", "missing"]),
        (pa.array([True, False, True]), ["True", "False"]),
        (pa.array([1.0, 3.0, np.nan]), ["1.0", "3.0", "missing"]),
        (pa.array([0, 86_400], pa.timestamp("s")), ["1970-01-01 00:00:00", "1970-01-02 00:00:00"]),
        (pa.array([2**62], pa.timestamp("s")), None),
        (pa.array([1], pa.date32()), ["1970-01-02"]),
        (pa.array([90], pa.duration("s")), ["90 s"]),
        (pa.DictionaryArray.from_arrays([1, 0, 1, None], ["a", "a"]), ["a", "missing"]),
        (pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint8()), [None, "b"]), ["b", "missing"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([7]).cast(pa.decimal128(21, 2)), ["7.00"]),
    ],
)
def test_values_of_any_type_are_categories(column, names):
    found = map_colors(column, THEMES["dark"])
    assert names is None or found.names == names
    assert len(found.codes) == len(column)
