"""Cost of an epoch with shards on several hosts, by latency and bandwidth of the network.

    python -m benchmarks.hosts --data mixture200k --hosts 2 4 --rtt-ms 0.1 1 10 --mbit 100 1000 10000

Needs root. The hosts are network namespaces of this machine (tests/helpers/network.py): scheduler and driver on one,
a worker with one thread on each of the others, all on one switch. They share the cores of this machine. All runs with
the same number of hosts resume copies of one workspace, so that they lay out the same shards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import network
import numpy as np

from benchmarks.compare import load, machine, versions

HERE = Path(__file__).parent
# Epochs that do not count: in the first ones workers compile and load.
_WARM = 5
_LIMIT_SECONDS = 1200

_SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
client, _ = server.accept()
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while part := client.recv(1 << 20):
    if part.endswith(b"."):
        client.sendall(b".")
"""
_CLIENT = """
import json, socket, sys, time
to = socket.create_connection((sys.argv[1], 5000))
to.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def seconds(size):
    began = time.perf_counter()
    to.sendall(b"x" * (size - 1) + b".")
    to.recv(1)
    return time.perf_counter() - began
trips = sorted(seconds(1) for _ in range(50))
size = int(sys.argv[2])
seconds(size)
print(json.dumps({"rtt_ms": trips[25] * 1000, "mbit": size * 8 / seconds(size) / 1e6}))
"""


class _ReadyForLayoutError(Exception):
    """All stages before the layout are done."""


def child(job: dict[str, Any]) -> None:
    """Run a fit in a separate process, and write a line of JSON after every batch of epochs."""
    import distributed

    from nomad_dask.callbacks import EpochDone, Event, StageAdvanced, StageStarted
    from nomad_dask.params import Params
    from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    told = 0

    def emit(event: Event) -> None:
        nonlocal told
        if isinstance(event, EpochDone):
            told = event.exchanged_bytes
        elif isinstance(event, StageAdvanced) and event.stage == "layout":
            print(json.dumps({"epoch": event.done, "at": time.monotonic(), "told": told}), flush=True)
        elif job["only_prepare"] and isinstance(event, StageStarted) and event.stage == "layout":
            raise _ReadyForLayoutError

    params = Params(n_shards=job["shards"], n_epochs=job["epochs"], random_state=0)
    with contextlib.ExitStack() as stack:
        client = None
        if job["scheduler"]:
            client = stack.enter_context(distributed.Client(job["scheduler"], set_as_default=False))
        stack.enter_context(contextlib.suppress(_ReadyForLayoutError))
        project(
            open_source(job["source"]),
            params,
            cluster=ClusterOptions(client, device="cpu"),
            workspace=WorkspaceOptions(Path(job["workspace"])),
            emit=emit,
        )


