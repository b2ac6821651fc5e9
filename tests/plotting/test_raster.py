from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from nomad_dask.errors import InputError
from nomad_dask.plotting.canvas import font_for, shorten, text_width
from nomad_dask.plotting.legend import Entry, Panel
from nomad_dask.plotting.palettes import MAX_CATEGORIES, THEMES, contrast, palette, rgb
from nomad_dask.plotting.raster import draw

SIZE = (300, 240)


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def pixels_like(path, color, tolerance=12):
    """Return which pixels have a color, within a tolerance."""
    return np.abs(picture(path) - (rgb(color) * 255).astype(int)).max(axis=2) <= tolerance


def drawn(path, theme="dark"):
    """Return which pixels are not the background."""
    return ~pixels_like(path, THEMES[theme].background, 3)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "map.png"


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("n", [0, 1, 2, 500])
@pytest.mark.parametrize("kind", ["density", "names", "numbers"])
def test_any_number_of_points_gives_a_picture(out, n, kind, theme):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n)).astype(np.float32)
    color = {"density": None, "names": ["a", "b"] * (n // 2) + ["a"] * (n % 2), "numbers": x * 0.5}[kind]
    assert draw(x, y, color=color, size=SIZE, theme=theme, path=out) == out
    assert Image.open(out).size == SIZE
    assert drawn(out, theme).any() == (n > 0)
    assert [p.name for p in out.parent.iterdir()] == ["map.png"]


def test_equal_points_and_missing_ones(out):
    x, y = np.ones(50), np.full(50, -3.0)
    x[:10], y[5:20] = np.nan, np.inf
    draw(x, y, size=SIZE, path=out)
    rows, columns = np.nonzero(drawn(out))
    assert rows.size
    assert abs(rows.mean() - SIZE[1] / 2) < 2
    assert abs(columns.mean() - SIZE[0] / 2) < 2
    draw(np.full(4, np.nan), np.zeros(4), color=["a"] * 4, size=SIZE, path=out)
    assert not drawn(out).any()


def test_up_is_up_right_is_right_and_both_are_as_long(out):
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    draw(
        *square.T,
        color=["low left", "high left", "low right", "high right"],
        legend=False,
        size=SIZE,
        path=out,
    )
    places = []
    for hue in palette(4, THEMES["dark"]):
        rows, columns = np.nonzero(pixels_like(out, hue))
        places.append((columns.mean(), -rows.mean()))
    # Equally frequent categories get their colors in order of appearance.
    low_left, high_left, low_right, high_right = np.array(places)
    np.testing.assert_allclose(high_left - low_left, high_right - low_right, atol=1)
    width, height = low_right - low_left, high_left - low_left
    assert abs(width[1]) < 1
    assert abs(height[0]) < 1
    assert width[0] == pytest.approx(height[1], abs=2)
    assert width[0] > 150


def test_few_points_are_discs_and_many_are_not(out):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(2, 20))
    draw(*few, size=(600, 600), path=out)
    assert drawn(out).sum() > 20 * 40
    many = rng.uniform(size=(2, 400_000))
    many[:, -1] = 2, 2  # far from all others
    draw(*many, size=(600, 600), path=out)
    rows, columns = np.nonzero(drawn(out))
    assert ((rows < 100) & (columns > 500)).sum() <= 9


def test_a_rare_category_is_seen_among_a_frequent_one(out):
    rng = np.random.default_rng(0)
    x, y = np.append(rng.uniform(size=(2, 50_000)), rng.uniform(0.4, 0.6, size=(2, 60)), axis=1)
    names = np.array(["common"] * 50_000 + ["rare"] * 60)
    draw(x, y, color=names, size=(400, 400), legend=False, path=out)
    common, rare = (rgb(hue) * 255 for hue in palette(2, THEMES["dark"]))
    shown = picture(out)
    rare_pixels = np.linalg.norm(shown - rare, axis=2) < np.linalg.norm(shown - common, axis=2)
    middle = rare_pixels[160:240, 160:240] & drawn(out)[160:240, 160:240]
    assert middle.sum() > 100


def test_numbers_go_from_the_first_color_to_the_last(out):
    x = np.linspace(0, 1, 2000)
    draw(x, np.zeros(2000), color=x * 7, legend=False, size=SIZE, path=out)
    shown = picture(out)[SIZE[1] // 2]
    low, high = shown[15:40].mean(axis=0), shown[-40:-15].mean(axis=0)
    assert low[2] > low[0]  # blue
    assert high[0] > 150  # yellow
    assert high[2] < 80


def test_legend_stays_out_of_the_points(out):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 50_000)) * [[3], [1]]  # as wide as the picture allows
    names = rng.choice(["one", "a much longer name of a category, too long for its place"], 50_000)
    draw(x, y, color=names, color_name="kind", size=(600, 300), path=out)
    empty = ~drawn(out).any(axis=0)
    edges = np.flatnonzero(np.diff(empty.astype(int)))
    gaps = [(a, b) for a, b in pairwise(edges) if empty[a + 1] and b - a > 5]
    assert len(gaps) >= 1  # between the points and the legend
    points_end, legend_begins = gaps[0]
    assert points_end > 300
    assert 600 * 0.6 < legend_begins < 600 * 0.75
    assert empty[:8].all()
    assert empty[-8:].all()


