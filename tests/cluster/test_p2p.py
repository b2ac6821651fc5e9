"""Exchange between tasks of several worker processes: all receive all parts in order, and none waits forever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed import get_worker

from nomad_dask.cluster import get_worker_state
from nomad_dask.cluster.p2p import ExchangeAborted, Inbox, PeerExchange
from nomad_dask.errors import NomadError
from tests.helpers.runs import cluster_of, worker_processes

TURNS = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with worker_processes(3) as started:
        yield started


@pytest.fixture
def client(cluster: Any) -> Any:
    """A client of all workers, restarted by their nannies if the last test has killed them."""
    cluster.wait_for_workers(3, timeout=60)
    return cluster


def take_turns(batch: str, number: int, homes: tuple[str, ...], slow: float = 0.0, fails_at: int = -1) -> Any:
    """Exchange arrays that grow by what was received, as layouts do; return the last sum, or that it was aborted."""
    mine = np.full((100, 4), number, np.float32)
    try:
        with PeerExchange(batch, homes) as post:
            for turn in range(TURNS):
                if turn == fails_at:
                    raise ValueError(f"no turn {turn}")
                time.sleep(slow)
                parts = post.exchange(turn, {number: mine})
                assert len(parts) == len(homes)
                mine = mine + sum((i + 1) * part for i, part in enumerate(parts)) % 7
    except ExchangeAborted:
        return "stopped"
    return float(mine.sum())


def expected(n: int) -> list[float]:
    all_of_them = [np.full((100, 4), number, np.float32) for number in range(n)]
    for _ in range(TURNS):
        received = sum((i + 1) * part for i, part in enumerate(all_of_them)) % 7
        all_of_them = [mine + received for mine in all_of_them]
    return [float(mine.sum()) for mine in all_of_them]


def addresses(client: Any) -> list[str]:
    return sorted(client.run(os.getpid))


def run(client: Any, batch: str, homes: list[str], **options: Any) -> list[Any]:
    jobs = [(batch, number, tuple(homes), *options.get(f"of_{number}", ())) for number in range(len(homes))]
    return cluster_of(client).run(take_turns, jobs, workers=homes)


def own_address() -> str:
    return str(get_worker().address)


def left_over(client: Any) -> int:
    def messages(dask_worker: Any) -> int:
        return len(get_worker_state(dask_worker).get(Inbox).parts)

    return sum(client.run(messages).values())


def test_all_receive_all_in_order(client):
    assert run(client, "all", addresses(client)) == expected(3)
    assert left_over(client) == 0


def test_a_single_task_receives_its_own_part(client):
    assert run(client, "alone", addresses(client)[:1]) == expected(1)


def test_slow_tasks_are_waited_for(client):
    assert run(client, "slow", addresses(client), of_1=(0.06,)) == expected(3)


def test_two_batches_that_meet_on_the_same_workers(client):
    """Each worker has one thread, and the batches start in opposite order: neither may hold it while waiting."""
    homes, made = addresses(client)[:2], {}

    def one(name: str, where: list[str]) -> None:
        made[name] = run(client, name, where, of_0=(0.01,), of_1=(0.01,))

    threads = [threading.Thread(target=one, args=job) for job in (("there", homes), ("back", homes[::-1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {"there": expected(2), "back": expected(2)}


def test_tasks_on_other_workers_than_agreed_stop(client):
    """They would send their parts to workers that no task of the batch waits on."""
    homes = addresses(client)
    jobs = [("elsewhere", number, tuple(homes)) for number in range(3)]
    assert cluster_of(client).run(take_turns, jobs, workers=homes[:1] * 3) == ["stopped"] * 3
    assert left_over(client) == 0


def test_idle_workers_do_not_take_tasks_of_a_busy_one(client):
    homes = addresses(client)
    busy = client.submit(time.sleep, 2, workers=[homes[2]], pure=False)
    assert cluster_of(client).run(own_address, [()] * 6, workers=homes * 2) == homes * 2
    busy.release()


def test_a_task_that_fails_stops_the_others(client):
    """Otherwise the next task would wait for their workers."""
    with pytest.raises(NomadError, match="ValueError: no turn 7"):
        run(client, "fails", addresses(client), of_2=(0.0, 7))
    assert run(client, "afterwards", addresses(client)) == expected(3)
    assert left_over(client) == 0


@pytest.mark.parametrize("how_many", [1, 2])
def test_killed_workers_stop_the_others(client, how_many):
    """The task of a killed worker runs again on another one, where no other task expects it: it is aborted, too."""
    pids, homes = client.run(os.getpid), addresses(client)

    def kill() -> None:
        for address in homes[:how_many]:
            os.kill(pids[address], signal.SIGKILL)

    threading.Timer(0.5, kill).start()
    slow = {f"of_{number}": (0.1,) for number in range(3)}
    assert run(client, f"killed {how_many}", homes, **slow) == ["stopped"] * 3


def test_a_worker_that_is_frozen_for_a_while_is_waited_for(client):
    pids, homes = client.run(os.getpid), addresses(client)
    frozen = pids[homes[1]]
    threading.Timer(0.3, os.kill, (frozen, signal.SIGSTOP)).start()
    threading.Timer(2.5, os.kill, (frozen, signal.SIGCONT)).start()
    slow = {f"of_{number}": (0.05,) for number in range(3)}
    assert run(client, "frozen", homes, **slow) == expected(3)
