"""The size of shard summaries depends on the number of patches and shards, not on the number of rows."""

import pytest

from nomad_dask.callbacks import EpochDone
from tests.helpers.runs import EventLog, blobs, make_map


def test_exchanged_bytes_do_not_grow_with_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_dask.neighbors.patches.N_PATCHES", 1024)
    sizes = []
    for n in (2_000, 20_000):
        event_log = EventLog()
        result = make_map(blobs(n, n_dims=8), n_shards=4, n_cells=40, n_epochs=3, n_probes=2, emit=event_log)
        assert result.diagnostics["n_cells"] == 40
        sizes.append([event.exchanged_bytes for event in event_log.of(EpochDone)])
    assert len(sizes[0]) == 3
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > 0
