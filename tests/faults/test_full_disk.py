"""A disk that fills up: the error names the file and what to do, and the run resumes when there is space again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import Event, StageFinished, StageStarted
from nomad_dask.errors import ResourceError
from nomad_dask.pipeline.collect import Layout
from nomad_dask.storage.atomic import atomic_write
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes

SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 20, "cell_size": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> Layout:
    return make_map(x, **SETTINGS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Use up the free space of a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while out.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


class Filler:
    """Fills the disk once, when a stage starts."""

    def __init__(self, disk: Path, stage: str, when: type[Event] = StageStarted) -> None:
        self.disk, self.stage, self.when = disk, stage, when

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.when) and event.stage == self.stage:  # type: ignore[attr-defined]
            fill(self.disk)


@pytest.fixture
def room_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the refusal of small disks: the plan overestimates for so few rows."""
    monkeypatch.setattr("nomad_dask.pipeline.run.check_resources", lambda *_: None)


@pytest.mark.parametrize("stage", ["sample", "cells", "shards", "neighbors", "layout"])
def test_full_when_a_stage_starts(x, undisturbed, small_disk, room_before, stage):
    home = small_disk / "w"
    with pytest.raises(ResourceError, match="The disk is full") as caught:
        make_map(x, workspace=home, emit=Filler(small_disk, stage), **SETTINGS)
    assert str(home) in str(caught.value)
    assert "run the same command again: finished stages are kept" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not list(home.rglob("*.partial"))
    (small_disk / "filler").unlink()
    again = make_map(x, workspace=home, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    np.testing.assert_array_equal(again.cell_labels, undisturbed.cell_labels)


def test_full_in_worker_processes(x, undisturbed, small_disk, room_before):
    home = small_disk / "w"
    with worker_processes(2) as client:
        for stage in ("shards", "neighbors"):
            with pytest.raises(ResourceError, match="The disk is full"):
                make_map(x, workspace=home, client=client, emit=Filler(small_disk, stage), **SETTINGS)
            (small_disk / "filler").unlink()
        again = make_map(x, workspace=home, client=client, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)


def test_full_when_the_map_is_written(x, undisturbed, small_disk, room_before):
    output = small_disk / "map.parquet"
    with pytest.raises(ResourceError, match=r"The disk is full: .*map\.parquet"):
        make_map(x, output=output, emit=Filler(small_disk, "layout", StageFinished), **SETTINGS)
    (small_disk / "filler").unlink()
    again = make_map(x, output=output, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert sorted(p.name for p in small_disk.iterdir()) == ["map.parquet"]


@pytest.mark.parametrize("where", ["workspace", "output", "both"])
def test_too_small_from_the_start(small_disk, tmp_path, x, where):
    """It is found before the first stage, also where only the map would not fit, and nothing is left."""
    filler = fill(small_disk)
    log = EventLog()
    targets = {
        "workspace": {"workspace": small_disk / "w"},
        "output": {"workspace": tmp_path / "w", "output": small_disk / "map.parquet"},
        "both": {"output": small_disk / "map.parquet"},
    }[where]
    with pytest.raises(ResourceError):
        make_map(x, emit=log, **targets, **SETTINGS)
    assert log.of(StageStarted) == []
    assert list(small_disk.iterdir()) == [filler]
    assert [p.name for p in tmp_path.iterdir()] == ["disk"]


def test_a_map_that_does_not_fit_on_its_own_disk(small_disk, tmp_path):
    """The disk of the output has some space left, but less than the map takes."""
    with fill(small_disk).open("r+b") as filler:
        filler.truncate((64 << 20) - (1 << 14))
    log = EventLog()
    with pytest.raises(ResourceError, match="The map needs at least"):
        make_map(blobs(5000), workspace=tmp_path / "w", output=small_disk / "map.parquet", emit=log, **SETTINGS)
    assert log.of(StageStarted) == []


def test_the_requested_bytes_are_reported(small_disk, tmp_path):
    home = Workspace(small_disk / "w", {"a": 1})
    array = np.zeros(100 << 20, np.uint8)
    with pytest.raises(ResourceError, match=r"a/b\.npy of 104,857,600 bytes cannot be written") as caught:
        home.save("a/b.npy", array)
    assert isinstance(caught.value, MemoryError)
    assert not list(small_disk.rglob("*.partial"))
    with pytest.raises(ResourceError, match="The disk is full"), atomic_write(small_disk / "c") as partial:
        partial.write_bytes(array.data)
    home.save("a/b.npy", array[: 1 << 20])


def test_other_errors_are_not_translated(tmp_path):
    with pytest.raises(NotADirectoryError), atomic_write(tmp_path / "c") as partial:
        (partial / "d").write_text("there is no such folder")
