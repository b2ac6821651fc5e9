"""One run at a time in a workspace, and no lock that outlives its process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nomad_dask.errors import InputError, WorkspaceError
from nomad_dask.storage.lock import LOCK, hold_lock, is_locked, is_running, read_lock_owner

HOLD = """
import sys, time
from pathlib import Path
from nomad_dask.storage.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_its_death_frees_the_workspace(tmp_path):
    process = hold(tmp_path / "w")
    try:
        with pytest.raises(WorkspaceError) as caught, hold_lock(tmp_path / "w"):
            pass
        assert f"in use by process {process.pid} on {socket.gethostname()}, since " in str(caught.value)
        holder = read_lock_owner(tmp_path / "w")
        assert holder is not None
        assert is_running(holder)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "w" / LOCK).exists(), "a killed process cannot tidy up"
    assert is_running(holder) is False
    with hold_lock(tmp_path / "w"):
        taken = read_lock_owner(tmp_path / "w")
        assert taken is not None
        assert taken.pid == os.getpid()
    assert not (tmp_path / "w" / LOCK).exists()


def test_a_frozen_process_keeps_its_lock(tmp_path):
    process = hold(tmp_path / "w")
    try:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(WorkspaceError, match="in use by"), hold_lock(tmp_path / "w"):
            pass
    finally:
        process.kill()
        process.wait()


def test_not_twice_in_one_process(tmp_path):
    with hold_lock(tmp_path / "w"), pytest.raises(WorkspaceError, match="in use by"), hold_lock(tmp_path / "w"):
        pass
    assert not (tmp_path / "w").exists(), "made for the lock alone"


def test_a_directory_that_was_there_stays(tmp_path):
    with hold_lock(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"), hold_lock(tmp_path / "file" / "w"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"host": "h"}',
        "3",
        "[" * 100_000,
        '{"host": "h", "pid": 1e999, "since": 0}',
        '{"host": "h", "pid": -1, "since": 0}',
        '{"host": "h", "pid": 1, "since": NaN}',
        '{"host": "h", "pid": 1, "since": 1e300}',
        '{"host": 1, "pid": "x", "since": 2}',
    ],
)
def test_a_lock_that_says_nothing(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    assert read_lock_owner(tmp_path) is None
    with hold_lock(tmp_path):
        assert read_lock_owner(tmp_path) is not None


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "hard link", "FIFO", "directory", "device"])
def test_a_lock_that_leads_elsewhere_is_not_written_to(tmp_path, kind):
    """Whoever can write to the directory must not make another user's run overwrite a file."""
    workspace, precious = tmp_path / "w", tmp_path / "precious"
    workspace.mkdir()
    precious.write_text("precious")
    if kind == "symbolic link":
        (workspace / LOCK).symlink_to(precious)
    elif kind == "dangling link":
        (workspace / LOCK).symlink_to(tmp_path / "new")
    elif kind == "hard link":
        (workspace / LOCK).hardlink_to(precious)
    elif kind == "FIFO":
        os.mkfifo(workspace / LOCK)
    elif kind == "directory":
        (workspace / LOCK).mkdir()
    else:
        (workspace / LOCK).symlink_to("/dev/zero")
    assert read_lock_owner(workspace) is None
    with pytest.raises(InputError, match="cannot be created"), hold_lock(workspace):
        pass
    assert precious.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"w", "precious"}


def test_a_renamed_directory_leaves_the_lock_of_a_new_one_alone(tmp_path):
    with hold_lock(tmp_path / "w"):
        (tmp_path / "w").rename(tmp_path / "old")
        process = hold(tmp_path / "w")
    try:
        assert is_locked(tmp_path / "w")
        assert not is_locked(tmp_path / "old")
    finally:
        process.kill()
        process.wait()


def test_a_number_that_another_process_has_got_since(tmp_path):
    note = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time() - 1e9}
    (tmp_path / LOCK).write_text(json.dumps(note))
    holder = read_lock_owner(tmp_path)
    assert holder is not None
    assert is_running(holder) is False
    (tmp_path / LOCK).write_text(json.dumps(note | {"host": "elsewhere"}))
    holder = read_lock_owner(tmp_path)
    assert holder is not None
    assert is_running(holder) is None


INTERRUPTED = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from nomad_dask.storage.lock import hold_lock
from nomad_dask.utils.interrupts import no_lost_interrupts

path, errors, steps, press_at = Path(sys.argv[1]), [], 0, -1

def press(event, arguments):
    global steps
    if event.split(".")[0] in ("os", "open", "fcntl", "socket") and event != "os.kill" and press_at >= 0:
        steps += 1
        if steps == press_at:
            os.kill(os.getpid(), signal.SIGINT)

def interrupted():
    try:
        with ExitStack() as stack:
            if sys.argv[2] == "handled":
                stack.enter_context(no_lost_interrupts())
            with hold_lock(path):
                pass
    except KeyboardInterrupt as error:
        errors.append(error)  # as a notebook keeps it, with all frames

sys.addaudithook(press)
n_open = len(os.listdir("/proc/self/fd"))
for last in range(1, 100):
    before, steps, press_at = len(errors), 0, last
    interrupted()
    press_at = -1
    if steps < last:
        break
    assert len(errors) == before + 1, f"the Ctrl-C at step {last} is lost"
    assert not path.exists(), "made for the lock alone"
    with hold_lock(path):
        pass
assert len(os.listdir("/proc/self/fd")) == n_open
print(len(errors))
"""


@pytest.mark.parametrize("handler", ["Python's own", "handled"])
def test_no_ctrl_c_leaves_the_directory_locked(tmp_path, handler):
    """Pressed at every system call by which the lock is taken and released, while the errors are kept."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path / "w", handler], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 7, "made, opened, locked, emptied, signed, removed"


def test_a_forked_process_does_not_release_the_lock_of_its_parent(tmp_path):
    lock = hold_lock(tmp_path / "w")
    with lock:
        child = os.fork()
        if not child:
            lock.__exit__(None, None, None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (tmp_path / "w" / LOCK).exists()
        assert is_locked(tmp_path / "w")


NO_LOCKS = """
#include <errno.h>
#include <sys/file.h>
int flock(int descriptor, int operation) { errno = ERROR; return -1; }
"""
LOCK_IT = """
import sys
from pathlib import Path
from nomad_dask.errors import WorkspaceError
from nomad_dask.storage.atomic import atomic_write, remove_partials
from nomad_dask.storage.lock import hold_lock, is_locked
path = Path(sys.argv[1])
try:
    with hold_lock(path / "w"):
        print("held")
except WorkspaceError as error:
    print(error)
assert not is_locked(path / "w")
(path / ".file.0123abcd.partial").write_text("another process may be writing it")
with atomic_write(path / "file") as partial:
    partial.write_text("written")
    remove_partials(path / "file")
print((path / "file").read_text())
"""


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks_is_refused(tmp_path, error):
    """As some network file systems are; files are written there without."""
    (tmp_path / "shim.c").write_text(NO_LOCKS)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-DERROR={error}", "-o", shim, tmp_path / "shim.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LOCK_IT, tmp_path], env=os.environ | {"LD_PRELOAD": str(shim)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, written = done.stdout.splitlines()
    assert said.startswith(f"{tmp_path / 'w'} cannot be locked ([Errno {getattr(errno, error)}]")
    assert said.endswith("give a workspace on a file system that supports locks.")
    assert written == "written"
    assert {p.name for p in tmp_path.iterdir()} == {"shim.c", "shim.so", "file", ".file.0123abcd.partial"}
