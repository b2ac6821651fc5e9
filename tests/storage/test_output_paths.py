"""What is read is never written to, under whatever name."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nomad_dask import NomadProjection
from nomad_dask.cli import cli
from nomad_dask.errors import InputError
from nomad_dask.maps import plot, read_map
from nomad_dask.site.export import export
from nomad_dask.sources import open_source
from nomad_dask.storage.output_paths import Target, check_targets, output_path
from tests.helpers.runs import blobs, make_map

SETTINGS: dict[str, Any] = {"n_epochs": 3, "n_cells": 4, "n_shards": 1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an array, its links, and a folder of Parquet files with a link to it; it is the current one."""
    x = blobs(200, 6)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "hard.npy").hardlink_to(tmp_path / "x.npy")
    (tmp_path / "soft.npy").symlink_to("x.npy")
    (tmp_path / "d" / "deep").mkdir(parents=True)
    table = pa.table({"v": pa.array(list(x))})
    pq.write_table(table.slice(0, 100), tmp_path / "d" / "part-0.parquet")
    pq.write_table(table.slice(100), tmp_path / "d" / "deep" / "part-1.parquet")
    (tmp_path / "link").symlink_to("d")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    """Return the digest of every file."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


OUTPUTS = [
    ("x.npy", "x.npy"),
    ("x.npy", "hard.npy"),
    ("x.npy", "soft.npy"),
    ("soft.npy", "x.npy"),
    ("hard.npy", "d/../x.npy"),
    ("file://{here}/x.npy", "x.npy"),
    ("d", "d/map.parquet"),
    ("d", "d/part-0.parquet"),
    ("d", "d/deep/map.parquet"),
    ("d", "link/map.parquet"),
    ("link", "d/map.parquet"),
    ("file://{here}/d", "d/map.parquet"),
    ("d/part-0.parquet", "link/part-0.parquet"),
    ("d/part-?.parquet", "d/part-9.parquet"),
    ("d/*", "d/map.parquet"),
    ("d/*", "link/map.parquet"),
    ("*/*.parquet", "d/map.parquet"),
    ("link/**/*.parquet", "d/deep/map.parquet"),
]


@pytest.mark.parametrize(("source", "output"), OUTPUTS)
def test_an_output_in_the_source_is_refused(here, source, output):
    before = content(here)
    given = open_source(source.format(here=here))
    with pytest.raises(InputError, match="the source would be lost or changed") as caught:
        make_map(given, output=Path(output), overwrite=True, **SETTINGS)
    assert repr(str(Path(output))) in str(caught.value)
    with pytest.raises(InputError, match="the source would be lost or changed"):
        make_map(given, output=here / output, overwrite=True, **SETTINGS)
    assert content(here) == before


@pytest.mark.parametrize(
    ("source", "workspace"),
    [
        ("x.npy", "x.npy"),
        ("x.npy", "."),
        ("d", "d"),
        ("d", "d/w"),
        ("d", "link/deep/w"),
        ("d/deep/part-1.parquet", "d"),
        ("d/deep/part-1.parquet", "link/deep"),
        ("d/*", "d"),
        ("d/*/*", "d/w"),
        ("d/**/*.parquet", "d/w"),
    ],
)
def test_a_workspace_around_or_in_the_source_is_refused(here, source, workspace):
    before = content(here)
    for path in (Path(workspace), here / workspace):
        with pytest.raises(InputError, match="the source would be lost or changed"):
            make_map(source, workspace=path, overwrite=True, **SETTINGS)
    with pytest.raises(InputError, match="the source would be lost or changed"):
        NomadProjection(workspace=workspace, n_epochs=3).fit(source)
    assert content(here) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "m.parquet", "--workspace", "m.parquet"], "The workspace 'm.parquet' is also the output"),
        (["-o", "m.parquet", "--workspace", "./d/../m.parquet"], "is also the output"),
        (["-o", "w/m.parquet", "--workspace", "w"], "The output 'w/m.parquet' lies in the workspace 'w'"),
        (["-o", "m.png", "--plot", "m.png"], "The picture 'm.png' is also the output 'm.png'"),
        (["-o", "m.parquet", "--plot", "w/m.png", "--workspace", "w"], "lies in the workspace"),
        (["-o", "m.parquet", "--plot", "link/m.png"], None),
    ],
)
def test_outputs_do_not_replace_each_other(here, arguments, message):
    (here / "w").mkdir()
    source = "d" if message is None else "x.npy"
    result = CliRunner().invoke(cli, ["fit", source, *arguments, "--quiet", "--epochs", "3", "--overwrite"])
    assert result.exit_code == 2
    assert (message or "lies in the source") in result.stderr
    assert not (here / "m.parquet").exists()


def test_a_new_file_that_the_source_would_not_read_is_accepted(here):
    read = [str(here / "d" / "part-*.parquet"), str(here / "x.npy")]
    check_targets([Target("output", here / "d" / "map.parquet"), Target("workspace", here / "d" / "w", True)], read)
    check_targets([Target("output", here / "y.npy")], read)


def test_the_maps_of_python_do_not_replace_their_source(here):
    before = content(here)
    fitted = NomadProjection(n_epochs=3, n_cells=4).fit("d").map_
    for act in (fitted.to_parquet, fitted.plot):
        with pytest.raises(InputError, match="lies in the source"):
            act("d/map.png")
    mapped = NomadProjection(n_epochs=3, n_cells=4).fit(np.load("x.npy", mmap_mode="r")[::2]).map_
    with pytest.raises(InputError, match="is the source"):
        mapped.to_parquet("hard.npy")
    assert content(here) == before
    assert len(read_map(fitted.to_parquet("map.parquet"))) == 200
    (here / "map.png").hardlink_to("map.parquet")
    for target in ("map.png", "soft.png"):
        (here / "soft.png").unlink(missing_ok=True)
        (here / "soft.png").symlink_to("map.parquet")
        with pytest.raises(InputError, match="is the source"):
            plot("map.parquet", target)
        with pytest.raises(InputError, match="is the source"):
            plot(target, "map.png")


def test_the_files_of_a_dask_frame_are_its_source(here):
    import dask.dataframe as dd

    before = content(here)
    frame = dd.read_parquet("d/part-0.parquet")
    fitted = NomadProjection(n_epochs=3, n_cells=4).fit(frame).map_
    with pytest.raises(InputError, match="is the source"):
        fitted.to_parquet("link/part-0.parquet")
    with pytest.raises(InputError, match="lies in the source"):
        NomadProjection(workspace="d/w", n_epochs=3).fit(dd.read_parquet(["d"]))
    assert content(here) == before


def test_a_site_does_not_replace_the_folder_of_its_map(here):
    make_map("x.npy", output=Path("map.parquet"), **SETTINGS)
    export("map.parquet", "site")
    (here / "map.parquet").rename(here / "site" / "map.parquet")
    with pytest.raises(InputError, match="contains the source"):
        export("site/map.parquet", "site", overwrite=True)
    assert len(read_map("site/map.parquet")) == 200


BAD = ["", " ", "\t", "a" * 246, "é" * 123, "a" * 5000, "a/" * 2500 + "b", "b\0c", "d\udcff.parquet"]


@pytest.mark.parametrize("path", BAD, ids=lambda p: repr(p)[:20])
def test_paths_that_no_command_accepts(here, path):
    before = content(here)
    make_map("x.npy", output=Path("map.parquet"), **SETTINGS)
    writers: list[Callable[[], Any]] = [
        lambda: output_path(path, "output"),
        lambda: NomadProjection(workspace=path, n_epochs=3).fit("x.npy"),
        lambda: read_map("map.parquet").to_parquet(path),
        lambda: plot("map.parquet", path),
        lambda: export("map.parquet", path),
    ]
    for write in writers:
        with pytest.raises(InputError, match=r"is empty|is not accepted") as caught:
            write()
        assert len(str(caught.value)) < 600
    for arguments in (
        ["fit", "x.npy", "-o", path],
        ["fit", "x.npy", "-o", "m.parquet", "--workspace", path],
        ["fit", "x.npy", "-o", "m.parquet", "--plot", path],
        ["plot", "map.parquet", "-o", path],
        ["export", "map.parquet", "-o", path],
        ["view", "map.parquet", "-o", path],
        ["status", path],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, (arguments, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1
    (here / "map.parquet").unlink()
    assert content(here) == before


def test_the_longest_names_are_written(here):
    for name in ("m" * 237 + ".parquet", "é" * 118 + ".parquet"):
        make_map("x.npy", output=Path(name), **SETTINGS)
        assert len(read_map(name)) == 200
        assert len(read_map(read_map(name).to_parquet(name))) == 200
        export(name, name[:-1])
    assert not [p for p in here.iterdir() if p.name.startswith(".") or p.name.endswith(".nomad")]


def test_the_home_folder_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    make_map("x.npy", output=Path("~/map.parquet"), workspace=Path("~/w"), **SETTINGS)
    fitted = NomadProjection(workspace="~/v", n_epochs=3, n_cells=4).fit("x.npy").map_
    assert fitted.to_parquet("~/again.parquet") == here / "again.parquet"
    assert {"map.parquet", "w", "v", "again.parquet"} <= {p.name for p in here.iterdir()}
    assert not (here / "~").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["FIFO", "device", "link", "dangling", "socket"])
def test_only_regular_files_are_replaced(here, kind):
    path = here / "map.parquet"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "link":
        (here / "precious").write_text("precious")
        path.symlink_to("precious")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("map.parquet")
    mode = path.lstat().st_mode
    with pytest.raises(InputError, match="only regular files are replaced"):
        make_map("x.npy", output=path, overwrite=True, **SETTINGS)
    make_map("x.npy", output=Path("other.parquet"), **SETTINGS)
    with pytest.raises(InputError, match="only regular files are replaced"):
        read_map("other.parquet").to_parquet(path)
    assert path.lstat().st_mode == mode
    assert not (here / "nowhere").exists()
    assert kind != "link" or (here / "precious").read_text() == "precious"


def test_a_file_size_limit_ends_in_one_line(here):
    """`ulimit -f` counts blocks of 1,024 bytes in bash."""
    command = "ulimit -f 2; exec nomad-dask fit x.npy -o map.parquet --quiet --epochs 3"
    environment = dict(os.environ) | {"PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 3, done.stderr
    assert "may write no file of more than 2,048 bytes" in done.stderr
    assert "ulimit -f" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    again = CliRunner().invoke(cli, ["fit", "x.npy", "-o", "map.parquet", "--quiet", "--epochs", "3"])
    assert again.exit_code == 0, again.stderr
