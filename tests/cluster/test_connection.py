"""The cluster: errors when it cannot work, and how tasks run and report progress."""

from __future__ import annotations

import gc
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Any

import dask.config
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.cluster import Cluster, WorkerInfo, assign_shards, connect, report_progress
from nomad_dask.errors import ClusterError, InputError, Interrupted, NomadError, NomadWarning
from tests.helpers.runs import cluster_of, worker_processes


@pytest.fixture(scope="module")
def embedded() -> Iterator[Cluster]:
    with connect() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    with worker_processes(2) as client:
        yield client


def test_the_embedded_cluster_is_this_process_with_all_its_cores(embedded):
    (worker,) = embedded.workers()
    assert embedded.in_process
    assert worker.threads == len(os.sched_getaffinity(0))
    assert worker.memory_bytes > 0
    assert embedded.run(os.getpid, [()]) == [os.getpid()]


def test_a_client_is_used_as_it_is_and_left_open(processes):
    with connect(client=processes) as cluster:
        assert not cluster.in_process
        assert [w.threads for w in cluster.workers()] == [1, 1]
        assert {w.memory_bytes for w in cluster.workers()} == {2 << 30}
        assert cluster.run(os.getpid, [()])[0] != os.getpid()
    assert processes.status == "running"


def test_a_scheduler_is_found_by_its_address(processes):
    with connect(scheduler=processes.scheduler.address) as cluster:
        assert len(cluster.workers()) == 2
    assert processes.status == "running"


def test_workers_are_known_while_the_client_refreshes_what_it_knows(processes):
    cluster = cluster_of(processes)
    refresh = processes._periodic_callbacks["scheduler-info"]
    usual = refresh.callback_time
    refresh.stop()
    refresh.callback_time = 1
    try:
        processes.sync(_start, refresh)
        assert {len(cluster.workers()) for _ in range(500)} == {2}
    finally:
        refresh.stop()
        refresh.callback_time = usual
        processes.sync(_start, refresh)


async def _start(callback: Any) -> None:
    callback.start()


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "tcp://127.0.0.1:{port}"])
def test_a_scheduler_that_does_not_answer(address, monkeypatch):
    monkeypatch.setattr("nomad_dask.cluster.remote.ANSWER_SECONDS", 0.5)
    address = address.format(port=closed_port())
    with pytest.raises(ClusterError, match="does not answer within") as caught, connect(scheduler=address):
        pass
    assert address in str(caught.value)


@pytest.mark.parametrize("address", ["", "nowhere", "tcp://127.0.0.1", "127.0.0.1:port", "foo://127.0.0.1:8786"])
def test_an_invalid_address(address):
    with pytest.raises(ClusterError, match=r"is not an address .* give one such as tcp://"), connect(scheduler=address):
        pass


def test_a_client_without_workers():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as nobody,
        Client(nobody, set_as_default=False) as client,
        pytest.raises(ClusterError, match="no workers"),
        connect(client=client),
    ):
        pass


def square_later(number: int, how_long: float) -> int:
    import time

    time.sleep(how_long)
    return number * number


def test_results_come_in_the_order_of_the_jobs(processes):
    cluster = cluster_of(processes)
    jobs = [(number, 0.05 * (8 - number)) for number in range(8)]
    assert cluster.run(square_later, jobs) == [number * number for number in range(8)]
    assert cluster.run(square_later, []) == []


def where(job: int) -> str:
    from distributed import get_worker

    return str(get_worker().address)


def test_jobs_run_on_their_preferred_worker(processes):
    cluster = cluster_of(processes)
    addresses = [w.address for w in cluster.workers()]
    for wanted in (addresses, addresses[::-1]):
        assert cluster.run(where, [(0,), (1,)], workers=wanted) == wanted


def test_a_preferred_worker_that_is_gone_is_replaced(processes):
    cluster = cluster_of(processes)
    (found,) = cluster.run(where, [(0,)], workers=[f"tcp://127.0.0.1:{closed_port()}"])
    assert found in [w.address for w in cluster.workers()]


def count_slowly(n: int) -> int:
    import time

    for done in range(1, n + 1):
        time.sleep(0.15)
        report_progress(done)
    return n


@pytest.mark.parametrize("where", ["embedded", "processes"])
def test_progress_is_reported_per_job(where, request):
    given = request.getfixturevalue(where)
    cluster = given if where == "embedded" else cluster_of(given)
    reported: dict[int, list[int]] = {0: [], 1: []}
    assert cluster.run(count_slowly, [(8,), (8,)], lambda job, done: reported[job].append(done)) == [8, 8]
    for done in reported.values():
        assert done, "eight steps of 0.15 s pass the quarter of a second between two reports"
        assert done == sorted(done)
        assert set(done) <= set(range(1, 9))


