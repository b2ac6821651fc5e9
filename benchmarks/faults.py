"""Outcomes of many faults: damaged workspaces, and processes that are killed at random moments.

Every run that is hit is started again by the same command until it ends. Its map must then be that of an undisturbed
run, bit for bit, or the command must have refused to go on with one clear error.

    python -m benchmarks.faults workspaces 300
    python -m benchmarks.faults commands 200
    python -m benchmarks.faults views 200

The last kills `plot` and `export`, with and without an earlier result to replace: the map must be as it was, an earlier
result stays until the new one is complete, and the same command then writes what an undisturbed one does.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from nomad_dask.errors import NomadError
from tests.helpers.runs import blobs, make_map

NOMAD = str(Path(sys.executable).with_name("nomad-dask"))
TIMEOUT = 300.0
Damage = Callable[[Path, random.Random], None]


class _StoppedError(Exception):
    """Ends a run where a test wants it."""


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(bytes(content))


def change_digit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if digits:
        content[rng.choice(digits)] = rng.randrange(48, 58)
        path.write_bytes(bytes(content))


def truncate(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(rng.randrange(path.stat().st_size + 1))


def zero_tail(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    kept = rng.randrange(len(content) + 1)
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def replace_by_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["/dev/zero", "nothing", path.name]))


DAMAGES: tuple[Damage, ...] = (
    flip, flip, change_digit, truncate, zero_tail, remove, replace_by_folder, replace_by_link,
)  # fmt: skip


def stopped_workspaces(x: np.ndarray, folder: Path) -> list[Path]:
    """Return the workspaces of runs that were stopped after each stage, and within the layout."""
    made = []
    for i, point in enumerate([*(("StageFinished", n) for n in range(4)), ("CheckpointWritten", 0)]):
        seen: collections.Counter[str] = collections.Counter()

        def stop(event: object, point: tuple[str, int] = point, seen: collections.Counter[str] = seen) -> None:
            kind = type(event).__name__
            if (kind, seen[kind]) == point:
                raise _StoppedError
            seen[kind] += 1

        try:
            make_map(x, workspace=folder / f"w{i}", n_shards=2, n_epochs=60, emit=stop)
        except _StoppedError:
            made.append(folder / f"w{i}")
    return made


def damage_workspaces(n: int, seed: int) -> collections.Counter[str]:
    """Damage one or two files of a stopped run, and continue it."""
    rng, outcomes = random.Random(seed), collections.Counter[str]()
    x = blobs(1500, 12)
    expected = make_map(x, n_shards=2, n_epochs=60).positions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = stopped_workspaces(x, folder)
        for _ in range(n):
            work = folder / "work"
            shutil.copytree(rng.choice(bases), work, symlinks=True)
            files = sorted(path for path in work.rglob("*") if path.is_file())
            done = []
            for path in rng.sample(files, rng.choice([1, 1, 2])):
                damage = rng.choice(DAMAGES)
                damage(path, rng)
                done.append(f"{damage.__name__} {path.name}")
            outcomes[_outcome_of(x, work, expected, done)] += 1
            shutil.rmtree(work)
    return outcomes


def _outcome_of(x: np.ndarray, work: Path, expected: np.ndarray, done: list[str]) -> str:
    try:
        positions = make_map(x, workspace=work, n_shards=2, n_epochs=60).positions
    except NomadError as error:
        print("REFUSED", done, str(error)[:200], flush=True)
        return f"refused with exit code {error.exit_code}"
    except Exception as error:  # noqa: BLE001 - counted
        print("BUG", done, repr(error), flush=True)
        return f"bug: {type(error).__name__}"
    if np.array_equal(positions, expected):
        return "same map"
    print("DIFFERENT", done, flush=True)
    return "different map"


def command_of(folder: Path, rng: random.Random) -> list[str]:
    """Return the command line of a fit, with one or two worker processes or none, that also draws the map."""
    workers = rng.choice(["1", "2", "2"])
    return [
        *(NOMAD, "fit", str(folder / "x.npy"), "-o", str(folder / "map.parquet")),
        *("--n-workers", workers, "--n-shards", "2", "--n-epochs", "100", "--plot", str(folder / "map.png"), "--quiet"),
    ]


def kill_processes(n: int, seed: int, n_rows: int) -> collections.Counter[str]:
    """Kill a random process of a fit at a random moment, cut the newest files in half of the cases, and go on."""
    rng, outcomes = random.Random(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", blobs(n_rows, 12))
        started = time.monotonic()
        subprocess.run([*command_of(folder, rng), "--overwrite"], check=True)
        length = time.monotonic() - started
        expected = pq.read_table(folder / "map.parquet").to_pandas()
        n_kills = 0
        while n_kills < n:
            command = command_of(folder, rng)
            for path in (folder / "map.parquet", folder / "map.png"):
                path.unlink(missing_ok=True)
            for _ in range(6):
                killed = _run_and_kill(command, rng.uniform(0, 1.2 * length), rng)
                n_kills += killed.startswith("killed")
                outcomes[killed] += 1
                if killed.startswith("killed the driver") and rng.random() < 0.5:
                    _cut_newest(folder / "map.parquet.nomad", rng)
                if killed == "ended with 0":
                    break
            outcomes[_finish(command, folder, expected)] += 1
    return outcomes


def _run_and_kill(command: list[str], after: float, rng: random.Random) -> str:
    """Run a command, and kill it or one of its processes after some seconds."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        process.wait(after)
        return f"ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        pass
    children = psutil.Process(process.pid).children(recursive=True)
    victim = rng.choice([process, process, *children])
    try:
        victim.send_signal(signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return "gone before"
    if victim is not process:
        try:
            process.communicate(timeout=TIMEOUT)
            return f"killed a child, ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            print("HANG", command, flush=True)
            return "hang"
    process.wait()
    psutil.wait_procs(children, timeout=60)
    return "killed the driver"


def _cut_newest(workspace: Path, rng: random.Random) -> None:
    """Cut off the newest files, as a power failure may."""
    files = [path for path in workspace.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime)[-rng.randrange(1, 4) :]:
        truncate(path, rng)


def _finish(command: list[str], folder: Path, expected: object) -> str:
    """Run a command to its end, and compare its map."""
    if not (folder / "map.parquet").exists():
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            print("STUCK", command, done.stderr, flush=True)
            shutil.rmtree(folder / "map.parquet.nomad", ignore_errors=True)
            return f"stuck with exit code {done.returncode}"
    same = pq.read_table(folder / "map.parquet").to_pandas().equals(expected)
    left = [path.name for path in folder.iterdir() if path.name not in ("x.npy", "map.parquet", "map.png")]
    if left:
        print("LEFT", left, flush=True)
    return ("same map" if same else "different map") + (", files left" if left else "")


def content_of(path: Path) -> dict[str, bytes]:
    """Return the files below a folder, or one file, by name."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def kill_views(n: int, seed: int, n_rows: int) -> collections.Counter[str]:
    """Kill commands that draw or export a map at random moments, and run them again."""
    rng, outcomes = random.Random(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, source = folder / "x.npy", folder / "map.parquet"
        np.save(x, blobs(n_rows, 12))
        subprocess.run([NOMAD, "fit", x, "-o", source, "--n-epochs", "20", "--quiet"], check=True)
        before = source.read_bytes()
        expected, seconds = {}, {}
        for verb, output in (("plot", "map.png"), ("plot", "map.svg"), ("export", "site")):
            started = time.monotonic()
            subprocess.run([NOMAD, verb, source, "-o", folder / output], check=True)
            expected[verb, output], seconds[verb, output] = content_of(folder / output), time.monotonic() - started
            _remove(folder / output)
        n_kills = 0
        while n_kills < n:
            verb, output = rng.choice(list(expected))
            command = [NOMAD, verb, str(source), "-o", str(folder / output), "--overwrite"]
            replaces = rng.random() < 0.5
            if replaces:
                subprocess.run(command, check=True)
            killed = _run_and_kill(command, rng.uniform(0, 1.1 * seconds[verb, output]), rng)
            n_kills += killed.startswith("killed")
            same_map = source.read_bytes() == before
            kept = not replaces or content_of(folder / output) == expected[verb, output]
            again = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
            same = again.returncode == 0 and content_of(folder / output) == expected[verb, output]
            left = sorted(one.name for one in folder.iterdir() if one.name not in (x.name, source.name, output))
            if not (same_map and kept and same) or left:
                print("WRONG", command, killed, same_map, kept, again.returncode, again.stderr, left, flush=True)
            outcomes[f"{verb} {output}: {killed}, {'same' if same_map and kept and same else 'WRONG'}"] += 1
            for path in (folder / output, *(folder / one for one in left)):
                _remove(path)
    return outcomes


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    """Run one kind of fault, and print the number of each outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["workspaces", "commands", "views"])
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000, help="rows of the fits; above 200,000 they start coarse")
    options = parser.parse_args()
    if options.kind == "workspaces":
        outcomes = damage_workspaces(options.n, options.seed)
    else:
        kill = kill_processes if options.kind == "commands" else kill_views
        outcomes = kill(options.n, options.seed, options.rows)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6}  {outcome}")


if __name__ == "__main__":
    main()
