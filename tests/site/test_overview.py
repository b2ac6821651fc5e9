"""The pictures of all points: ink where points are, and none elsewhere."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from scipy.ndimage import distance_transform_edt

from nomad_dask.site.export import export
from tests.helpers import site_maps as sites
from tests.helpers.site_maps import write_map


def opacity(site, picture):
    with Image.open(site / picture["name"]) as image:
        assert image.size == (picture["pixels"],) * 2
        return np.asarray(image.convert("RGBA"))[..., 3]


def pixels(about, x, y, size):
    left, bottom, right, top = about["extent"]
    column = np.clip((x - left) / (right - left) * size, 0, size - 1).astype(int)
    row = size - 1 - np.clip((y - bottom) / (top - bottom) * size, 0, size - 1).astype(int)
    return row, column


def test_ink_is_where_points_are(blobs, tmp_path):
    export(blobs, tmp_path / "s", memory_rows=3_000)
    about = sites.about(tmp_path / "s")
    table = pq.read_table(blobs, columns=["x", "y"])
    x, y = (table.column(axis).to_numpy().astype(np.float64) for axis in ("x", "y"))
    assert [p["pixels"] for p in about["overview"]] == [512, 1024, 2048]
    for picture in about["overview"]:
        ink = opacity(tmp_path / "s", picture)
        at = pixels(about, x, y, picture["pixels"])
        assert (ink[at] > 80).all()
        away = np.ones(ink.shape, bool)
        away[at] = False
        # Few points are drawn as discs, of a hundredth of the picture at most.
        assert not ink[distance_transform_edt(away) > picture["pixels"] / 100].any()
    # Crowded places have more ink.
    small = opacity(tmp_path / "s", about["overview"][0])
    counts = np.zeros(small.shape, int)
    np.add.at(counts, pixels(about, x, y, 512), 1)
    assert small[counts > np.percentile(counts[counts > 0], 95)].mean() > small[counts == 1].mean()


def test_corners_are_where_they_belong(tmp_path):
    path = write_map(tmp_path / "m.parquet", [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    export(path, tmp_path / "s")
    ink = opacity(tmp_path / "s", sites.about(tmp_path / "s")["overview"][0]) > 0
    assert (ink[0, 0], ink[-1, 0], ink[-1, -1], ink[0, -1]) == (True, True, True, False)
    assert ink.mean() < 0.01


def test_a_single_point_has_ink(tmp_path):
    path = write_map(tmp_path / "m.parquet", [5.0], [-3.0])
    export(path, tmp_path / "s")
    for picture in sites.about(tmp_path / "s")["overview"]:
        assert opacity(tmp_path / "s", picture).any()