def fail(error: type[BaseException]) -> None:
    raise error("row 17 is odd")


@pytest.mark.parametrize("where", ["embedded", "processes"])
def test_an_error_of_a_task_is_raised_by_name(where, request):
    given = request.getfixturevalue(where)
    cluster = given if where == "embedded" else cluster_of(given)
    with pytest.raises(NomadError, match="ZeroDivisionError: row 17 is odd") as caught:
        cluster.run(fail, [(ZeroDivisionError,)])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(InputError, match=r"^row 17 is odd$"):
        cluster.run(fail, [(InputError,)])
    assert cluster.run(square_later, [(3, 0.0)]) == [9], "the cluster goes on"


def test_an_interrupt_stops_tasks_that_report():
    with connect() as cluster:

        def stop(job: int, done: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(Interrupted):
            cluster.run(count_slowly, [(1000,)], stop)
    with connect() as cluster:
        assert cluster.run(square_later, [(3, 0.0)]) == [9], "a stop is forgotten by the next run"


def test_the_threads_of_a_host_are_those_of_all_its_workers():
    from distributed import Client, LocalCluster, Worker

    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0", silence_logs=50) as own:
        address = own.scheduler_address
        with Client(address, set_as_default=False) as client:
            cluster = cluster_of(client)
            workers = [
                client.sync(started, Worker, address, host, n)
                for host, n in (("127.0.0.1", 2), ("127.0.0.1", 3), ("127.0.0.2", 4))
            ]
            assert cluster.host_threads() == 4
            client.sync(workers[2].close)
            assert cluster.host_threads() == 5
            for worker in workers[:2]:
                client.sync(worker.close)


async def started(Worker, address, host, n_threads):
    return await Worker(address, host=host, nthreads=n_threads)


@given(
    threads=st.lists(st.integers(1, 16), min_size=1, max_size=8),
    n_shards=st.integers(1, 40),
)
def test_shards_are_spread_by_threads(threads, n_shards):
    workers = [WorkerInfo(str(i), n, 1 << 30) for i, n in enumerate(threads)]
    homes = assign_shards(n_shards, workers)
    held = [homes.count(worker.address) for worker in workers]
    assert sum(held) == len(homes) == n_shards
    assert max(held) <= -(-n_shards // len(workers))
    for a, b in itertools.permutations(range(len(threads)), 2):
        if threads[a] >= threads[b]:
            assert held[a] >= held[b] - (threads[a] == threads[b])


def tick_milliseconds(dask_worker: Any = None, dask_scheduler: Any = None) -> float:
    return float((dask_worker or dask_scheduler).periodic_callbacks["tick"].callback_time)


def test_event_loops_of_an_own_cluster_are_measured_once_per_second():
    with connect(n_workers=2) as cluster:
        in_workers = cluster.client.run(tick_milliseconds)
        assert [*in_workers.values(), cluster.client.run_on_scheduler(tick_milliseconds)] == [1000] * 3
        assert dask.config.get("distributed.admin.tick.interval") != "1s"  # of the program itself, as it was


def processes_of_a_hasty_run() -> list[psutil.Process]:
    with connect(n_workers=2) as cluster:
        workers = [psutil.Process(nanny.pid) for nanny in cluster.client.cluster.workers.values()]
        assert cluster.run(abs, [(-2,), (3,)]) == [2, 3]
        cluster.client._timeout = 0  # what Dask has for closing is twice that
    return workers


def test_nothing_stays_of_an_own_cluster():
    """A process that makes many maps would keep a scheduler and a worker of each."""
    from distributed import Scheduler, Worker

    before = {*Scheduler._instances, *Worker._instances}
    for _ in range(2):
        with connect() as cluster:
            assert cluster.run(os.getpid, [()]) == [os.getpid()]
        del cluster
    gc.collect()
    assert {*Scheduler._instances, *Worker._instances} <= before


def test_a_cluster_that_does_not_close_in_time_does_not_fail_the_run():
    """Its workers are ended nevertheless. Three runs, as one may close even in no time."""
    with pytest.warns(NomadWarning, match="did not close in time"):
        workers = [worker for _ in range(3) for worker in processes_of_a_hasty_run()]
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_workers_that_do_not_start_in_time():
    with dask.config.set({"distributed.comm.timeouts.connect": "1ms"}), pytest.raises(ClusterError, match="start"):
        connect(n_workers=2).__enter__()
