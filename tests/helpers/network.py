"""Several hosts on one machine: network namespaces with addresses of their own, on one switch.

Each host has one cable to the switch, of a given bandwidth (tbf) and latency (netem, or `delay.py` where the
kernel has none). This machine itself is at the switch too, by a cable without limits.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

# Names of everything made here: this, the process, and a number.
_PREFIX = "nd"
# A queue of the switch drops what waits longer.
_QUEUE_MS = 100
_END_SECONDS = 5
_START_SECONDS = 60
_PORT = 8786
_numbers = count()


def _ip(*arguments: str) -> str:
    return _told(["ip", *arguments])


def _told(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@cache
def lacks() -> str | None:
    """Return why no hosts can be made here, or None."""
    for tool in ("ip", "tc", "nsenter"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (packages iproute2 and util-linux)"
    try:
        with hosts(1, mbit=100):
            return None
    except OSError as error:
        return f"network namespaces are not permitted: {error}"


@cache
def has_netem() -> bool:
    """Return whether the kernel can delay packets by itself."""
    device = f"{_PREFIX}{os.getpid()}n"
    _ip("link", "add", device, "type", "bridge")
    try:
        _told(["tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "1ms"])
    except OSError:
        return False
    finally:
        _ip("link", "del", device)
    return True


@dataclass
class Host:
    """One host.

    Attributes
    ----------
    name : str
        Of its namespace.
    address : str
        IPv4.
    port : str
        The end of its cable at the switch.
    """

    name: str
    address: str
    port: str
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def start(self, command: Sequence[str], **more: Any) -> subprocess.Popen[Any]:
        """Start a process there; it is killed when the hosts are taken down."""
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.name}", *command], start_new_session=True, **more
        )
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """Cut the network. Messages in transit are lost without notice."""
        _ip("link", "set", self.port, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.port, "up")

    def received_bytes(self) -> int:
        """Return what has come to it over the cable."""
        return _counted(self.port, "tx_bytes")

    def sent_bytes(self) -> int:
        """Return what has gone from it over the cable."""
        return _counted(self.port, "rx_bytes")


def _counted(device: str, what: str) -> int:
    return int(Path(f"/sys/class/net/{device}/statistics/{what}").read_text())


@dataclass(frozen=True)
class Network:
    """The hosts, and the address of this machine among them."""

    address: str
    hosts: tuple[Host, ...]


@contextlib.contextmanager
def hosts(n: int, *, rtt_ms: float = 0.0, mbit: float | None = None, n_near: int = 0) -> Iterator[Network]:
    """Make hosts on a switch, and take them down with all their processes.

    Parameters
    ----------
    n : int
        At most 250.
    rtt_ms : float
        From a host to the switch and back; two hosts are twice as far apart.
    mbit : float, optional
        Bandwidth of each cable, in each direction; None for no limit.
    n_near : int
        So many hosts, the first ones, have cables without latency.

    Raises
    ------
    OSError
        It is not permitted, or a tool failed.
    """
    _take_down_dead()
    # Names of devices have at most 15 characters.
    own = f"{_PREFIX}{os.getpid()}{chr(ord('a') + next(_numbers) % 26)}"
    subnet = _free_subnet()
    switch = f"{own}s"
    cables = [(f"{own}p{i}", f"{own}e{i}") for i in range(n)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", switch, "type", "bridge")
        stack.callback(_ip, "link", "del", switch)
        _ip("addr", "add", f"{subnet}.254/24", "dev", switch)
        _ip("link", "set", switch, "up")
        delayed = cables[n_near:] if rtt_ms > 0 else []
        by_tap = not has_netem()
        if delayed and by_tap:
            stack.enter_context(_delaying(rtt_ms / 2, delayed))
        made = []
        for i, (port, end) in enumerate(cables):
            far = (port, end) in delayed
            host = Host(f"{own}h{i}", f"{subnet}.{i + 1}", port)
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            if not (far and by_tap):
                _ip("link", "add", port, "type", "veth", "peer", "name", end)
                stack.callback(_delete, port)
            _ip("link", "set", end, "netns", host.name)
            inside = ("-n", host.name)
            _ip(*inside, "link", "set", end, "name", "eth0")
            _ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip("link", "set", port, "master", switch)
            _ip("link", "set", port, "up")
            delay = rtt_ms / 2 if far and not by_tap else 0.0
            _shape(["tc", *inside], "eth0", mbit, delay)
            _shape(["tc"], port, mbit, delay)
            stack.callback(_end, host.processes)
            made.append(host)
        yield Network(f"{subnet}.254", tuple(made))


def _shape(tc: list[str], device: str, mbit: float | None, delay_ms: float) -> None:
    """Limit what leaves a device, and delay it."""
    parent = ["root", "handle", "1:"]
    if mbit is not None:
        # A bucket holds what passes in 2 ms, and no less than one frame with its headers.
        burst = max(80_000, int(mbit * 1e6 / 8 * 0.002))
        limits = ["rate", f"{mbit}mbit", "burst", str(burst), "latency", f"{_QUEUE_MS}ms"]
        _told([*tc, "qdisc", "add", "dev", device, *parent, "tbf", *limits])
        parent = ["parent", "1:1", "handle", "2:"]
    if delay_ms:
        _told([*tc, "qdisc", "add", "dev", device, *parent, "netem", "delay", f"{delay_ms}ms", "limit", "100000"])


@contextlib.contextmanager
def _delaying(milliseconds: float, cables: list[tuple[str, str]]) -> Iterator[None]:
    """Make cables whose frames `delay.py` holds for a while."""
    command = [sys.executable, "-S", str(Path(__file__).with_name("delay.py")), str(milliseconds)]
    command += [f"{a}:{b}" for a, b in cables]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise OSError(f"no delayed cables can be made: {process.stderr.read().strip()}")
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(_END_SECONDS)


def _delete(device: str) -> None:
    """Delete a device, unless its other end has gone with its namespace."""
    if Path(f"/sys/class/net/{device}").exists():
        with contextlib.suppress(OSError):
            _ip("link", "del", device)


def _end(processes: list[subprocess.Popen[Any]]) -> None:
    for process in processes:
        # A frozen one too: no other signal reaches it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_END_SECONDS)


@contextlib.contextmanager
def cluster(
    network: Network,
    log: Path,
    *,
    head: Host | None = None,
    workers: Sequence[Host] | None = None,
    threads: int = 1,
    tcp_seconds: int = 30,
    lost_seconds: int = 300,
) -> Iterator[Any]:
    """Start a Dask scheduler on this machine or a host, workers on others, and give a client.

    Parameters
    ----------
    network : Network
    log : Path
        What they write goes there.
    head : Host, optional
        Of the scheduler; this machine otherwise.
    workers : sequence of Host, optional
        Each gets a worker; all but the head, otherwise.
    threads : int
        Of each worker.
    tcp_seconds, lost_seconds : int
        Dask calls a connection dead, and a worker lost, when it has not event_log of it for so long.
    """
    from distributed import Client

    address = network.address if head is None else head.address
    timeouts = {
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{tcp_seconds}s",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{lost_seconds}s",
    }
    dask = [sys.executable, "-m"]
    with log.open("ab") as out, contextlib.ExitStack() as stack:
        more: dict[str, Any] = {"stdout": out, "stderr": out, "env": os.environ | timeouts}
        command = [*dask, "distributed.cli.dask_scheduler", "--host", address, "--port", str(_PORT), "--no-dashboard"]
        if head is None:
            scheduler = subprocess.Popen(command, start_new_session=True, **more)
            stack.callback(_end, [scheduler])
        else:
            head.start(command, **more)
        workers = [host for host in network.hosts if host is not head] if workers is None else workers
        for host in workers:
            command = [*dask, "distributed.cli.dask_worker", f"tcp://{address}:{_PORT}", "--host", host.address]
            options = ["--nthreads", str(threads), "--memory-limit", "2GiB", "--no-dashboard"]
            place = ["--local-directory", str(log.parent / host.name)]
            host.start([*command, *options, *place], **more)
        with Client(f"tcp://{address}:{_PORT}", timeout=_START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(len(workers), timeout=_START_SECONDS)
            yield client


def _free_subnet() -> str:
    """Return the first three numbers of a network that no route of this machine leads to."""
    routes = _ip("-4", "route", "show", "table", "all")
    for second in range(77, 256):
        subnet = f"10.{second}.{os.getpid() % 256}"
        if f"10.{second}." not in routes:
            return subnet
    raise OSError("every network from 10.77 to 10.255 is in use here")


def _take_down_dead() -> None:
    """Take down the hosts of processes that were killed before they could."""
    for kind, listed in (("netns", _ip("netns", "list")), ("link", _ip("-o", "link", "show", "type", "bridge"))):
        for name, pid in re.findall(rf"\b({_PREFIX}(\d+)\w+)", listed):
            if not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    _ip(kind, "del", name)
