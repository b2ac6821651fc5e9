"""The state of workers: one per worker, shared by all connections to it, removed with the last."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from nomad_dask.cluster import Cluster, connect, get_worker_state, worker_threads
from nomad_dask.cluster.p2p import ExchangeAborted, Inbox, PeerExchange
from nomad_dask.cluster.worker_state import EXTENSION
from nomad_dask.errors import NomadError
from tests.helpers.processes import scheduler_process, wait_until
from tests.helpers.runs import worker_processes


class Numbers(list[int]):
    """Something that tasks keep between each other."""


def add(number: int) -> list[int]:
    numbers = get_worker_state().get(Numbers)
    numbers.append(number)
    return list(numbers)


def connections(dask_worker: Any) -> int:
    state = dask_worker.extensions.get(EXTENSION)
    return 0 if state is None else len(state.connections)


def operations(dask_worker: Any) -> set[str]:
    return {name for name in dask_worker.handlers if name.startswith("nomad")}


def test_tasks_find_what_earlier_tasks_left():
    with connect() as cluster:
        assert [cluster.run(add, [(number,)]) for number in range(3)] == [[[0]], [[0, 1]], [[0, 1, 2]]]
    with connect() as cluster:
        assert cluster.run(add, [(7,)]) == [[7]]


def test_the_state_is_shared_by_connections_and_removed_with_the_last():
    with worker_processes(2) as client:
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        with connect(client=client) as first:
            assert first.run(add, [(1,), (2,)], workers=addresses) == [[1], [2]]
            with connect(client=client) as second:
                assert set(client.run(connections).values()) == {2}
                assert second.run(add, [(3,), (4,)], workers=addresses) == [[1, 3], [2, 4]]
            assert set(client.run(connections).values()) == {1}
            assert first.run(add, [(5,), (6,)], workers=addresses) == [[1, 3, 5], [2, 4, 6]]
        assert set(client.run(connections).values()) == {0}
        assert list(client.run(operations).values()) == [set(), set()]
        with pytest.raises(NomadError, match="is not connected to a run"):
            Cluster(client, in_process=False).run(add, [(8,)])


def test_a_task_has_the_threads_of_its_worker_or_of_an_idle_host():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0") as workers,
        Client(workers, set_as_default=False) as client,
        connect(client=client) as cluster,
    ):
        assert [cluster.run(worker_threads, [(idle,)]) for idle in (0, 2, 5)] == [[3], [3], [5]]


def test_workers_of_one_process_have_a_state_each_and_one_lock():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as workers,
        Client(workers, set_as_default=False) as client,
        connect(client=client) as cluster,
    ):
        addresses = [worker.address for worker in cluster.workers()]
        assert cluster.run(add, [(1,), (2,)], workers=addresses) == [[1], [2]]
        states = [get_worker_state(worker) for worker in workers.workers.values()]
        assert states[0] is not states[1]
        assert states[0].task_lock is states[1].task_lock


def test_workers_that_join_or_start_again_have_a_state(tmp_path):
    with scheduler_process(tmp_path, n_workers=1) as started, connect(scheduler=started.address) as cluster:
        started.add_worker()
        started.wait_for_workers(2)
        addresses = [worker.address for worker in cluster.workers()]
        assert cluster.run(add, [(1,), (2,)], workers=addresses) == [[1], [2]]
        for worker in started.workers:
            worker.kill()
            worker.wait()
        started.add_worker()
        wait_until(lambda: len(cluster.workers()) == 1 and cluster.workers()[0].address not in addresses)
        assert cluster.run(add, [(3,)]) == [[3]]


def wait_for_a_peer(batch: str, addresses: tuple[str, ...]) -> str:
    """Wait for a part that never comes, from a worker that answers."""
    try:
        with PeerExchange(batch, addresses) as exchange:
            exchange.exchange(0, {0: b"part"})
    except ExchangeAborted:
        return "aborted"
    return "received"


def test_an_exchange_that_waits_is_aborted_with_the_state():
    with worker_processes(2) as client, connect(client=client) as cluster:
        addresses = [worker.address for worker in cluster.workers()]
        answers: list[str] = []

        def run() -> None:
            answers.extend(cluster.run(wait_for_a_peer, [("batch", tuple(addresses))], workers=addresses[:1]))

        def close(dask_worker: Any) -> None:
            get_worker_state(dask_worker).get(Inbox).close()

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(1.5)
        assert answers == []
        client.run(close)
        thread.join(20)
        assert answers == ["aborted"]
