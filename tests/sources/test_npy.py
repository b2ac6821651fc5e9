from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import open_source
from nomad_dask.sources.npy import NpySource


def saved(path, array, **more):
    np.save(path, array, **more)
    return path


def test_truncated_names_both_sizes(tmp_path, x):
    path = saved(tmp_path / "x.npy", x)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=rf"{len(whole)} bytes expected .* {len(whole) - 100} found"):
        open_source(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_shrunk_after_opening(tmp_path, x, order):
    path = saved(tmp_path / "x.npy", np.array(x, order=order))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"x\.npy has changed since it was opened \(948 bytes.*; 848 bytes"):
        source.read(0, 41)


def test_python_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise AssertionError('unpickled')",)

    path = saved(tmp_path / "x.npy", np.array([[Bomb(), 1]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickled Python objects"):
        open_source(path)


def test_archive(tmp_path, x):
    np.savez(tmp_path / "x.npz", x)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"\.npz archive"):
        open_source(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00abc", b"hello world, this is text"])
def test_not_a_npy_file(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"not a \.npy file"):
        open_source(tmp_path / "x.npy")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_damaged_headers_give_input_errors_or_rows(tmp_path, position, byte):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((9, 4), "f4"))
    damaged = bytearray(buffer.getvalue())
    damaged[position] = byte
    path = tmp_path / "x.npy"
    path.write_bytes(damaged)
    try:
        source = NpySource(path)
    except InputError:
        return
    assert source.read(0, source.n_rows).shape == (source.n_rows, source.n_dims)


def test_missing_file_names_the_near_ones(tmp_path, x):
    saved(tmp_path / "embeddings.npy", x)
    with pytest.raises(MissingInputError, match=r"Did you mean 'embeddings\.npy'"):
        open_source(tmp_path / "embedings.npy")
    with pytest.raises(MissingInputError, match="nor does its folder"):
        open_source(tmp_path / "no" / "x.npy")


def test_other_suffix_is_known_by_its_content(tmp_path, x):
    saved(tmp_path / "x.npy", x).rename(tmp_path / "x.bin")
    np.testing.assert_array_equal(open_source(tmp_path / "x.bin").read(3, 9), x[3:9])
    (tmp_path / "y.bin").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"neither a \.npy nor a Parquet"):
        open_source(tmp_path / "y.bin")


def test_a_moved_file_is_the_same_data(tmp_path, x):
    path = saved(tmp_path / "x.npy", x)
    before = open_source(path).fingerprint()
    (tmp_path / "folder").mkdir()
    assert open_source(path.rename(tmp_path / "folder" / "y.npy")).fingerprint() == before


@pytest.mark.parametrize("row", [0, 50_000, 99_999])
def test_fingerprint_sees_changes_at_the_ends_and_in_the_middle(tmp_path, row):
    x = np.zeros((100_000, 4), "f4")
    before = open_source(saved(tmp_path / "x.npy", x)).fingerprint()
    x[row, 1] = 1
    assert open_source(saved(tmp_path / "x.npy", x)).fingerprint() != before


def test_memory_map_is_opened_by_its_path(tmp_path, x):
    path = saved(tmp_path / "x.npy", np.asfortranarray(x))
    for array, by_path in [
        (np.load(path, mmap_mode="r"), True),
        (np.load(path, mmap_mode="r")[:, :], True),
        (np.load(path, mmap_mode="r")[1:], False),
        (np.load(path, mmap_mode="r")[:, ::-1], False),
        (np.load(path, mmap_mode="r") + 1, False),
        (np.load(path, mmap_mode="c"), False),
        (np.load(path, mmap_mode="r").view("i4"), False),
    ]:
        source = open_source(array)
        assert isinstance(source, NpySource) == by_path
        np.testing.assert_array_equal(source.read(0, len(array)), array)


def test_square_transposed_map_is_not_its_file(tmp_path):
    path = saved(tmp_path / "x.npy", np.arange(9.0).reshape(3, 3))
    turned = np.load(path, mmap_mode="r").T
    np.testing.assert_array_equal(open_source(turned).read(0, 3), np.arange(9.0).reshape(3, 3).T)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("order", ["C", "F"])
def test_reading_holds_one_block(tmp_path, order):
    """A file of 160 MB is read in 4 MB blocks within 60 MB."""
    shape = (400_000, 100)
    written = np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype="f4", shape=shape, fortran_order=order == "F"
    )
    written[-1] = 1
    written.flush()
    code = f"""
from nomad_dask.sources import open_source
def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024
source = open_source({str(tmp_path / "x.npy")!r})
before = peak()
total = sum(float(rows.sum()) for _, rows in source.iterate(10_000))
assert total == 100, total
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60
