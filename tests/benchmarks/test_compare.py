from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BURN = "import time; t = time.process_time()\nwhile time.process_time() - t < {s}: pass"


@pytest.fixture
def compare():
    from benchmarks import compare

    return compare


@pytest.fixture
def datasets(compare):
    from benchmarks import datasets

    return datasets


def python(code):
    return [sys.executable, "-S", "-c", code]


def test_cost_counts_the_process_and_its_children(compare, tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BURN.format(s=0.3)!r}])"
    cost = compare.measured(python(child + "\n" + BURN.format(s=0.2)), tmp_path)
    assert 0.5 <= cost["cpu_s"] < 2
    assert cost["wall_s"] > 0


def test_cost_counts_what_outlives_the_process(compare, tmp_path):
    if sys.platform != "linux":
        pytest.skip("only Linux hands orphans over")
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {BURN.format(s=0.4)!r}])"
    assert compare.measured(python(orphan), tmp_path)["cpu_s"] >= 0.4


def test_peak_memory_is_that_of_the_command_alone(compare, tmp_path):
    ballast = np.ones(40_000_000)  # 320 MB here must not count there
    small = compare.measured(python("pass"), tmp_path)["peak_bytes"]
    large = compare.measured(python("x = bytearray(b'1') * 200_000_000"), tmp_path)["peak_bytes"]
    assert ballast.nbytes > 300e6
    assert small < 60e6
    assert 200e6 < large < 300e6


def test_a_method_that_fails_ends_the_comparison_with_its_words(compare, tmp_path):
    with pytest.raises(SystemExit, match="no such luck"):
        compare.measured(python("raise ValueError('no such luck')"), tmp_path)


def estimate(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def test_table_shows_medians_and_ratios_of_one_run(compare):
    def one(method, seed, cpu, value):
        scores = {
            "neighbors": {"10": estimate(value), "100": estimate(value - 0.1)},
            "triplets": estimate(0.8),
            "centroid_triplets": estimate(0.9),
            "rank_correlation": estimate(0.6),
            "labels": None,
        }
        return {
            "method": method,
            "seed": seed,
            "cpu_s": cpu,
            "wall_s": cpu / 2,
            "peak_bytes": 5e8,
            "scores": scores,
        }

    costs = [("nomad", 10, 0.3), ("openTSNE", 200, 0.2), ("nomad", 14, 0.35), ("openTSNE", 220, 0.22)]
    result = {
        "date": "2026-11-21",
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gb": 8.0},
        "versions": {"numpy": "2"},
        "data": {"name": "toy", "rows": 1000, "dims": 8},
        "seeds": [0, 1],
        "runs": [one(m, i // 2, cpu, value) for i, (m, cpu, value) in enumerate(costs)],
    }
    table = [line.split("|")[1:-1] for line in compare.markdown(result).splitlines() if line.startswith("| ")]
    head, nomad, peer = [[cell.strip() for cell in row] for row in table]
    assert dict(zip(head, nomad, strict=True)) == {
        "method": "nomad",
        "wall s": "6.0",
        "CPU s": "12.0 (10.0–14.0)",
        "peak GB": "0.500",
        "NP@10": "0.325",
        "NP@100": "0.225",
        "RTA": "0.800",
        "centroid triplets": "0.900",
        "rank corr": "0.600",
        "label acc": "",
        "CPU / nomad": "1.0",
    }
    assert peer[0] == "openTSNE"
    assert peer[-1] == "17.5"


def test_part_of_parquet_becomes_npy_with_its_labels(compare, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    names = [f"row {i}" for i in range(100)]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)
    pq.write_table(pa.table({"vector": vectors, "name": names}), tmp_path / "toy.parquet")
    whole = compare.load(str(tmp_path / "toy.parquet"), "name", None, tmp_path)
    assert whole.file.suffix == ".parquet"
    np.testing.assert_array_equal(np.load(whole.npy), X)
    part = compare.load(str(tmp_path / "toy.parquet"), "name", 10, tmp_path)
    rows = [int(name.split()[1]) for name in part.labels]
    assert len(set(rows)) == 10
    np.testing.assert_array_equal(np.load(part.file), X[rows])


def test_idx_files_are_read(datasets, tmp_path):
    images, labels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3), np.array([3, 1, 2, 0], np.uint8)
    for part in ("train", "t10k"):
        for name, array in (
            (f"{part}-images-idx3-ubyte.gz", images),
            (f"{part}-labels-idx1-ubyte.gz", labels),
        ):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
    X, codes = datasets.fashion(tmp_path)
    np.testing.assert_array_equal(X, np.tile(images.reshape(4, 6), (2, 1)))
    np.testing.assert_array_equal(codes, np.tile(labels, 2))
    assert X.dtype == np.float32
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        datasets.fashion(tmp_path / "nothing")


def test_data_sets_are_named_and_seeded(datasets, monkeypatch):
    X, groups = datasets.mixture(500, d=5, n_groups=7)
    again, _ = datasets.mixture(500, d=5, n_groups=7)
    np.testing.assert_array_equal(X, again)
    assert X.shape == (500, 5)
    assert groups.max() < 7
    with pytest.raises(SystemExit, match="'fashon' is no data set"):
        datasets.fetch("fashon")
    monkeypatch.delenv(datasets.PACKAGES_VARIABLE, raising=False)
    with pytest.raises(SystemExit, match=datasets.PACKAGES_VARIABLE):
        datasets.fetch("packages")


def test_machine_is_described(compare):
    host = json.loads(json.dumps(compare.machine()))
    assert host["cores"] >= 1
    assert host["memory_gb"] > 0.1
    assert host["cpu"]


def test_help_works_without_the_peers():
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--help"], capture_output=True, text=True, check=True
    )
    assert "--peers-python" in shown.stdout
