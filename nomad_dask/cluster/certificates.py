"""The certificates for an encrypted scheduler, from Dask's configuration."""

from __future__ import annotations

from typing import Any

from nomad_dask.errors import ClusterError


def check_certificates(scheduler: str) -> None:
    """Check that Dask's configuration has certificates for a ``tls://`` address.

    Raises
    ------
    ClusterError
        There are none, or they cannot be used.
    """
    import dask.config
    from distributed import security

    Security: Any = security.Security
    if dask.config.get("distributed.client.security-loader", None):
        return  # it creates them for each address
    remedy = (
        "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to files, or the same in Dask's configuration, "
        "or give a client created with security="
    )
    try:
        context = Security().get_connection_args("client")["ssl_context"]
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ClusterError(
            f"The certificates for the scheduler {scheduler!r} cannot be used ({error}): {remedy}."
        ) from error
    if context is None:
        raise ClusterError(
            f"The scheduler {scheduler!r} needs certificates, and Dask's configuration has none: {remedy}."
        )
