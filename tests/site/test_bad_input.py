"""Bad input: the messages, and that no files are left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomad_dask.callbacks import Event, StageStarted
from nomad_dask.errors import InputError, MissingInputError, ResourceError
from nomad_dask.site.atomic_folder import check_folder
from nomad_dask.site.export import export
from tests.helpers import site_maps as sites
from tests.helpers.forked import ForkedProcess
from tests.helpers.instants import record
from tests.helpers.processes import command_line
from tests.helpers.site_maps import write_map


@pytest.fixture
def small(tmp_path: Path) -> Path:
    n = 200
    return write_map(
        tmp_path / "small.parquet", np.arange(n), np.arange(n), cell=np.arange(n) // 10,
        name=[f"row {i}" for i in range(n)], section=["a", "b"] * (n // 2),
        score=np.linspace(0, 1, n), vector=pa.array([[1.0]] * n),
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def text(path: Path) -> Path:
    path.write_text("no map")
    return path


def damaged(path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_map(path, rng.random(50_000), rng.random(50_000))
    content = bytearray(path.read_bytes())
    content[2_000:200_000] = bytes(198_000)
    path.write_bytes(content)
    return path


BAD_MAPS = {
    "missing": (lambda p: p, r"The map .*m\.parquet.* does not exist"),
    "text": (text, r"m\.parquet.* cannot be read as Parquet"),
    "damaged": (damaged, r"m\.parquet.* cannot be read .*may be damaged"),
    "no x": (lambda p: table(p, X=[1.0], y=[1.0]), r"no column 'x', so it is not a map\. .*'X'"),
    "no y": (lambda p: table(p, x=[1.0], yy=[1.0]), r"no column 'y', so it is not a map\. Did you mean 'yy'"),
    "words as x": (lambda p: table(p, x=["1"], y=[1.0]), r"'x' of .* holds string: positions must be numbers"),
    "no rows": (lambda p: table(p, x=pa.array([], pa.float32()), y=pa.array([], pa.float32())), "has no rows"),
    "NaN": (lambda p: table(p, x=[0.0] * 5, y=[0, 1, 2, np.nan, np.nan]), r"Row 3 of .* is the first .*, y = nan"),
    "infinity": (lambda p: table(p, x=[0.0, -np.inf], y=[1.0, np.nan]), r"Row 1 of .*, x = -inf"),
    "null": (lambda p: table(p, x=[0.0, None], y=[0.0, 1.0]), r"Row 1 of .*, x = null"),
    "no UTF-8": (lambda p: table(p, x=[0.0], y=[0.0], t=pa.array([b"\xff\xfe"]).view(pa.string())), "cannot be .*UTF8"),
    "too far apart": (lambda p: table(p, x=[-1.7e308, 1.7e308], y=[0.0, 0.0]), "inf apart, .*: scale them down"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MAPS)
def test_bad_maps(tmp_path, case):
    make, message = BAD_MAPS[case]
    with pytest.raises((InputError, MissingInputError), match=message) as caught:
        export(make(tmp_path / "m.parquet"), tmp_path / "s")
    assert caught.value.exit_code == 2
    assert set(names(tmp_path)) <= {"m.parquet"}


def test_the_first_bad_row_is_that_of_the_whole_file(tmp_path):
    x, y = np.zeros(300_000), np.zeros(300_000)
    x[290_000], y[280_000] = np.nan, np.inf
    path = write_map(tmp_path / "m.parquet", x, y, row_group_size=10_000)
    with pytest.raises(InputError, match=r"Row 280,000 of .*, y = inf"):
        export(path, tmp_path / "s")


def test_a_column_that_is_there_twice(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 4, ["x", "y", "a", "a"]), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="has the column 'a' twice"):
        export(tmp_path / "m.parquet", tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": ["secton"]}, "has no column 'secton'. Did you mean 'section'"),
        ({"hover": ["nmae"]}, "has no column 'nmae'. Did you mean 'name'"),
        ({"search": ["nam"]}, "has no column 'nam'. Did you mean 'name'"),
        ({"color": ["vector"]}, r"'vector' holds list<.*colored by text, booleans or numbers"),
        ({"hover": ["vector"]}, r"'vector' holds list<.*cannot be shown as text"),
        ({"search": ["score"]}, r"'score' holds double: only text can be searched"),
        ({"search": ["name"], "hover": ["section"]}, "'name' is searched but not shown"),
        ({"hover": ["name", "name"]}, "'name' is named twice"),
        ({"tile_rows": 0}, "tile_rows=0 is out of range: use a whole number from 1 to 131,072"),
        ({"tile_rows": 1 << 20}, "tile_rows=1048576 is out of range"),
    ],
)
def test_bad_choices(small, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(small, tmp_path / "s", **options)
    assert names(tmp_path) == ["small.parquet"]


def test_names_of_columns_that_look_like_paths(tmp_path):
    """Parquet writes nested columns with dots, but a column with a dot in its name is not nested."""
    nested = pa.array([{"b": i} for i in range(5)])
    path = write_map(
        tmp_path / "m.parquet", np.arange(5), np.arange(5), **{"a.b": list("vwxyz"), "a": nested, "": list("pqrst")}
    )
    export(path, tmp_path / "s", color=["a.b", ""])
    texts = sites.texts(tmp_path / "s").drop_columns(["@x", "@y"])
    assert texts.to_pydict() == {"a.b": list("vwxyz"), "": list("pqrst")}


# The folder


def test_a_folder_that_holds_something_is_refused(small, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no site: use a new or an empty one"):
            export(small, photos, overwrite=overwrite)
    assert (photos / "holiday.jpg").read_text() == "precious"
    with pytest.raises(InputError, match="is not a folder"):
        export(small, small)
    with pytest.raises(InputError, match=r"nowhere.* does not exist: create it first"):
        export(small, tmp_path / "nowhere" / "s")
    assert names(tmp_path) == ["photos", "small.parquet"]


def test_an_empty_folder_is_taken_and_a_site_only_with_overwrite(small, tmp_path):
    site = tmp_path / "s"
    site.mkdir()
    export(small, site, title="first")
    before = sites.files(site)
    with pytest.raises(InputError, match="already holds a site: use another one, or replace it with --overwrite"):
        export(small, site, title="second")
    assert sites.files(site) == before
    export(small, site, title="second", overwrite=True)
    assert sites.about(site)["title"] == "second"
    assert names(tmp_path) == ["s", "small.parquet"]


def test_a_link_to_a_folder_stays_a_link(small, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "s").mkdir()
    (tmp_path / "s").symlink_to("disk/s")
    export(small, tmp_path / "s")
    export(small, tmp_path / "s", overwrite=True)
    assert (tmp_path / "s").is_symlink()
    assert sites.about(tmp_path / "disk" / "s")["n"] == 200


def test_a_site_stays_when_the_one_that_replaces_it_fails(small, tmp_path):
    site = tmp_path / "s"
    export(small, site)
    before = sites.files(site)

    def fail(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "search":
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        export(small, site, title="other", overwrite=True, emit=fail)
    assert sites.files(site) == before
    assert names(tmp_path) == ["s", "small.parquet"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(small, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        export(small, tmp_path / "locked" / "s")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_read_only_disk_is_refused(small, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(InputError, match=r"s' cannot be written \(.*Read-only file system.*\): use another folder"):
        export(small, disk / "s")


@pytest.mark.parametrize("stage", ["tiles", "text", "search", "fan"])
def test_a_full_disk(blobs, disk, stage):
    """In any stage, a full disk is an error that says so, and no files are left."""

    def fill(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == ("tiles" if stage == "fan" else stage):
            with (disk / "filler").open("wb", buffering=0) as out:
                for size in (1 << 16, 1):
                    try:
                        while out.write(bytes(size)) == size:
                            pass
                    except OSError:
                        continue

    more = {"memory_rows": 1_000} if stage == "fan" else {}
    with pytest.raises(ResourceError, match=r"The disk is full: the site .*disk/s' cannot be written") as caught:
        export(blobs, disk / "s", emit=fill, **more)
    assert caught.value.exit_code == 3
    assert names(disk) == ["filler"]


def test_a_disk_that_cannot_hold_the_points_is_refused_before_the_work(blobs, disk):
    (disk / "filler").write_bytes(bytes((24 << 20) - 200_000))
    with pytest.raises(ResourceError, match=r"take 400,000 bytes of disk, and [\d,]+ are free") as caught:
        export(blobs, disk / "s")
    assert caught.value.exit_code == 3
    assert names(disk) == ["filler"]


def started(site: Path, process: Any) -> None:
    """Wait until the tiles of a site are being written."""
    while process.poll() is None and not list(site.parent.glob(f".{site.name}.*.partial/site/tiles/*")):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    n = 600_000
    folder = tmp_path_factory.mktemp("large")
    return write_map(folder / "m.parquet", rng.random(n), rng.random(n), name=[f"row {i} of many" for i in range(n)])


def test_a_killed_export_leaves_no_site_and_the_next_one_cleans_up(large, small, tmp_path):
    site = tmp_path / "s"
    with command_line("export", large, "-o", site) as process:
        started(site, process)
        process.kill()
        process.wait()
    assert not site.exists()
    left = [name for name in names(tmp_path) if name.endswith(".partial")]
    assert len(left) == 1
    export(small, site)
    assert names(tmp_path) == ["s", "small.parquet"]


def test_killed_at_any_instant_there_is_the_old_site_or_the_new_one(small, tmp_path):
    """Also between the two renames, where neither has the name: the next command of this name gives it back."""
    folder, copies = tmp_path / "out", tmp_path / "copies"
    site = folder / "s"
    folder.mkdir()
    export(small, site, title="old")
    old = sites.files(site)
    command = ["export", str(small), "-o", str(site), "--title", "new", "--overwrite", "--quiet"]
    recorder = ForkedProcess(record, folder, copies, command)
    _, errors = recorder.communicate()
    assert recorder.returncode == 0, errors
    new = sites.files(site)
    assert new != old
    states = sorted(copies.iterdir())
    (apart,) = [i for i, state in enumerate(states) if not (state / "s").exists()]
    assert apart > 20
    found = []
    for state in states[:6] + states[6 : apart - 2 : 9] + states[apart - 2 :]:
        shutil.rmtree(folder)
        shutil.copytree(state, folder)
        check_folder(site, overwrite=True)
        assert names(folder) == ["s"], state.name
        found.append(sites.files(site))
    n_old, n_new = found.count(old), found.count(new)
    assert n_new > 3
    assert found == [old] * n_old + [new] * n_new


def set_aside(small: Path, folder: Path) -> Path:
    """Return the name of a site in the state between the two renames."""
    work = folder / ".s.0123abcd.partial"
    (work / "scratch").mkdir(parents=True)
    export(small, work / "old", title="old")
    export(small, work / "site", title="new")
    return folder / "s"


def test_view_shows_a_site_that_was_set_aside(small, tmp_path):
    site = set_aside(small, tmp_path)
    with command_line("view", site) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert sites.about(site)["title"] == "old"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert names(tmp_path) == ["s", "small.parquet"]


def test_what_else_has_the_name_of_a_site_that_was_set_aside_stays_and_so_does_the_site(small, tmp_path):
    site = set_aside(small, tmp_path)
    site.mkdir()
    (site / "precious").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no site"):
        export(small, site, overwrite=True)
    assert names(site) == ["precious"]
    assert sites.about(tmp_path / ".s.0123abcd.partial" / "old")["title"] == "old"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(large, tmp_path, how):
    site = tmp_path / "s"
    with command_line("export", large, "-o", site) as process:
        started(site, process)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, "")
    assert "Stopped." in err
    assert names(tmp_path) == []


def test_what_grows_is_left_alone_by_another_export(large, small, tmp_path):
    site = tmp_path / "s"
    with command_line("export", large, "-o", site) as process:
        started(site, process)
        export(small, site)
        process.send_signal(signal.SIGSTOP)
        assert list(tmp_path.glob(".s.*.partial/site/tiles"))
        process.send_signal(signal.SIGCONT)
        assert sites.about(site)["n"] == 200


def test_without_pillow_it_says_what_to_install(small, tmp_path):
    code = "import sys; sys.modules['PIL'] = None\nfrom nomad_dask.site.export import export\nexport(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, small, tmp_path / "s"], capture_output=True, text=True, check=False
    )
    assert "InputError" in done.stderr
    assert "pip install 'nomad-dask[plot]'" in done.stderr
