"""Who can reach an embedded cluster, encrypted schedulers, and scripts without a guard for worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import psutil
import pytest

from nomad_dask import NomadProjection
from nomad_dask.cluster import connect
from nomad_dask.errors import ClusterError, MissingInputError
from nomad_dask.maps import read_map
from tests.helpers.processes import command_line, scheduler_process
from tests.helpers.runs import blobs

pytestmark = pytest.mark.timeout(120)


def listening(pids: list[int]) -> set[str]:
    """Return the addresses on which processes accept connections."""
    found = [c for pid in pids for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]
    return {c.laddr.ip for c in found}


def these_processes() -> list[int]:
    return [os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_embedded_cluster_listens_on_loopback_only(n_workers):
    """Scheduler, workers, nannies, and the HTTP servers of all of them."""
    before = listening(these_processes())  # servers and browsers of other tests
    with connect(n_workers=n_workers) as cluster:
        found = listening(these_processes())
        assert found - before <= {"127.0.0.1"}
        assert found, "something listens, or this test sees nothing"
        assert len(cluster.workers()) == n_workers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return Dask's settings for certificates that an authority made for this test has signed."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", "authority.key", "-out", "authority.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    openssl("x509", "-req", "-in", "node.csr", "-days", "2", "-CA", "authority.pem", "-CAkey", "authority.key",
            "-CAcreateserial", "-out", "node.pem")  # fmt: skip
    tls = {"ca-file": str(folder / "authority.pem")}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"{role}.cert": str(folder / "node.pem"), f"{role}.key": str(folder / "node.key")}
    return {f"distributed.comm.tls.{name}": path for name, path in tls.items()}


def as_environment(settings: dict[str, str]) -> dict[str, str]:
    return {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": value for name, value in settings.items()}


def test_a_scheduler_with_tls(certificates, tmp_path):
    """By Dask's configuration, by a client with security=, and without certificates as one clear error."""
    import dask.config
    from distributed import Client, Security

    environment = as_environment(certificates)
    with scheduler_process(tmp_path, options=("--host", "tls://127.0.0.1"), environment=environment) as started:
        assert started.address.startswith("tls://")
        started.add_worker()
        with dask.config.set(certificates):
            started.wait_for_workers(1)
            with connect(scheduler=started.address) as cluster:
                assert cluster.run(os.getpid, [()]) == [started.workers[0].pid]
            with connect(scheduler_file=started.folder / "scheduler.json") as cluster:
                assert len(cluster.workers()) == 1
            security = Security(require_encryption=True)
        with (
            Client(started.address, security=security, set_as_default=False) as client,
            connect(client=client) as cluster,
        ):
            assert cluster.run(os.getpid, [()]) == [started.workers[0].pid]
        code = f"from nomad_dask.cluster import connect\nwith connect(scheduler={started.address!r}): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (
            "needs certificates, and Dask's configuration has none: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
            in done.stderr
        )
        assert done.stderr.count("Traceback") == 1, done.stderr
        assert "__del__" not in done.stderr


def test_a_fit_by_two_workers_with_tls_makes_the_same_map(certificates, tmp_path):
    """From a program with ``Client(security=...)``, and from the command line with certificates in its environment."""
    from distributed import Client, Security

    x = blobs(600)
    np.save(tmp_path / "x.npy", x)
    expected = NomadProjection(n_epochs=5, n_shards=2).fit(x)
    environment = as_environment(certificates)
    files = {name.removeprefix("distributed.comm.tls."): path for name, path in certificates.items()}
    security = Security(
        require_encryption=True, tls_ca_file=files["ca-file"],
        tls_client_cert=files["client.cert"], tls_client_key=files["client.key"],
    )  # fmt: skip
    with scheduler_process(tmp_path, options=("--host", "tls://127.0.0.1"), environment=environment) as started:
        for _ in range(2):
            started.add_worker()
        with Client(started.address, security=security, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            assert all(address.startswith("tls://") for address in client.scheduler_info()["workers"])
            made = NomadProjection(n_epochs=5, n_shards=2, client=client).fit(x)
        output = tmp_path / "map.parquet"
        command = ["fit", tmp_path / "x.npy", "-o", output, "--epochs", "5", "--shards", "2", "--quiet"]
        variables = os.environ | environment
        with command_line(*command, "--scheduler", started.address, env=variables) as process:
            _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    np.testing.assert_array_equal(made.embedding_, expected.embedding_)
    np.testing.assert_array_equal(made.cell_labels_, expected.cell_labels_)
    np.testing.assert_array_equal(read_map(output).positions, expected.embedding_)


def test_certificates_that_cannot_be_read(certificates, tmp_path):
    import dask.config

    broken = certificates | {"distributed.comm.tls.client.cert": str(tmp_path / "nothing.pem")}
    with (
        dask.config.set(broken),
        pytest.raises(ClusterError, match=r"certificates for the scheduler .* cannot be used"),
        connect(scheduler="tls://127.0.0.1:8786"),
    ):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"address": "nowhere"}', None])
def test_an_invalid_scheduler_file(tmp_path, content):
    file = tmp_path / "scheduler.json"
    if content is None:
        expected: Any = pytest.raises(MissingInputError, match="There is no scheduler file")
    else:
        file.write_text(content)
        expected = pytest.raises(ClusterError, match=r"cannot be read|is not an address")
    with expected, connect(scheduler_file=file):
        pass


def test_a_script_without_a_main_guard(tmp_path):
    """Worker processes import the script; without the guard they would start the run again, endlessly."""
    np.save(tmp_path / "x.npy", blobs(300))
    script = tmp_path / "script.py"
    script.write_text(
        "from nomad_dask import NomadProjection\n"
        f"NomadProjection(n_epochs=5, n_workers=2).fit({str(tmp_path / 'x.npy')!r})\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "2 worker processes did not start" in last
    assert "if __name__ == '__main__':" in last
    assert "This is a worker process that imports the script of its parent" in done.stderr
