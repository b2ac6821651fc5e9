"""What paths, directories and patterns stand for, and what is not opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nomad_dask.cli import cli
from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import open_source
from tests.helpers.source_kinds import list_table


def saved(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".npy":
        with path.open("wb") as f:
            np.save(f, x)
    else:
        pq.write_table(list_table(x), path)
    return path


def rows_of(x, **more):
    source = open_source(x, **more)
    return source.read(0, source.n_rows)


@pytest.mark.parametrize("empty", ["", b"", [""], ["", "x.npy"], "file://"])
def test_empty_paths(tmp_path, x, monkeypatch, empty):
    """An unset shell variable does not stand for the current folder."""
    monkeypatch.chdir(tmp_path)
    saved(Path("x.npy"), x)
    with pytest.raises(InputError, match="is empty: give a file"):
        open_source(os.fsdecode(empty) if isinstance(empty, bytes) else empty)
    assert CliRunner().invoke(cli, ["fit", "", "-o", "map.parquet"]).exit_code == 2


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_home(tmp_path, x, monkeypatch, suffix):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "data" / f"x.{suffix}", x)
    name = f"~/data/x.{suffix}"
    for given in (
        name,
        Path(name),
        [name],
        "~/data",
        Path("~/data"),
        ["~/data"],
        f"~/*/*.{suffix}",
        [f"~/*/x.{suffix}"],
    ):
        np.testing.assert_array_equal(rows_of(given), x)
    np.testing.assert_array_equal(rows_of([name, Path(name)]), np.concatenate([x, x]))
    monkeypatch.chdir(tmp_path)
    saved(Path("~nobody_of_this_name.npy"), x)
    np.testing.assert_array_equal(rows_of("~nobody_of_this_name.npy"), x)


@pytest.mark.parametrize("names", [["A.PARQUET", "b.Parquet", "C.pq"], ["A.NPY", "b.Npy", "C.npy"]])
def test_suffixes_in_capitals(tmp_path, x, names):
    for i, name in enumerate(names):
        saved(tmp_path / name, x[i : i + 9])
    np.testing.assert_array_equal(rows_of(tmp_path / names[0]), x[:9])
    assert open_source(tmp_path).n_rows == 27
    assert open_source(f"{tmp_path}/*").n_rows == 27


def test_several_npy_files(tmp_path, x):
    """Rows of one array, in the order of the numbers in their names."""
    parts = np.array_split(x, 11)
    for i, part in enumerate(parts):
        array = part.astype("f8") if i == 3 else np.asfortranarray(part) if i == 4 else part
        saved(tmp_path / "d" / f"part.{i}.npy", array)
    for given in (tmp_path / "d", f"{tmp_path}/d/*.npy", f"{tmp_path}/**/part*", [tmp_path / "d"]):
        source = open_source(given)
        assert source.dtype == np.float64
        assert source.chunk_boundaries() == [0, *np.cumsum([len(p) for p in parts])]
        for start, stop in [(0, 41), (3, 30), (9, 9), (40, 41)]:
            np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
            np.testing.assert_array_equal(source.slice_rows(start, stop).read(start, stop), x[start:stop])
    assert open_source(tmp_path / "d").fingerprint() != open_source(tmp_path / "d" / "part.0.npy").fingerprint()
    assert str(tmp_path / "d") in source.local_paths()
    assert str(tmp_path / "d" / "part.10.npy") in source.local_paths()
    (tmp_path / "d" / "part.5.npy").unlink()
    with pytest.raises(MissingInputError, match=r"part\.5\.npy is gone"):
        source.read(0, 41)
    saved(tmp_path / "d" / "part.5.npy", x[:, :3])
    with pytest.raises(InputError, match=r"part\.0\.npy has 5 dimensions, and .*part\.5\.npy has 3"):
        open_source(tmp_path / "d")


def test_files_of_two_formats(tmp_path, x):
    """Neither is left out without a word."""
    npy, parquet = saved(tmp_path / "x.npy", x), saved(tmp_path / "y.parquet", x)
    with pytest.raises(InputError, match=r"contains Parquet files, such as y\.parquet, and \.npy files"):
        open_source(tmp_path)
    for given in ([npy, parquet], [parquet, npy], f"{tmp_path}/*"):
        with pytest.raises(InputError, match="give files of one format"):
            open_source(given)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"notes\.txt is neither a \.npy nor a Parquet file"):
        open_source(f"{tmp_path}/*.[nt]*")


def test_links_to_files_and_folders_are_followed(tmp_path, x):
    saved(tmp_path / "elsewhere" / "b.parquet", x[20:])
    folder = tmp_path / "d"
    saved(tmp_path / "elsewhere.parquet", x[:20]).rename(tmp_path / "file")
    folder.mkdir()
    (folder / "a.parquet").symlink_to(tmp_path / "file")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    for given in (
        folder,
        f"{folder}/*",
        f"{folder}/**",
        f"{folder}/**/*.parquet",
        [folder],
        [folder / "a.parquet", folder / "linked"],
    ):
        np.testing.assert_array_equal(rows_of(given), x)


@pytest.mark.parametrize("link", ["b.parquet", "b", "deeper/2024"])
def test_links_that_lead_nowhere(tmp_path, x, link):
    saved(tmp_path / "a.parquet", x)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("gone/b.parquet")
    for given in (tmp_path, str(tmp_path), [tmp_path], f"{tmp_path}/*", f"{tmp_path}/**", tmp_path / link):
        with pytest.raises(MissingInputError, match=r"is a symbolic link to 'gone/b\.parquet', which does not exist"):
            open_source(given)
    assert open_source(f"{tmp_path}/a*").n_rows == 41


def test_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for given in (tmp_path / "loop", tmp_path / "loop" / "x.npy", [tmp_path / "loop"], tmp_path):
        with pytest.raises(InputError, match="is a symbolic link that leads to itself"):
            open_source(given)


@pytest.fixture(params=["pipe", "socket", "device", "directory"])
def make_special(request, tmp_path):
    """A function that makes something at a path that is no file."""
    opened = []

    def make(path):
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "socket":
            opened.append(socket.socket(socket.AF_UNIX))
            os.chdir(path.parent)  # names of sockets are short
            opened[-1].bind(path.name)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        return request.param

    yield make
    for one in opened:
        one.close()


def test_what_is_no_file_is_not_opened(tmp_path, x, make_special, monkeypatch):
    """A pipe is not waited for, and a device not read without end."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.npy", "x.parquet", "x"):
        folder = tmp_path / f"in {name}"
        folder.mkdir()
        kind = make_special(folder / name)
        message = (
            r"contains no Parquet or \.npy files"
            if kind == "directory"
            else f"is a {kind.replace('pipe', 'named pipe')}"
        )
        with pytest.raises(InputError, match=message):
            open_source(folder / name)
        if kind != "directory":
            saved(folder / "y.parquet", x)
            with pytest.raises(InputError, match=message):
                open_source([folder / name, folder / name])
            if name == "x.parquet":
                for given in (folder, f"{folder}/*", f"{folder}/*.parquet"):
                    with pytest.raises(InputError, match=message):
                        open_source(given)


