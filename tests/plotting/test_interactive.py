"""Views for notebooks: the real widgets hold the right positions, colors and texts."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from nomad_dask.errors import InputError
from nomad_dask.maps import Map
from nomad_dask.plotting import interactive as explore_module
from nomad_dask.plotting.palettes import THEMES, palette, rgb

N = 900
EVIL = "<img src=x onerror=alert(1)>"

# The map has a row without a position.
pytestmark = pytest.mark.filterwarnings("ignore:.*no finite position")


@pytest.fixture
def a_map() -> Map:
    """Three sections, each in a separate cluster, and a row without a position."""
    rng = np.random.default_rng(0)
    section = np.arange(N) % 3
    positions = (np.array([[0, 0], [20, 0], [0, 8]])[section] + rng.normal(size=(N, 2)) * 0.3).astype(np.float32)
    positions[7] = np.nan
    table = pa.table(
        {
            "cell": section.astype(np.int32),
            "section": [["b", "a", "c"][s] for s in section],
            "value": pa.array([None if i == 5 else i / 2 for i in range(N)]),
            "text": [f"{EVIL} a text that is longer than a line of a card could be {i}" for i in range(N)],
            EVIL: [None if i == 0 else f"n{i}" for i in range(N)],
            "many": [f"name {i % 100}" for i in range(N)],
        }
    )
    return Map(positions, table, {})


SHOWN = np.delete(np.arange(N), 7)


def scaled(a_map: Map) -> np.ndarray:
    """Return the positions as the widget has them: the longer axis from -1 to 1, the other in its middle."""
    at = a_map.positions[SHOWN].astype(np.float64)
    middle = (at.min(axis=0) + at.max(axis=0)) / 2
    return (at - middle) / (np.ptp(at, axis=0).max() / 2)


def test_the_widget_has_the_positions_and_the_colors(a_map):
    view = a_map.explore("section", ["text", EVIL, "value", "section"])
    widget = view.widget
    np.testing.assert_allclose(widget.points[:, :2], scaled(a_map), atol=1e-5)
    # Equally frequent sections get their colors in order of appearance; "c" misses the row without a position.
    hues = dict(zip(("b", "c", "a"), palette(3, THEMES["dark"]), strict=True))
    found = np.array(widget.color)[widget.points[:, 2].astype(int), :3]
    names = np.array(a_map.table.column("section").to_pylist())[SHOWN]
    np.testing.assert_allclose(found, [rgb(hues[name]) for name in names], atol=1e-6)
    assert widget.legend
    assert widget.tooltip_enable
    assert set(widget.tooltip_properties) == {"color", EVIL, "value", "section"}
    assert widget.tooltip_preview == "text"
    widget.selection = np.array([0, 500])
    assert list(view.selection()) == SHOWN[[0, 500]].tolist()


def test_the_tooltip_shows_the_row(a_map):
    widget = a_map.explore("section", ["text", EVIL, "value"]).widget
    sent = []
    widget.send = sent.append
    for index in (0, 5, 500):
        widget._handle_custom_msg(
            {"type": "tooltip", "index": index, "preview": "text", "properties": [EVIL, "value"]}, []
        )
    rows = SHOWN[[0, 5, 500]]
    texts = a_map.table.column("text").to_pylist()
    assert [m["preview"] for m in sent] == [texts[row] for row in rows]
    assert sent[0]["properties"] == {EVIL: "", "value": "0"}
    assert sent[1]["properties"] == {EVIL: "n5", "value": ""}
    assert sent[2]["properties"] == {EVIL: f"n{rows[2]}", "value": f"{rows[2] / 2:g}"}


def test_long_texts_are_cut(monkeypatch):
    import holoviews as hv

    table = pa.table({"text": ["ab" * 500_000, "שלום 🦆", None]})
    found = Map(np.arange(6, dtype=np.float32).reshape(3, 2), table, {})
    monkeypatch.setattr(explore_module, "MAX_SCATTER_POINTS", 0)
    view = found.explore(hover=["text"])
    rendered(view)
    (pointer,) = streams_of(view, hv.streams.PointerXY)
    texts = []
    for x, y in found.positions.tolist():
        pointer.update(x=x, y=y)
        texts.append(view[()].traverse(lambda p: p, [hv.Points])[-1].dimension_values("column_0")[0])
    assert texts == ["ab" * 500, "שלום 🦆", ""]


def test_numbers_have_a_scale(a_map):
    view = a_map.explore("value")
    widget = view.widget
    values = np.array(a_map.table.column("value").to_pylist(), float)[SHOWN]
    low, high = np.nanpercentile(values, [1, 99])
    # The first color is for missing values.
    expected = 1 / 256 + np.clip((values - low) / (high - low), 0, 1) * 255 / 256
    np.testing.assert_allclose(widget.points[:, 2], np.nan_to_num(expected, nan=0), atol=1e-5)
    assert len(widget.color) == 257
    np.testing.assert_allclose(widget.color[0][:3], rgb(THEMES["dark"].gray), atol=1e-6)
    whole = a_map.explore("x").widget
    assert len(whole.color) == 256
    assert (whole.points[:, 2].min(), whole.points[:, 2].max()) == pytest.approx((0, 1), abs=1e-6)


def test_many_categories_are_the_twenty_most_frequent_and_other(a_map):
    widget = a_map.explore("many").widget
    assert len(widget.color) == 21
    assert widget.points[:, 2].max() == 20
    np.testing.assert_allclose(widget.color[20][:3], rgb(THEMES["dark"].gray), atol=1e-6)


def test_without_a_column_all_points_have_one_color(a_map):
    widget = a_map.explore(theme="light", size=(500, 400)).widget
    np.testing.assert_allclose(widget.points[:, :2], scaled(a_map), atol=1e-5)
    assert (widget.width, widget.height) == (500, 400)
    assert not widget.tooltip_enable


@pytest.fixture
def shaded(monkeypatch):
    """Treat any map as one of too many points."""
    monkeypatch.setattr(explore_module, "MAX_SCATTER_POINTS", 10)


def rendered(view):
    import holoviews as hv

    return hv.renderer("bokeh").get_plot(view)


def streams_of(view, kind):
    """Return the streams of a kind that a view listens to, and what it is made of."""
    import holoviews as hv

    found = {id(s): s for s in getattr(view, "streams", []) if isinstance(s, kind)}
    inputs = getattr(getattr(view, "callback", None), "inputs", [])
    for part in [*inputs, *(view.values() if isinstance(view, hv.Overlay) else [])]:
        found |= {id(s): s for s in streams_of(part, kind)}
    return list(found.values())


def pictures(view, **ranges):
    """Return what the view shows of a part of the map."""
    import holoviews as hv

    found = []
    for stream in streams_of(view, hv.streams.RangeXY) if ranges else []:
        stream.update(**ranges)
    view[()].traverse(found.append, [hv.RGB, hv.Image])
    return found[0]


def test_above_the_bound_the_picture_has_the_points(a_map, shaded):
    import holoviews as hv

    view = a_map.explore("section")
    assert isinstance(view, hv.DynamicMap)
    picture = pictures(view)
    assert isinstance(picture, hv.RGB)
    x, y = picture.dimension_values(0, expanded=False), picture.dimension_values(1, expanded=False)
    planes = np.stack([picture.dimension_values(i, flat=False) for i in (2, 3, 4, 5)], axis=-1).astype(float)
    planes /= 255 if planes.max() > 1 else 1
    hues = dict(zip(("b", "c", "a"), palette(3, THEMES["dark"]), strict=True))
    names = np.array(a_map.table.column("section").to_pylist())
    for row in SHOWN[:60]:
        at = np.abs(y - a_map.positions[row, 1]).argmin(), np.abs(x - a_map.positions[row, 0]).argmin()
        assert planes[at][3] > 0
        np.testing.assert_allclose(planes[at][:3], rgb(hues[names[row]]), atol=0.02)
    assert 0 < (planes[..., 3] > 0).mean() < 0.2


def test_a_zoom_is_a_new_picture(a_map, shaded):
    for color in (None, "value"):
        view = a_map.explore(color)
        whole = pictures(view)
        zoomed = pictures(view, x_range=(-2, 2), y_range=(-2, 2))
        assert zoomed.bounds.lbrt() == pytest.approx((-2, -2, 2, 2))
        assert whole.bounds.lbrt()[2] > 19
        values = zoomed.dimension_values(2)
        inside = (np.abs(a_map.positions[SHOWN]) < 2).all(axis=1)
        if color is None:
            counts = values[np.isfinite(values)]
            assert inside.sum() == 300
            # Points are spread, and no point becomes two.
            assert 300 < (counts > 0).sum() <= 300 * 69
            assert counts.max() <= 2
        else:
            shown = np.array(a_map.table.column("value").to_pylist(), float)[SHOWN][inside]
            assert np.nanmin(values) >= np.nanmin(shown)
            assert np.nanmax(values) <= np.nanmax(shown)


def test_the_pointer_finds_the_nearest_row(a_map, shaded):
    import holoviews as hv
    from bokeh.models import HoverTool

    view = a_map.explore("section", [EVIL, "value"])
    plot = rendered(view)
    # The ring, of no point yet, leaves the ranges as they are.
    for stream in streams_of(view, hv.streams.RangeXY):
        assert np.isfinite([stream.x_range, stream.y_range]).all()
    (card,) = [tool for tool in plot.state.select({"type": HoverTool}) if tool.tooltips]
    assert card.tooltips == [(EVIL, "@column_0"), ("value", "@column_1")]
    (pointer,) = streams_of(view, hv.streams.PointerXY)
    for row in SHOWN[::97]:
        pointer.update(x=float(a_map.positions[row, 0]), y=float(a_map.positions[row, 1]))
        ring = view[()].traverse(lambda p: p, [hv.Points])[-1]
        at = ring.dimension_values(0)[0], ring.dimension_values(1)[0]
        np.testing.assert_allclose(at, a_map.positions[row])
        assert ring.dimension_values("column_0")[0] == (a_map.table.column(EVIL)[int(row)].as_py() or "")
    pointer.update(x=10.0, y=4.0)
    assert not len(view[()].traverse(lambda p: p, [hv.Points])[-1])


@pytest.mark.parametrize("points", [5_000_000, 10])
def test_wrong_use_is_named(a_map, monkeypatch, points):
    monkeypatch.setattr(explore_module, "MAX_SCATTER_POINTS", points)
    for arguments, message in [
        ({"color": "sektion"}, "no column 'sektion'.*Did you mean 'section'"),
        ({"hover": ["txet"]}, "no column 'txet'.*Did you mean 'text'"),
        ({"hover": "text"}, r"hover='text' is one name: pass a list of names, such as \['text'\]"),
        ({"theme": "drak"}, "Did you mean 'dark'"),
    ]:
        with pytest.raises(InputError, match=message):
            a_map.explore(**arguments)
    with pytest.raises(InputError, match="nothing to explore"):
        Map(np.full((2, 2), np.nan, np.float32), pa.table({"cell": [0, 0]}), {}).explore()
    monkeypatch.setitem(sys.modules, "jscatter" if points > 10 else "holoviews", None)
    with pytest.raises(InputError, match=r"pip install 'nomad-dask\[notebook\]'"):
        a_map.explore()


@pytest.mark.parametrize("points", [5_000_000, 0])
@pytest.mark.parametrize("n", [1, 4])
def test_one_point_and_equal_ones(monkeypatch, points, n):
    monkeypatch.setattr(explore_module, "MAX_SCATTER_POINTS", points)
    table = pa.table({"cell": pa.array([3] * n), "kind": pa.array([1, "1"][:1] * n), "on": [True] * n})
    found = Map(np.full((n, 2), 2.5, np.float32), table, {})
    for color in (None, "cell", "kind", "on"):
        view = found.explore(color, ["kind"])
        if points:
            assert np.isfinite(view.widget.points).all()
        else:
            assert rendered(view).state is not None
