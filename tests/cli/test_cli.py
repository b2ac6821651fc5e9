"""The command line: output, exit codes, and messages for bad input."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomad_dask import cli
from nomad_dask.params import Params
from tests.helpers.processes import NOMAD, command_line, run_nomad, without_progress

N, DIMS = 600, 12


def write(path: Path, vectors: np.ndarray, **columns: Any) -> Path:
    """Write vectors and other columns as Parquet."""
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table(columns | {"embedding": embedding}), path)
    return path


def clusters(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=n)
    centers = 4 * rng.normal(size=(4, DIMS))
    return (centers[labels] + rng.normal(size=(n, DIMS))).astype(np.float32), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vectors, labels = clusters(N)
    path = tmp_path_factory.mktemp("data") / "vectors.parquet"
    return write(path, vectors, name=[f"row {i}" for i in range(N)], group=[f"group {label}" for label in labels])


@pytest.fixture(scope="module")
def fitted(data: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a map of `data` with its columns kept, and how the command that made it ended: run as users do."""
    path = data.with_name("map.parquet")
    picture = data.with_name("p.png")
    command = [NOMAD, "fit", data, "-o", path, "--keep", "name,group", "--epochs", "60", "--plot", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return path, done


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process, which spares its imports: return exit code, output and errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["nomad-dask", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.cli(prog_name="nomad-dask")
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return command


# Success


def test_fit_writes_a_row_for_each_row_and_prints_the_paths(
    data: Path, fitted: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    path, done = fitted
    picture = path.with_name("p.png")
    assert done.stdout.splitlines() == [str(path), str(picture)]
    assert without_progress(done.stderr) == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    made, given = pq.read_table(path), pq.read_table(data)
    assert made.column_names == ["x", "y", "cell", "name", "group"]
    assert made.column("name").equals(given.column("name"))
    assert np.isfinite(made.column("x").to_numpy()).all()
    assert not path.with_name("map.parquet.nomad").exists()


def test_fit_json_is_one_object_and_v_writes_a_line_a_stage(call: Call, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    options = ["--neighbors", 8, "--epochs", 20, "--set", "coarse_init=never", "--set", "n_probes=2", "--seed", 3]
    code, out, err = call("fit", data, "-o", path, *options, "--json", "-v")
    assert code == 0, err
    result = json.loads(out)
    expected = Params(n_neighbors=8, n_epochs=20, coarse_init="never", n_probes=2, random_state=3)
    assert result["params"] == expected.as_dict()
    assert (result["map"], result["plot"], result["rows"], result["dims"]) == (str(path), None, N, DIMS)
    assert {"sample", "cells", "shards", "neighbors", "layout"} <= result["seconds"].keys()
    assert re.search(r"^layout: 20 epochs in [\d.]+ s", err, re.MULTILINE)


def test_the_same_seed_gives_the_same_file_content(call: Call, data: Path, tmp_path: Path) -> None:
    """In two processes."""
    options = ["--epochs", 30, "--seed", 5]
    assert run_nomad("fit", data, "-o", tmp_path / "a.parquet", *options).returncode == 0
    assert call("fit", data, "-o", tmp_path / "b.parquet", *options)[0] == 0
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_score_of_a_map_with_labels_kept_or_in_the_input(
    call: Call, data: Path, fitted: tuple[Path, object], tmp_path: Path
) -> None:
    path, _ = fitted
    code, out, err = call("score", data, path, "--label", "group", "--k", "5,20", "--queries", 200, "--json")
    assert (code, err) == (0, "")
    scores = json.loads(out)
    assert set(scores["neighbors"]) == {"5", "20"}
    assert scores["n_queries"] == 200
    assert scores["labels"]["value"] > 0.9

    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(path, columns=["x", "y"]), bare)
    code, out, _ = call("score", data, bare, "--label", "group", "--k", "5,20", "--queries", 200)
    assert code == 0
    np5, np20, rta, centroids, correlation, accuracy = out.splitlines()
    assert np20.split()[:2] == ["NP@20", f"{scores['neighbors']['20']['value']:.3f}"]
    assert np5.startswith("NP@5 ")
    assert rta.startswith("RTA ")
    assert f"centroid triplets  {scores['centroid_triplets']['value']:.3f} " in centroids
    assert f"rank correlation   {scores['rank_correlation']['value']:.3f} " in correlation
    assert f"{scores['labels']['low']:.3f} to {scores['labels']['high']:.3f}" in accuracy


def test_plot_writes_labels(call: Call, fitted: tuple[Path, object], tmp_path: Path) -> None:
    from xml.etree import ElementTree

    for option, column, texts in [
        ("--labels", "group", {f"group {i}" for i in range(4)}),
        ("--label-text", "name", {"row"}),
    ]:
        picture = tmp_path / f"{column}.svg"
        code, out, errors = call("plot", fitted[0], "-o", picture, option, column)
        assert (code, out, without_progress(errors)) == (0, f"{picture}\n", "")
        found = ElementTree.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}text")
        assert {text.text for text in found} == texts


@pytest.mark.parametrize("color", [None, "group", "cell"])
def test_plot_draws_the_size_asked_for(
    call: Call, fitted: tuple[Path, object], tmp_path: Path, color: str | None
) -> None:
    picture = tmp_path / "picture.png"
    more = [] if color is None else ["--color", color]
    code, out, err = call(
        "plot", fitted[0], "-o", picture, *more, "--size", "320x240", "--theme", "light", "--title", "A map"
    )
    assert (code, out, err) == (0, f"{picture}\n", "")
    from PIL import Image

    with Image.open(picture) as image:
        assert image.size == (320, 240)
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_plan_tells_sizes_and_does_nothing(call: Call, data: Path) -> None:
    before = sorted(data.parent.iterdir())
    code, out, _ = call("plan", data, "--cells", 7, "--json")
    assert code == 0
    assert json.loads(out)["n_cells"] == 7
    assert json.loads(out)["n_rows"] == N
    code, out, _ = call("plan", data)
    assert code == 0
    assert f"{N} × {DIMS}" in out
    assert sorted(data.parent.iterdir()) == before


def test_help_is_cheap_and_has_every_setting(call: Call) -> None:
    code = "import sys; sys.argv = ['nomad-dask', '--help']\nfrom nomad_dask.cli import main\ntry: main()\n"
    code += "except SystemExit: print(*sorted(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "pyarrow", "numba", "dask", "distributed", "scipy", "sklearn", "pandas", "rich"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())
    status, out, _ = call("fit", "--help")
    assert status == 0
    words = out.replace("-", "_")
    for name in Params.describe():
        assert name.removeprefix("n_") in words, name


# Failure


def npy(path: Path, array: np.ndarray, pickled: bool = False) -> Path:
    np.save(path, array, allow_pickle=pickled)
    return path


def with_value(value: float) -> np.ndarray:
    vectors = clusters(50)[0]
    vectors[17, 3] = value
    return vectors


def truncated(path: Path, data: Path) -> Path:
    path.write_bytes(data.read_bytes()[:-100])
    return path


def text(path: Path) -> Path:
    path.write_text("not vectors\n")
    return path


BAD_FILES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "missing": (lambda d, good: d / "vectors.parqet", r"vectors\.parqet.* does not exist"),
    "no such folder": (lambda d, good: d / "nowhere" / "x.npy", r"nowhere"),
    "text": (lambda d, good: text(d / "vectors.csv"), r"vectors\.csv.*neither.*npy.*Parquet"),
    "text called parquet": (lambda d, good: text(d / "vectors.parquet"), r"vectors\.parquet"),
    "text called npy": (lambda d, good: text(d / "vectors.npy"), r"vectors\.npy"),
    "truncated parquet": (lambda d, good: truncated(d / "t.parquet", good), r"t\.parquet"),
    "truncated npy": (lambda d, good: truncated(d / "t.npy", npy(d / "g.npy", clusters(99)[0])), r"t\.npy"),
    "pickled": (lambda d, good: npy(d / "o.npy", np.array([[1, "a"]], object), True), r"o\.npy.*object"),
    "no rows": (lambda d, good: npy(d / "e.npy", np.empty((0, 8), np.float32)), r"e\.npy is empty"),
    "one axis": (lambda d, good: npy(d / "v.npy", np.ones(40, np.float32)), r"\(40,\)"),
    "NaN": (lambda d, good: npy(d / "n.npy", with_value(np.nan)), r"row 17"),
    "infinity": (lambda d, good: write(d / "i.parquet", with_value(np.inf)), r"row 17"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(call: Call, data: Path, tmp_path: Path, case: str) -> None:
    make, message = BAD_FILES[case]
    path = make(tmp_path, data)
    before = sorted(tmp_path.iterdir())
    assert_refused(call("fit", path, "-o", tmp_path / "map.parquet"), message)
    assert not (tmp_path / "map.parquet").exists()
    assert [p for p in sorted(tmp_path.iterdir()) if p not in before and not p.name.endswith(".nomad")] == []


def assert_refused(ended: tuple[int, str, str], message: str) -> None:
    """Check that a command ended with exit code 2, one message, and no traceback."""
    code, out, err = ended
    assert code == 2, err
    assert out == ""
    assert re.search(message, err, re.DOTALL), err
    assert "Traceback" not in err
    assert err.count("Error: ") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neighbors", "0"], "n_neighbors=0 is out of range: give a whole number from 1 to 1000"),
        (["--epochs", "0"], "n_epochs=0 is out of range"),
        (["--cells", "0"], "n_cells=0 is out of range"),
        (["--cells", "601"], "n_cells=601 is more than the 600 rows"),
        (["--shards", "-1"], "n_shards=-1 is out of range"),
        (["--shards", "300"], "n_shards=300 for 600 rows.*at most 6"),
        (["--learning-rate", "0"], r"learning_rate=0\.0 is out of range: give a number above 0"),
        (["--learning-rate", "nan"], "learning_rate=nan is out of range"),
        (["--seed", "-1"], "random_state=-1 is out of range"),
        (["--epochs", "many"], "'many' is not a valid integer"),
        (["--metric", "cosin"], "'cosin' is not one of 'euclidean', 'cosine'"),
        (["--set", "mometum=0.5"], "no parameter 'mometum'.*Did you mean 'momentum'"),
        (["--set", "momentum"], "use NAME=VALUE"),
        (["--set", "momentum=2"], "momentum=2 is out of range"),
        (["--set", "cross_shard_attraction=maybe"], "cross_shard_attraction='maybe'.*True or False"),
        (["--set", "repulsion_method=means", "--set", "repulsion_method=field"], "repulsion_method is given twice"),
        (["--neighbors", "5", "--set", "n-neighbors=6"], "n_neighbors is given twice"),
        (["--column", "embeding"], "embeding.*Did you mean 'embedding'"),
        (["--keep", "name,gruop"], "no column 'gruop' to keep.*Did you mean 'group'"),
        (["--plot", "picture.jpg"], r"picture\.jpg.*\.png"),
        (["--plot", "nowhere/picture.png"], "nowhere.* does not exist"),
        (["--resume"], "nothing to resume.*leave --resume out"),
        (["--workers", "0"], "0 is not in the range"),
        (["--colour", "red"], "No such option"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(
    call: Call, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(call("fit", data, "-o", "map.parquet", *options), message)
    assert not (tmp_path / "map.parquet").exists()


def test_output_that_exists_or_cannot_be_written_is_refused_before_the_work(
    call: Call, data: Path, fitted: tuple[Path, object], tmp_path: Path
) -> None:
    taken = tmp_path / "taken.png"
    taken.write_text("mine")
    (tmp_path / "map.parquet").write_text("mine")
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (["fit", data, "-o", tmp_path / "map.parquet"], r"map\.parquet.*exists.*--overwrite"),
        (["fit", data, "-o", tmp_path / "nowhere" / "map.parquet"], "nowhere.*does not exist"),
        (["fit", data, "-o", tmp_path], "is a directory"),
        (["fit", data, "-o", tmp_path / "file" / "map.parquet"], "file"),
        (["fit", data, "-o", tmp_path / "new.parquet", "--plot", taken], r"taken\.png.*exists.*--overwrite"),
        (["plot", fitted[0], "-o", taken], r"taken\.png.*exists.*--overwrite"),
    ]:
        assert_refused(call(*arguments), message)
    assert taken.read_text() == "mine"
    assert (tmp_path / "map.parquet").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "map.parquet", "taken.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(call: Call, data: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_refused(call("fit", data, "-o", tmp_path / "map.parquet"), "cannot be written")


def test_overwrite_replaces(call: Call, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    path.write_text("old")
    code, _, err = call("fit", data, "-o", path, "--epochs", 5, "--overwrite")
    assert code == 0, err
    assert pq.read_table(path).num_rows == N


def test_a_workspace_of_another_run_is_refused(call: Call, data: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace.nomad"
    first = call("fit", data, "-o", tmp_path / "a.parquet", "--workspace", workspace, "--epochs", 5)
    assert first[0] == 0, first[2]
    other = call("fit", data, "-o", tmp_path / "b.parquet", "--workspace", workspace, "--epochs", 6)
    assert_refused(other, r"belongs to another run .*n_epochs: 5 in the workspace, 6 requested")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("precious")
    mine = call("fit", data, "-o", tmp_path / "b.parquet", "--workspace", photos, "--overwrite")
    assert_refused(mine, "neither empty nor a workspace")
    assert (photos / "holiday.jpg").read_text() == "precious"


def test_a_scheduler_that_does_not_answer_or_has_no_workers_is_refused(
    call: Call, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr("nomad_dask.cluster.remote.ANSWER_SECONDS", 1)
    ended = call("fit", data, "-o", tmp_path / "map.parquet", "--scheduler", "tcp://127.0.0.1:9")
    assert_refused(ended, r"tcp://127\.0\.0\.1:9.*does not answer")
    with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster:
        ended = call("fit", data, "-o", tmp_path / "map.parquet", "--scheduler", cluster.scheduler_address)
    assert_refused(ended, "has no workers")


def test_more_than_this_machine_holds_is_refused_with_the_numbers(call: Call, tmp_path: Path) -> None:
    huge = tmp_path / "huge.npy"
    np.lib.format.open_memmap(huge, "w+", np.float32, (10**9, 64))  # takes no room: it has only zeros
    code, _, err = call("fit", huge, "-o", tmp_path / "map.parquet")
    assert code == 3
    assert re.search(r"needs [\d.]+ [GT]iB .* has [\d.]+ [MGT]iB", err), err
    code, out, err = call("plan", huge)
    assert code == 3
    assert "1,000,000,000 × 64" in out
    assert re.search(r"needs [\d.]+ [GT]iB", err), err
    assert not (tmp_path / "map.parquet").exists()


def test_score_and_plot_refuse_what_is_no_map_of_the_input(
    call: Call, data: Path, fitted: tuple[Path, object], tmp_path: Path
) -> None:
    path, picture = fitted[0], tmp_path / "p.png"
    short = npy(tmp_path / "short.npy", clusters(50)[0])
    for arguments, message in [
        (["score", data, tmp_path / "no.parquet"], r"no\.parquet"),
        (["score", data, data], "no column 'x'"),
        (["score", data, short], r"short\.npy"),
        (["score", short, path], r"600.*50|50.*600"),
        (["score", data, path, "--label", "gruop"], "no column 'gruop'.*Did you mean 'group'"),
        (["score", data, path, "--k", "5,x"], "'5,x' is not accepted: use whole numbers"),
        (["score", data, path, "--k", "0"], "k=0 is out of range"),
        (["plot", tmp_path / "no.parquet", "-o", picture], r"no\.parquet"),
        (["plot", path, "-o", picture, "--color", "grup"], "no column 'grup'.*Did you mean 'group'"),
        (["plot", path, "-o", picture, "--size", "big"], "'big' is not a size"),
        (["plot", path, "-o", picture, "--size", "3x3"], "out of range: use a width and height"),
        (["plot", path, "-o", tmp_path / "p.gif"], r"p\.gif.*\.png or \.svg"),
        (["plot", path, "-o", picture, "--labels", "grup"], "no column 'grup'.*Did you mean 'group'"),
        (["plot", path, "-o", picture, "--label-text", "nmae"], "no column 'nmae'.*Did you mean 'name'"),
        (["plot", path, "-o", picture, "--labels", "group", "--label-text", "name"], "not both"),
        (["plot", path, "-o", picture, "--label-text", "cell"], "Labels cannot be made of this column"),
    ]:
        assert_refused(call(*arguments), message)
    assert not picture.exists()


def test_v_shows_where_an_error_comes_from(call: Call, tmp_path: Path) -> None:
    code, _, err = call("plan", tmp_path / "none.npy", "-v")
    assert code == 2
    assert "Traceback" in err
    assert "none.npy does not exist" in err.splitlines()[-1]


def test_the_unexpected_is_one_line_and_exit_code_1(call: Call, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("nomad_dask.planning.planner.make_plan", fail)
    code, out, err = call("plan", data)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "Error: ZeroDivisionError: division by zero. This was not expected; -v shows where it comes from."
    ]


# Interruption


LONG = ["--epochs", "600", "--seed", "7"]


@pytest.fixture(scope="module")
def more_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("more") / "vectors.parquet", clusters(2000)[0])


@pytest.fixture(scope="module")
def uninterrupted(more_data: Path) -> pa.Table:
    path = more_data.with_name("whole.parquet")
    whole = run_nomad("fit", more_data, "-o", path, *LONG)
    assert whole.returncode == 0, whole.stderr
    return pq.read_table(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_says_how_to_go_on_and_then_ends_the_same(
    more_data: Path, uninterrupted: pa.Table, tmp_path: Path, how: signal.Signals
) -> None:
    command = ["fit", str(more_data), "-o", "map.parquet", *LONG]
    workspace = tmp_path / "map.parquet.nomad"
    with command_line(*command, "-v", cwd=tmp_path) as child:
        deadline = time.monotonic() + 120
        while "neighbors" not in stages(workspace):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(how)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 4, err
    assert out == ""
    message = err.splitlines()[-1]
    assert message.startswith("Error: Stopped. Completed work is kept in map.parquet.nomad. Go on with: ")
    assert not (tmp_path / "map.parquet").exists()
    assert {"sample", "cells", "shards", "neighbors"} <= stages(workspace)

    program, *again = shlex.split(message.partition("Go on with: ")[2])
    assert Path(program).name == "nomad-dask"
    assert again == [*command, "-v"]
    resumed = run_nomad(*again, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "neighbors: done in an earlier run" in resumed.stderr
    assert pq.read_table(tmp_path / "map.parquet").equals(uninterrupted)


def stages(workspace: Path) -> set[str]:
    """Return the stages that a workspace holds; the manifest is always whole."""
    manifest = workspace / "manifest.json"
    return set(json.loads(manifest.read_text())["stages"]) if manifest.exists() else set()