def test_categories_beyond_twenty_are_other_and_gray(out):
    names = np.repeat([f"name {i}" for i in range(30)], np.arange(30, 0, -1))
    rng = np.random.default_rng(0)
    draw(*rng.normal(size=(2, names.size)), color=names, size=(900, 700), path=out)
    assert pixels_like(out, THEMES["dark"].gray, 3).sum() > 50
    assert all(pixels_like(out, hue, 3).sum() > 10 for hue in palette(MAX_CATEGORIES, THEMES["dark"]))


@pytest.mark.parametrize("kind", ["arrow", "categorical", "bool", "dates", "nulls", "numbers with nulls"])
def test_columns_of_any_kind(out, kind):
    import pandas as pd

    color = {
        "arrow": pa.chunked_array([["a", "b"], ["c", None]]),
        "categorical": pd.Series(["a", "b", "a", None], dtype="category", index=[9, 8, 7, 6]),
        "bool": [True, False, True, True],
        "dates": pd.date_range("2026-01-01", periods=4),
        "nulls": [None] * 4,
        "numbers with nulls": pa.array([1.5, None, 2.5, 700.25]),
    }[kind]
    draw(np.arange(4.0), np.arange(4.0), color=color, color_name="kind", size=SIZE, path=out)
    assert drawn(out).any()


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_colors_are_visible_and_distinct(theme):
    for n in (1, 5, 8, MAX_CATEGORIES):
        hues = palette(n, theme)
        assert len(set(hues)) == n
        assert min(contrast(hue, theme.background) for hue in hues) >= 1.7
        colors = np.array([rgb(hue) for hue in hues])
        apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + np.eye(n)
        assert apart.min() > 0.15
    assert contrast(theme.text, theme.background) > 12
    assert contrast(theme.dim, theme.background) > 4.5  # WCAG AA
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_texts_are_cut_and_written_with_what_there_is():
    assert shorten("short", 12, 500) == "short"
    cut = shorten("a very long name indeed", 12, 80)
    assert cut.endswith("...")
    assert text_width(cut, 12) <= 80
    font, text = font_for("Café", 12)
    assert text in ("Café", "Cafe")
    assert font.getlength(text) > 0


def test_a_small_panel_shows_what_fits_and_counts_the_rest():
    entries = [Entry("#ffffff", f"n{i}", 10) for i in range(21)]
    panel = Panel("heading", entries, None, "210 points", (90, 200), 0.2)
    assert len(panel.entries) < 21
    assert sum(e.count for e in panel.entries) == 210
    assert panel.entries[-1].name == f"{21 - len(panel.entries) + 1} more"
    assert panel.width <= 90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "map.jpg"}, "ends in '.jpg'.*use a name ending in .png or .svg"),
        ({"path": "map"}, "ends in ''"),
        ({"theme": "drak"}, "Did you mean 'dark'"),
        ({"size": (100, 100)}, "from 200 to 20,000 pixels"),
        ({"color": ["a"]}, "1 color values for 3 points"),
        ({"y": np.zeros(2)}, r"x has shape \(3,\) and y \(2,\)"),
    ],
)
def test_wrong_use_is_named(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    arguments = {"x": np.zeros(3), "y": np.zeros(3), "path": "map.png"} | change
    with pytest.raises(InputError, match=message):
        draw(**arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["PIL", "colorcet"])
def test_without_a_package_it_says_what_to_install(out, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'nomad-dask\[plot\]'"):
        draw(np.zeros(3), np.zeros(3), path=out)