def test_zarr_with_what_is_no_file(tmp_path, x, make_special, monkeypatch):
    import zarr

    monkeypatch.chdir(tmp_path)
    for name in ("zarr.json", "c/1/0"):
        folder = tmp_path / name.replace("/", " ")
        zarr.create_array(folder, data=x, chunks=(7, 5))
        (folder / name).unlink()
        kind = make_special(folder / name)
        with pytest.raises(InputError, match=r"cannot be read|is a "):
            open_source(folder).read(0, 41)
        assert kind


def test_a_file_replaced_by_a_pipe(tmp_path, x):
    for name in ("x.npy", "x.parquet"):
        source = open_source(saved(tmp_path / name, x))
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} is a named pipe"):
            source.read(0, 41)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 300 + ".npy", "has too long a name"),
        ("x/" * 3000, "has too long a name"),
        ("a\0b.npy", "has a null character"),
        ("file.npy/x.npy", "does not exist"),
        ("**a/*.npy", "no file matches"),
        ("[", "does not exist|no file matches"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, x, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    saved(Path("file.npy"), x)
    for given in (path, Path(path), [path], ["file.npy", path]):
        with pytest.raises((InputError, MissingInputError), match=message):
            open_source(given)


def test_names_that_are_no_text(tmp_path, x):
    for suffix in (b".npy", b".parquet"):
        name = os.fsencode(tmp_path) + b"/\xff" + suffix
        saved(tmp_path / f"x{suffix.decode()}", x).rename(os.fsdecode(name))
        np.testing.assert_array_equal(rows_of(os.fsdecode(name)), x)
        np.testing.assert_array_equal(rows_of(f"{tmp_path}/*{suffix.decode()}"), x)


def test_a_folder_that_may_not_be_read(tmp_path, x):
    saved(tmp_path / "a.parquet", x)
    code = f"""
import os
from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
folder = {str(tmp_path)!r}
open_source(folder)
os.mkdir(folder + "/secret", 0)
if os.getuid() == 0:
    os.setegid(65534), os.seteuid(65534)
try:
    open_source(folder)
except InputError as error:
    assert "secret may not be read" in str(error), error
else:
    raise AssertionError
"""
    for parent in (tmp_path, *tmp_path.parents[:3]):  # in a test's own process, one more
        parent.chmod(0o755)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def damaged_chunk(path):
    path.write_bytes(zlib.compress(b"something else"))


def shortened_chunk(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [damaged_chunk, shortened_chunk, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("compressors", ["auto", None])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_zarr_chunks_are_named(tmp_path, x, damage, compressors, zarr_format):
    import zarr

    zarr.create_array(tmp_path / "x", data=x, chunks=(7, 2), compressors=compressors, zarr_format=zarr_format)
    name = "c/3/1" if zarr_format == 3 else "3.1"
    damage(tmp_path / "x" / name)
    source = open_source(tmp_path / "x")
    np.testing.assert_array_equal(source.read(0, 21), x[:21])
    for start, stop in [(0, 41), (22, 24), (27, 40)]:
        with pytest.raises(InputError, match=rf"x, rows 21 to 27, cannot be decoded: .*{name} is damaged"):
            source.read(start, stop)
    np.testing.assert_array_equal(source.read(28, 41), x[28:])
