"""Checks of a Dask client that a user gives."""

from __future__ import annotations

from typing import Any

from nomad_dask.cluster.forks import check_event_loop
from nomad_dask.errors import ClusterError, InputError


def check_client(client: Any) -> None:
    """Check that an object is a client that can be used from here.

    Raises
    ------
    InputError
        It is not a client, or it can be used in coroutines only.
    ClusterError
        It is closed, or belongs to another process.
    """
    import distributed

    if not isinstance(client, distributed.Client):
        remedy = "give a distributed.Client, the address of a scheduler such as 'tcp://127.0.0.1:8786', or None"
        if hasattr(client, "scheduler_address") and hasattr(client, "get_client"):
            remedy = "this is a cluster: give cluster.get_client()"
        elif isinstance(client, type):
            remedy = "this is a class: give an instance, such as Client('tcp://127.0.0.1:8786')"
        raise InputError(f"client={client!r} of type {type(client).__name__} is not a Dask client: {remedy}.")
    if client.asynchronous:
        raise InputError(
            f"client={client!r} is asynchronous, and a fit would block its event loop: "
            "run the fit in a thread (await asyncio.to_thread(...)), or give a client without asynchronous=True."
        )
    if client.status != "running" or client.scheduler is None:
        raise ClusterError(
            f"client={client!r} is not connected, its status is {client.status!r}: its scheduler is gone, or it was "
            "closed. Create a new client, and run the same again."
        )
    check_event_loop(client)