def run_child(job: dict[str, Any], start: Any, counted: tuple[network.Host, ...] = ()) -> dict[str, Any]:
    """Run `child` and return the seconds and bytes of its epochs.

    Parameters
    ----------
    job : dict
    start : callable
        Starts a command, here or on a host.
    counted : tuple of Host
        Whose cables are counted.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(job)]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told, crossed = [], []
    for line in process.stdout:
        told.append(json.loads(line))
        crossed.append(sum(host.sent_bytes() + host.received_bytes() for host in counted))
    error = process.stderr.read()
    if process.wait(_LIMIT_SECONDS) != 0:
        raise SystemExit(f"a run failed:\n{error[-3000:]}")
    if job["only_prepare"]:
        return {}
    first = next(i for i, batch in enumerate(told) if batch["epoch"] >= _WARM)
    batches = list(pairwise(told[first:]))
    steps = [(b["at"] - a["at"]) / (b["epoch"] - a["epoch"]) for a, b in batches]
    n = told[-1]["epoch"] - told[first]["epoch"]
    return {
        "epoch_s": statistics.median(steps),
        "epoch_mean_s": (told[-1]["at"] - told[first]["at"]) / n,
        "epoch_s_quartiles": statistics.quantiles(steps, n=4)[::2],
        "told_bytes": told[-1]["told"],
        "crossed_bytes": (crossed[-1] - crossed[first]) / n if counted else 0,
        "epochs": n,
    }


def here(command: list[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, **more)


def taken_up(prepared: Path, place: Path) -> str:
    """Copy a workspace; large files are linked, because no stage modifies existing files."""

    def copy(a: str, b: str) -> None:
        (os.link if Path(a).stat().st_size > 1 << 20 else shutil.copyfile)(a, b)

    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(prepared, place, copy_function=copy)
    return str(place)


def link_as_measured(head: network.Host, worker: network.Host, mbit: float | None) -> dict[str, float]:
    """Return the round trip and bandwidth between two hosts, measured with TCP."""
    server = worker.start([sys.executable, "-c", _SERVER, worker.address], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    server.stdout.readline()
    # About half a second of it.
    size = int(min(mbit or 10_000, 10_000) * 1e6 / 8 / 2)
    client = head.start([sys.executable, "-c", _CLIENT, worker.address, str(size)], stdout=subprocess.PIPE, text=True)
    told, _ = client.communicate(timeout=60)
    measured: dict[str, float] = json.loads(told)
    return measured


def over_networks(
    source: Path, n_hosts: int, rtts: list[float], rates: list[float], epochs: int, scratch: Path
) -> Iterator[dict[str, Any]]:
    """Lay out one set of shards in one process, on hosts with unlimited links, and over slower links."""
    prepared = scratch / f"prepared-{n_hosts}"
    job = {"source": str(source), "shards": n_hosts, "epochs": epochs, "scheduler": None, "only_prepare": True}
    run_child(job | {"workspace": str(prepared)}, here)
    job["only_prepare"] = False
    place = scratch / "running"
    alone = run_child(job | {"workspace": taken_up(prepared, place)}, here)
    yield {"hosts": n_hosts, "where": "one process", "rtt_ms": None, "mbit": None, **alone}
    links: list[tuple[float, float | None]] = [(0.0, None), *((rtt, mbit) for rtt in rtts for mbit in rates)]
    for rtt, mbit in links:
        with contextlib.ExitStack() as stack:
            net = stack.enter_context(network.hosts(n_hosts + 1, rtt_ms=rtt, mbit=mbit, n_near=1))
            head, *workers = net.hosts
            measured = link_as_measured(head, workers[0], mbit)
            address = stack.enter_context(_workers_of(net, head, scratch / "log"))
            job |= {"scheduler": address, "workspace": taken_up(prepared, place)}
            figures = run_child(job, head.start, tuple(workers))
        yield {
            "hosts": n_hosts,
            "where": "hosts",
            "rtt_ms": rtt or None,
            "mbit": mbit,
            "link_as_measured": measured,
            **figures,
            "of_one_process": figures["epoch_s"] / alone["epoch_s"],
        }


@contextlib.contextmanager
def _workers_of(net: network.Network, head: network.Host, log: Path) -> Iterator[str]:
    with network.cluster(net, log, head=head) as client:
        yield str(client.scheduler.address)


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    host, data = result["machine"], result["data"]
    lines = [
        "# What an epoch costs over a network",
        "",
        f"{result['date']}. {data['name']}, {data['rows']:,} × {data['dims']}. Hosts are network namespaces of one "
        f"machine ({host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB), with one thread each, so that more "
        f"than {host['cores']} hosts share its cores. One process lays out the same shards with all cores. Medians "
        f"over the batches of {result['runs'][0]['epochs']} epochs. The round trip and the bandwidth in brackets were "
        "measured by TCP before each run. Crossed: bytes in and out of all workers in one epoch, headers included.",
        "",
        "| hosts | round trip ms | Mbit/s | epoch ms | of one process | crossed MB |",
        "|---" * 6 + "|",
    ]
    for run in result["runs"]:
        measured = run.get("link_as_measured", {"rtt_ms": 0.0, "mbit": 0.0})
        if run["where"] == "hosts":
            where = str(run["hosts"])
            trip = f"{_told(run['rtt_ms'], 'no delay')} ({measured['rtt_ms']:.2f})"
            rate = f"{_told(run['mbit'], 'no limit')} ({measured['mbit']:.0f})"
        else:
            where, trip, rate = f"one process, {run['hosts']} shards", "", ""
        lines.append(
            f"| {where} | {trip} | {rate} | {run['epoch_s'] * 1000:.0f} | {run.get('of_one_process', 1.0):.2f} | "
            f"{run['crossed_bytes'] / 1e6:.2f} |"
        )
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _told(value: float | None, none: str) -> str:
    return none if value is None else f"{value:,g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mixture200k", help="as of compare.py")
    parser.add_argument("--rows", type=int, help="take so many random rows only")
    parser.add_argument("--hosts", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--rtt-ms", nargs="+", type=float, default=[0.1, 1.0, 10.0])
    parser.add_argument("--mbit", nargs="+", type=float, default=[100, 1000, 10_000])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    if args.epochs < _WARM + 5:
        parser.error(f"--epochs {args.epochs} is too few: give at least {_WARM + 5}")
    why = network.lacks()
    if why is not None:
        raise SystemExit(f"No hosts can be made here: {why}.")
    with tempfile.TemporaryDirectory(prefix="nomad-hosts-") as folder:
        scratch = Path(folder)
        data = load(args.data, None, args.rows, scratch)
        rows, dims = np.load(data.npy, mmap_mode="r").shape
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions([], sys.executable),
            "data": {"name": data.name, "rows": rows, "dims": dims},
            "runs": [],
        }
        args.out.mkdir(parents=True, exist_ok=True)
        for n_hosts in args.hosts:
            for run in over_networks(data.npy, n_hosts, args.rtt_ms, args.mbit, args.epochs, scratch):
                result["runs"].append(run)
                print(run, file=sys.stderr, flush=True)
                stem = args.out / f"hosts-{result['date']}"
                stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
                stem.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
