"""Pictures as SVG: read by an XML parser, with text as text, and nothing that runs."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nomad_dask.plotting.canvas import SvgCanvas
from nomad_dask.plotting.labels import labels_of_column
from nomad_dask.plotting.raster import draw

NS = "{http://www.w3.org/2000/svg}"
EVIL = ['<script>alert("1")</script>', "</text><image href=x onerror=alert(1)>", "]]>&amp;", "a\x00\x0bb", "🦆 שלום"]


def parts(path):
    root = ET.parse(path).getroot()
    assert root.tag == f"{NS}svg"
    return root, [t.text for t in root.iter(f"{NS}text")]


def test_the_points_are_a_raster_and_the_text_is_text(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3000))
    names = np.where(x > 0, "right", "left")
    more = {"color": names, "color_name": "side", "labels": labels_of_column(x, y, names), "title": "A map"}
    draw(x, y, **more, size=(600, 500), path=tmp_path / "map.svg")
    draw(x, y, **more | {"labels": ()}, size=(600, 500), path=tmp_path / "map.png")
    root, texts = parts(tmp_path / "map.svg")
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("600", "500", "0 0 600 500")
    assert sorted(texts) == sorted(
        [
            "A map",
            "side",
            "right",
            "left",
            "3,000 points",
            "right",
            "left",
            *(f"{(names == s).sum():,}" for s in ("right", "left")),
        ]
    )
    assert root.find(f"{NS}title").text == "A map"
    (image,) = root.iter(f"{NS}image")
    kind, _, data = image.get("href").partition(",")
    assert kind == "data:image/png;base64"
    inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    left, top = int(image.get("x")), int(image.get("y"))
    # The same points as in the PNG, at the same place.
    whole = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(inside, whole[top : top + inside.shape[0], left : left + inside.shape[1]])


def test_labels_are_where_their_rows_are(tmp_path):
    x, y = np.array([0.0] * 50 + [1.0] * 50), np.array([0.0] * 50 + [1.0] * 50)
    names = ["low"] * 50 + ["high"] * 50
    draw(x, y, labels=labels_of_column(x, y, names), size=(400, 400), path=tmp_path / "map.svg")
    at = {t.text: (float(t.get("x")), float(t.get("y"))) for t in ET.parse(tmp_path / "map.svg").iter(f"{NS}text")}
    assert at["low"][0] < 60 < 340 < at["high"][0]
    assert at["low"][1] > 340 > 60 > at["high"][1]


def test_script_in_labels_columns_and_titles_is_text(tmp_path):
    n = 100 * len(EVIL)
    names = np.repeat(EVIL, 100)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n)) + np.repeat(np.arange(len(EVIL)), 100) * 10
    more = {"color": names, "color_name": EVIL[0], "title": EVIL[1], "labels": labels_of_column(x, y, names)}
    draw(x, y, **more, size=(3000, 2000), path=tmp_path / "map.svg")
    root, texts = parts(tmp_path / "map.svg")
    assert {element.tag.removeprefix(NS) for element in root.iter()} == {
        "svg",
        "title",
        "rect",
        "image",
        "circle",
        "text",
    }
    assert not [a for e in root.iter() for a in e.attrib if a.startswith("on")]
    assert {EVIL[0], EVIL[1], EVIL[2], "a b", EVIL[4]} <= set(texts)
    draw(x, y, **more, size=(600, 400), path=tmp_path / "map.png")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(), max_size=30))
def test_any_text_gives_xml(tmp_path, text):
    canvas = SvgCanvas((100, 100), "#000000", text)
    canvas.text((50, 50), text, 12, "#ffffff", "m", halo="#000000")
    canvas.save(tmp_path / "t.svg")
    root, (written,) = parts(tmp_path / "t.svg")
    assert (written or "") == (root.find(f"{NS}title").text or "")


def test_letters_take_the_width_that_was_measured(tmp_path):
    canvas = SvgCanvas((100, 100), "#000000", "")
    canvas.text((50, 50), "word", 20, "#ffffff", "m")
    canvas.save(tmp_path / "t.svg")
    (text,) = ET.parse(tmp_path / "t.svg").iter(f"{NS}text")
    assert text.get("lengthAdjust") == "spacingAndGlyphs"
    assert 30 < float(text.get("textLength")) < 60


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written_whole(tmp_path, suffix):
    path = tmp_path / f"map.{suffix}"
    draw(np.zeros(3), np.zeros(3), size=(200, 200), path=path)
    first = path.read_bytes()
    draw(np.zeros(3), np.zeros(3), size=(200, 200), path=path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
