"""Settings in Dask's configuration, and clients that cannot be used, are refused by name."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.config
import numpy as np
import pytest
from distributed import Client

from nomad_dask import NomadProjection
from nomad_dask.cluster import connect
from nomad_dask.cluster.settings import timeout
from nomad_dask.errors import ClusterError, InputError
from tests.helpers.runs import blobs


@pytest.mark.parametrize("name", ["lost-after", "frozen-after", "kmeans-within", "nccl-within"])
@pytest.mark.parametrize(
    "value", ["soon", "", "5 parsecs", None, -1, 0, "0 s", True, float("nan"), float("inf"), "-3 s", [3], {"a": 1}]
)
def test_a_time_limit_that_is_none_is_refused(name, value):
    with dask.config.set({f"nomad-dask.{name}": value}), pytest.raises(InputError) as caught:
        connect().__enter__()
    assert f"nomad-dask.{name}={value!r} in Dask's configuration is not accepted" in str(caught.value)
    assert f"DASK_NOMAD_DASK__{name.upper().replace('-', '_')}=120" in str(caught.value)


def test_a_setting_that_does_not_exist_is_refused():
    with (
        dask.config.set({"nomad-dask.lost-afer": 3}),
        pytest.raises(InputError, match=r"nomad-dask\.lost-afer, which does not exist\. Did you mean 'lost-after'"),
    ):
        connect().__enter__()
    with (
        dask.config.set({"nomad-dask": "junk"}),
        pytest.raises(InputError, match=r"nomad-dask='junk' in Dask's configuration is not accepted: it is a section"),
    ):
        connect().__enter__()


@pytest.mark.parametrize(("value", "seconds"), [(120, 120), ("2 minutes", 120), ("1500ms", 1.5), ("7", 7), (0.5, 0.5)])
def test_times_as_dask_writes_them(value, seconds):
    with dask.config.set({"nomad_dask.lost_after": value}):
        assert timeout("lost-after") == seconds


@pytest.mark.parametrize("n_workers", [0, -1, 1.5, "2", True, 10**6])
def test_a_number_of_workers_that_is_none(n_workers):
    with pytest.raises(InputError) as caught:
        connect(n_workers=n_workers).__enter__()
    assert f"n_workers={n_workers!r} is not accepted: give a whole number from 1 to" in str(caught.value)


class Unconnected:
    scheduler_address = "tcp://127.0.0.1:1"

    def get_client(self) -> None:
        """As clusters have."""


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (8786, "client=8786 of type int is not a Dask client: give a distributed.Client, the address"),
        (Client, "this is a class: give an instance"),
        (Unconnected(), r"this is a cluster: give cluster\.get_client\(\)"),
    ],
)
def test_what_is_not_a_client(client, message):
    with pytest.raises(InputError, match=message):
        connect(client=client).__enter__()


def test_a_client_may_be_an_address_and_must_be_open_and_not_asynchronous():
    x, settings = blobs(300), {"n_epochs": 3}
    made: list[Any] = []

    async def fit_in_a_coroutine(address: str) -> None:
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            estimator = NomadProjection(client=client, **settings)
            with pytest.raises(InputError, match="is asynchronous, and a fit would block its event loop"):
                estimator.fit(x)
            made.append(await asyncio.to_thread(estimator.fit_transform, x))

    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        made.append(NomadProjection(client=cluster.scheduler_address, **settings).fit_transform(x))
        asyncio.run(fit_in_a_coroutine(cluster.scheduler_address))
        with Client(cluster, set_as_default=False) as client:
            pass
    with pytest.raises(ClusterError, match="is not connected, its status is 'closed'"):
        NomadProjection(client=client).fit(x)
    for positions in made:
        np.testing.assert_array_equal(positions, NomadProjection(**settings).fit_transform(x))
    with pytest.raises(ClusterError, match=r"'nowhere' is not an address"):
        NomadProjection(client="nowhere").fit(x)


@pytest.mark.parametrize("n_workers", [None, 2])
@pytest.mark.parametrize("folder", ["missing/folder", "file"])
def test_a_temporary_directory_that_cannot_be_used(tmp_path, folder, n_workers):
    (tmp_path / "file").touch()
    path = str(tmp_path / folder)
    with dask.config.set({"temporary-directory": path}), pytest.raises(InputError) as caught:
        connect(n_workers=n_workers).__enter__()
    assert f"Dask's temporary-directory {path!r} cannot be used" in str(caught.value)
    assert "__main__" not in str(caught.value)


@pytest.mark.parametrize("n_workers", [None, 2])
def test_a_setting_that_dask_does_not_accept(n_workers):
    wrong = {"distributed.comm.timeouts.connect": "soon"}
    with dask.config.set(wrong), pytest.raises(ClusterError, match=r"soon.*correct Dask's configuration") as caught:
        connect(n_workers=n_workers).__enter__()
    assert "__main__" not in str(caught.value)


def test_one_process_needs_no_encryption():
    with dask.config.set({"distributed.comm.require-encryption": True}):
        with connect() as cluster:
            assert cluster.run(abs, [(-2,)]) == [2]
        with pytest.raises(ClusterError, match="correct Dask's configuration"):
            connect(n_workers=2).__enter__()
