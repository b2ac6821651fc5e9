"""The pool covers every item once, and stops when a chunk fails."""

import threading
from contextvars import ContextVar

import numpy as np
import pytest

from nomad_dask.utils.threads import map_ahead, thread_pool


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(("items", "chunk"), [(0, 4), (3, 4), (100, 7)])
def test_every_item_is_done_once(n, items, chunk):
    seen = np.zeros(items, int)

    def work(start, stop):
        seen[start:stop] += 1

    with thread_pool(n) as pool:
        pool.run(work, items, chunk)
    assert (seen == 1).all()


def test_a_failed_chunk_keeps_the_rest_from_starting():
    started, release = [], threading.Event()

    def work(start, stop):
        started.append(start)
        if start == 0:
            raise ZeroDivisionError
        release.wait(5)

    with thread_pool(2) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.run(work, 1000, 1)
        release.set()
    assert len(started) < 1000


@pytest.mark.parametrize("n", [1, 3])
def test_chunks_see_the_context_variables_of_the_caller(n):
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("of the caller")
    seen = []
    with thread_pool(n) as pool:
        pool.run(lambda start, stop: seen.append(variable.get()), 50, 2)
    assert seen == ["of the caller"] * 25


@pytest.mark.parametrize("n", [1, 3])
def test_results_are_in_order_and_few_are_ahead(n):
    started = []

    def work(item):
        started.append(item)
        return item * item

    results = map_ahead(work, range(10), n)
    for i in range(10):
        assert next(results) == i * i
        assert len(started) <= min(10, i + n)
    assert sorted(started) == list(range(10))
    assert list(map_ahead(work, [], n)) == []


def test_an_error_arrives_in_its_turn():
    def work(item):
        return 1 // (item - 2)

    results = map_ahead(work, range(9), 4)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
