"""Run a command in a memory cgroup, and watch memory, CPU, reads and disk of all its processes until it ends."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

EVERY_SECONDS = 0.2
_DISK_EVERY_SECONDS = 1.0
_CGROUPS = Path("/sys/fs/cgroup")
# Lines of `nomad-dask fit -v` that end a stage.
_STAGE = re.compile(r"^([a-z][a-z ]*): (?:.* in )?[\d.]+ s\b")


@dataclass
class Group:
    """A memory cgroup with one child group per process, all with the same limit.

    Attributes
    ----------
    path : Path
    version : int
        1 or 2.
    limit_bytes : int
    """

    path: Path
    version: int
    limit_bytes: int
    members: dict[int, Path] = field(default_factory=dict)

    @classmethod
    def make(cls, limit_bytes: int) -> Group:
        """Create the cgroup where this machine permits it.

        Raises
        ------
        OSError
            Nowhere.
        """
        name = f"nomad-{os.getpid()}"
        if (_CGROUPS / "memory/memory.limit_in_bytes").exists() or (_CGROUPS / "memory/cgroup.procs").exists():
            group = cls(_CGROUPS / "memory" / name, 1, limit_bytes)
        else:
            own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
            parent = _CGROUPS / own
            # A group with processes cannot have child groups with limits: try its parent.
            while parent != _CGROUPS and "memory" not in (parent / "cgroup.subtree_control").read_text().split():
                parent = parent.parent
            if "memory" not in (parent / "cgroup.controllers").read_text().split():
                raise OSError(f"{parent} has no memory controller")
            group = cls(parent / name, 2, limit_bytes)
        group.path.mkdir()
        if group.version == 2:
            (group.path / "cgroup.subtree_control").write_text("+memory")
        return group

    def seat(self, number: int) -> Path:
        """Create the group of one process and return the file to write its id to."""
        place = self.path / str(number)
        place.mkdir()
        if self.version == 1:
            (place / "memory.limit_in_bytes").write_text(str(self.limit_bytes))
        else:
            (place / "memory.max").write_text(str(self.limit_bytes))
            with contextlib.suppress(FileNotFoundError):  # no swap in this kernel
                (place / "memory.swap.max").write_text("0")
        self.members[number] = place
        return place / "cgroup.procs"

    def take_in(self, pids: Sequence[int]) -> None:
        """Move every process without a group into its own group."""
        for pid in pids:
            if pid not in self.members:
                with contextlib.suppress(OSError):  # it has ended
                    self.seat(pid).write_text(str(pid))

    def told(self) -> dict[str, Any]:
        """Return the counters of the kernel."""
        peak, kills, refused = 0, 0, 0
        for place in self.members.values():
            if self.version == 1:
                peak = max(peak, int((place / "memory.max_usage_in_bytes").read_text()))
                refused += int((place / "memory.failcnt").read_text())
                kills += _numbers(place / "memory.oom_control").get("oom_kill", 0)
            else:
                with contextlib.suppress(FileNotFoundError):  # Linux before 5.19
                    peak = max(peak, int((place / "memory.peak").read_text()))
                events = _numbers(place / "memory.events")
                refused += events.get("max", 0)
                kills += events.get("oom_kill", 0)
        return {
            "cgroup": f"v{self.version}",
            "limit_bytes": self.limit_bytes,
            "peak_with_cache_bytes": peak,
            "times_at_limit": refused,
            "oom_kills": kills,
        }

    def remove(self) -> None:
        """Remove the groups, after their processes have ended."""
        for place in [*self.members.values(), self.path]:
            place.rmdir()


def _numbers(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name.rstrip(":"): int(value) for name, value, *_ in pairs if value.isdecimal()}


@dataclass
class Peaks:
    """The maximum of several measures, in bytes."""

    rss: int = 0
    anonymous: int = 0
    pss_in_sum: int = 0
    disk: int = 0

    def see(self, rss: int = 0, anonymous: int = 0, pss_in_sum: int = 0, disk: int = 0) -> None:
        """Update the maximum."""
        self.rss, self.anonymous = max(self.rss, rss), max(self.anonymous, anonymous)
        self.pss_in_sum, self.disk = max(self.pss_in_sum, pss_in_sum), max(self.disk, disk)

    def as_dict(self) -> dict[str, int]:
        return {
            "peak_rss_bytes": self.rss,
            "peak_anonymous_bytes": self.anonymous,
            "peak_pss_sum_bytes": self.pss_in_sum,
            "peak_disk_bytes": self.disk,
        }


@dataclass(frozen=True)
class Counters:
    """What has been used so far: bytes read by system calls, from disks, and from that of the source; CPU seconds."""

    calls: int = 0
    disks: int = 0
    source: int | None = None
    written: int = 0
    cpu_s: float = 0.0

    def since(self, before: Counters) -> dict[str, float | None]:
        source = None if self.source is None or before.source is None else self.source - before.source
        return {
            "read_calls_bytes": self.calls - before.calls,
            "read_disks_bytes": self.disks - before.disks,
            "read_source_bytes": source,
            "written_bytes": self.written - before.written,
            "cpu_s": round(self.cpu_s - before.cpu_s, 2),
        }


class Watcher:
    """Watches one command: call `look` repeatedly while it runs."""

    def __init__(self, pid: int, group: Group | None, log: Path, folder: Path, source_device: str | None) -> None:
        self.pid, self.group, self.log, self.folder, self.source_device = pid, group, log, folder, source_device
        self.whole, self.stage_peaks = Peaks(), Peaks()
        self.began = self.stage_began = time.monotonic()
        self.first = self.stage_first = Counters(source=_device_bytes(source_device))
        self.counters = self.first
        self.stages: dict[str, dict[str, Any]] = {}
        self.by_process: dict[int, dict[str, Any]] = {}
        self._log_read = 0
        self._disk_at = 0.0

    def look(self) -> None:
        """Take one sample of all measures."""
        pids = [self.pid, *(child.pid for child in _children(self.pid))]
        if self.group is not None:
            self.group.take_in(pids)
        pss = 0
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended
                memory = _kilobytes(Path(f"/proc/{pid}/status"))
                pss += _kilobytes(Path(f"/proc/{pid}/smaps_rollup")).get("Pss", 0)
                rss, anonymous = memory.get("VmRSS", 0), memory.get("RssAnon", 0) + memory.get("RssShmem", 0)
                for peaks in (self.whole, self.stage_peaks):
                    peaks.see(rss, anonymous)
                told = self._of(pid)
                told["command"] = _command(pid) or told["command"]  # empty once it has ended
                told["peak_rss_bytes"] = max(memory.get("VmHWM", 0), told["peak_rss_bytes"])
                told["peak_anonymous_bytes"] = max(anonymous, told["peak_anonymous_bytes"])
        disk = 0
        if time.monotonic() - self._disk_at > _DISK_EVERY_SECONDS:
            self._disk_at, disk = time.monotonic(), disk_bytes(self.folder)
        for peaks in (self.whole, self.stage_peaks):
            peaks.see(pss_in_sum=pss, disk=disk)
        self._count(pids)
        self._end_stages()

    def _of(self, pid: int) -> dict[str, Any]:
        if pid not in self.by_process:
            self.by_process[pid] = {"command": "", "peak_rss_bytes": 0, "peak_anonymous_bytes": 0}
        return self.by_process[pid]

    def _count(self, pids: Sequence[int]) -> None:
        """Add up the counters. Linux adds those of an ended process to those of the process that waited for it."""
        calls = disks = written = ticks = 0
        for pid in pids:
            with contextlib.suppress(OSError):
                told = _numbers(Path(f"/proc/{pid}/io"))
                calls, disks, written = (
                    calls + told["rchar"],
                    disks + told["read_bytes"],
                    written + told["write_bytes"],
                )
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        # Between the end of a process and the wait for it, its part is missing from the sum.
        self.counters = Counters(
            max(calls, self.counters.calls),
            max(disks, self.counters.disks),
            _device_bytes(self.source_device),
            max(written, self.counters.written),
            max(ticks / os.sysconf("SC_CLK_TCK"), self.counters.cpu_s),
        )

    def _end_stages(self) -> None:
        with self.log.open("rb") as f:
            f.seek(self._log_read)
            new = f.read()
        new = new[: new.rfind(b"\n") + 1]
        self._log_read += len(new)
        for line in new.decode(errors="replace").splitlines():
            found = _STAGE.match(line)
            if found:
                self._end_stage(found[1])

    def _end_stage(self, name: str) -> None:
        """Close a stage; a stage whose end is detected together with the previous end shares that sample."""
        now = time.monotonic()
        disk = disk_bytes(self.folder)
        for peaks in (self.whole, self.stage_peaks):
            peaks.see(disk=disk)
        self.stages[name] = {
            "seconds": round(now - self.stage_began, 2),
            **self.stage_peaks.as_dict(),
            **self.counters.since(self.stage_first),
        }
        self.stage_began, self.stage_first, self.stage_peaks = now, self.counters, Peaks()

    def figures(self) -> dict[str, Any]:
        """Return all measurements; the time after the last stage is the stage "rest"."""
        self._end_stages()
        self._end_stage("rest")
        return {
            "wall_s": round(time.monotonic() - self.began, 2),
            **self.whole.as_dict(),
            **self.counters.since(self.first),
            "processes": sorted(self.by_process.values(), key=lambda p: -p["peak_rss_bytes"]),
            "stages": self.stages,
            "held_by": None if self.group is None else self.group.told(),
        }


def watched(
    command: Sequence[str], *, out: Path, log: Path, folder: Path, limit_bytes: int | None, source_device: str | None
) -> dict[str, Any]:
    """Run a command to its end and return its exit code and the resources that it used.

    Parameters
    ----------
    command : sequence of str
    out, log : Path
        Its standard output and error.
    folder : Path
        Whose disk usage is watched.
    limit_bytes : int, optional
        Of each process, held by a cgroup, where this machine lets us make one.
    source_device : str, optional
        Block device that holds nothing but the source, such as ``"loop0"``: its reads are counted.
    """
    held, group, why = list(command), None, None
    if limit_bytes is not None:
        try:
            group = Group.make(limit_bytes)
            seat = group.seat(0)
            held = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(seat), *command]
        except OSError as error:
            group, why = None, f"no cgroup could be made ({error}): memory was sampled only"
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(held, stdout=stdout, stderr=stderr)
        if group is not None:
            group.members[process.pid] = group.members.pop(0)
        watcher = Watcher(process.pid, group, log, folder, source_device)
        try:
            # Not reaped before its counters are read: they are those of all its descendants.
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                watcher.look()
                time.sleep(EVERY_SECONDS)
            watcher.look()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        exit_code = process.wait()
    figures = {"exit_code": exit_code, **watcher.figures()}
    if group is not None:
        group.remove()
    elif why is not None:
        figures["held_by"] = why
    return figures


def disk_bytes(folder: Path) -> int:
    """Return the disk usage of the files of a folder."""
    return sum(s.st_blocks * 512 for s in _stats(folder))


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                yield (Path(place) / name).lstat()


def _children(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _command(pid: int) -> str:
    """Return the first words of the command of a process, without directories."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
    return " ".join(word.decode(errors="replace").rpartition("/")[2] for word in words).strip()


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) == 3 and parts[2] == "kB"}


def _device_bytes(device: str | None) -> int | None:
    """Return the bytes read from a block device since it was created."""
    return None if device is None else int(Path(f"/sys/block/{device}/stat").read_text().split()[2]) * 512
