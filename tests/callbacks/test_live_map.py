"""The live map in a real kernel, in a real browser, and on a real terminal."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from sklearn.base import clone

import nomad_dask
from nomad_dask import LiveMap, NomadProjection
from nomad_dask.callbacks import (
    ClusterJoined,
    EpochDone,
    LayoutSnapshot,
    Measured,
    ShardPlaced,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
)
from nomad_dask.callbacks import live as live_package
from nomad_dask.callbacks.live.frames import BYTES_PER_SECOND, MAX_SENT_POINTS, make_frame, seconds_between
from nomad_dask.callbacks.live.progress_state import ProgressState
from nomad_dask.errors import InputError
from tests.helpers.browser import Page, missing, served
from tests.helpers.jupyter import Kernel, kernel
from tests.helpers.runs import blobs
from tests.helpers.terminals import on_a_terminal

N, MAX_POINTS, EPOCHS = 600, 100, 60
ROOT = Path(__file__).parents[2]

START = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from tests.helpers.runs import blobs
from nomad_dask import LiveMap, NomadProjection
from nomad_dask.callbacks import EpochDone

x = blobs({N}, 8)

def slow(event):
    if isinstance(event, EpochDone):
        time.sleep(0.05)

def estimator(*callbacks):
    return NomadProjection(n_epochs={EPOCHS}, n_shards=2, callbacks=callbacks)

live = LiveMap(max_points={MAX_POINTS}, interval=0.0)
nomad = estimator(live).fit(x)
plain = nomad.embedding_
print(nomad.diagnostics_["loss"])
"""


@pytest.fixture(scope="module")
def jupyter() -> Iterator[tuple[Kernel, dict[str, Any]]]:
    """A kernel in which a map was made with a LiveMap, and the reply of the cell."""
    with kernel() as running:
        done = running.run(START)
        assert done["status"] == "ok", done
        yield running, done


def live_widgets(running: Kernel) -> list[tuple[str, dict[str, Any]]]:
    return [(comm, state) for comm, state in running.widgets.items() if "figures" in state]


def test_the_widget_has_the_layout_and_the_figures(jupyter):
    running, done = jupyter
    _, state = live_widgets(running)[0]
    figures, frame = state["figures"], state["frame"]
    assert (figures["state"], figures["said"]) == ("finished", "")
    assert figures["epoch"] == [EPOCHS, EPOCHS]
    assert figures["losses"][-1] == [EPOCHS, float(done["text"].strip())]
    assert [s["name"] for s in figures["stages"]] == ["sample", "cells", "shards", "neighbors", "layout"]
    assert {s["state"] for s in figures["stages"]} == {"done"}
    (worker,) = figures["workers"]
    assert (worker["device"], worker["shards"], worker["rows"]) == ("CPU", [0, 1], N)
    assert figures["dashboard"] is None
    assert (frame["epoch"], frame["n_rows"], frame["n_points"]) == (EPOCHS, N, MAX_POINTS)
    running.run("found = live.widget; rows = plain")
    pairs = np.frombuffer(state["data"], "<u2").reshape(-1, 2)
    assert len(pairs) == MAX_POINTS
    low, high = np.array(frame["low"]), np.array(frame["high"])
    shown = running.run("print(plain.tolist())")["text"]
    distances = np.linalg.norm((low + pairs / 65535 * (high - low))[:, None] - np.array(json.loads(shown)), axis=2)
    # Each point is some row of the map, and no two are the same.
    assert distances.min(axis=1).max() < 1e-3 * np.ptp(low - high + high)
    assert len(set(distances.argmin(axis=1))) == MAX_POINTS


def test_it_changes_nothing(jupyter):
    running, _ = jupyter
    assert running.run("print(np.array_equal(estimator().fit_transform(x), plain))")["text"] == "True\n"


def test_interrupted_from_the_notebook_and_going_on(jupyter):
    running, _ = jupyter
    before = {comm for comm, _ in live_widgets(running)}
    stops: list[str] = []

    def interrupt() -> None:
        for comm, state in live_widgets(running):
            if comm not in before and not stops and (state["figures"]["epoch"] or [0])[0] > 0:
                stops.append(comm)
                running.manager.interrupt_kernel()

    reply = running.run("nomad = estimator(LiveMap(interval=1000.0), slow)\nnomad.fit(x)", interrupt)
    assert reply.get("ename") == "Interrupted", reply
    assert "fit(X, resume=True) continues the fit" in reply["evalue"]
    epochs = int(running.run("print(nomad.n_epochs_)")["text"])
    assert 1 <= epochs < EPOCHS
    state = running.widgets[stops[0]]
    assert state["figures"]["state"] == "stopped"
    # The layout that is kept is the one that is shown.
    assert (state["frame"]["epoch"], state["frame"]["n_points"]) == (epochs, N)
    code = "nomad.set_params(callbacks=[LiveMap()])\nprint(np.array_equal(nomad.fit(x, resume=True).embedding_, plain))"
    assert running.run(code)["text"] == "True\n"
    earlier = [s["name"] for s in live_widgets(running)[-1][1]["figures"]["stages"] if s["state"] == "earlier"]
    assert earlier == ["sample", "cells", "shards", "neighbors"]


def test_a_fit_that_fails_says_why(jupyter):
    running, _ = jupyter
    reply = running.run("bad = x.copy(); bad[5, 2] = np.nan\nestimator(LiveMap()).fit(bad)")
    assert reply["ename"] == "InputError"
    figures = live_widgets(running)[-1][1]["figures"]
    assert figures["state"] == "failed"
    assert "row 5, column 2" in figures["said"]


def test_a_terminal_shows_the_bars():
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.helpers.runs import blobs
        from nomad_dask import LiveMap, NomadProjection
        live = LiveMap()
        sights = []
        watch = lambda event: sights.append(live.snapshot_request)
        NomadProjection(n_epochs=1000, callbacks=[live, watch], verbose=True).fit(
            blobs(600, 8)
        )
        assert set(sights) == {{None}} and live.widget is None
    """
    written = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(code))
    assert re.search(r"layout .*%.*epochs/s", written)
    assert "Traceback" not in written


def test_a_pipe_stays_silent(capfd):
    live = LiveMap()
    NomadProjection(n_epochs=3, callbacks=[live]).fit(blobs(100, 4))
    assert capfd.readouterr() == ("", "")
    assert live.snapshot_request is None


def test_figures_of_a_run(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("nomad_dask.callbacks.live.progress_state.time.monotonic", lambda: clock[0])
    figures = ProgressState()

    def after(seconds: float, *events: Any) -> None:
        clock[0] += seconds
        for event in events:
            figures(event)

    after(0, ClusterJoined(2, "http://10.0.0.1:8787/status"), StageFinished("sample", 0.0, True))
    after(1, StageStarted("neighbors", 1000, "rows"))
    after(2, StageAdvanced("neighbors", 100))
    after(3, StageAdvanced("neighbors", 400))
    (sample, neighbors) = figures.as_dict()["stages"]
    assert (sample["state"], sample["rate"]) == ("earlier", None)
    # 300 rows in the last 3 s, 600 to go.
    assert (neighbors["done"], neighbors["rate"], neighbors["left"]) == (400, 100.0, 6.0)
    after(5, StageFinished("neighbors", 10.0), Measured("recall", 0.97), Measured("bad", float("nan")))
    after(0, StageStarted("layout", 200, "epochs"))
    after(0, ShardPlaced(0, "tcp://a", "CPU", 600), ShardPlaced(1, "tcp://b", "CPU", 400))
    after(1, EpochDone(1, 200, 9.0, 8), StageAdvanced("layout", 1))
    after(10, EpochDone(21, 200, None, 8), StageAdvanced("layout", 21))
    after(0, WorkerLost("tcp://b"), ShardPlaced(0, "tcp://a", "CPU", 600), ShardPlaced(1, "tcp://a", "CPU", 400))
    found = figures.as_dict()
    assert found["stages"][1] | {"name": "", "unit": ""} == {
        "name": "", "unit": "", "total": 1000, "done": 1000, "rate": 100.0, "left": None, "seconds": 10.0,
        "state": "done",
    }  # fmt: skip
    assert found["workers"] == [{"address": "tcp://a", "device": "CPU", "shards": [0, 1], "rows": 1000, "rate": 2000.0}]
    assert (found["lost"], found["losses"], found["epoch"]) == (["tcp://b"], [[1, 9.0]], [21, 200])
    assert (found["measured"], found["dashboard"]) == ({"recall": 0.97}, "http://10.0.0.1:8787/status")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def seen(positions: np.ndarray, n_rows: int = 10**6) -> LayoutSnapshot:
    return LayoutSnapshot(3, 9, n_rows, np.arange(len(positions)), positions)


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 30), st.integers(2, 3)), elements=st.floats(width=32)))
def test_points_are_where_they_are(positions):
    frame, data = make_frame(seen(positions), (200, 200), "light")
    with np.errstate(all="ignore"):
        plane = positions[np.isfinite(positions[:, :2]).all(axis=1), :2].astype(np.float64)
    pairs = np.frombuffer(data, "<u2").reshape(-1, 2)
    assert (frame["kind"], frame["n_points"]) == ("points", len(plane))
    assert pairs.shape == plane.shape
    low, high = np.array(frame["low"]), np.array(frame["high"])
    span = (high - low).max()
    assert span > 0
    np.testing.assert_allclose(low + pairs / 65535 * span, plane, atol=0.51 * span / 65535 + 1e-9 * np.abs(low).max())
    json.dumps(frame, allow_nan=False)


def test_many_points_are_a_picture():
    positions = np.random.default_rng(0).normal(size=(MAX_SENT_POINTS + 1, 2)).astype(np.float32)
    frame, data = make_frame(seen(positions), (300, 240), "dark")
    assert (frame["kind"], frame["n_points"]) == ("png", MAX_SENT_POINTS + 1)
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (300, 240)
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert len(data) < MAX_SENT_POINTS


@pytest.mark.parametrize("max_points", [1, 1000, 200_000, MAX_SENT_POINTS, 2_000_000])
def test_less_is_sent_than_a_server_lets_through(max_points):
    assert seconds_between(max_points) >= min(4 * max_points, 400_000) / BYTES_PER_SECOND


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_points": 0}, "max_points=0 is out of range: use a whole number from 1 to 2,000,000"),
        ({"max_points": 3_000_000}, "max_points=3000000"),
        ({"interval": -1}, "interval=-1"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"theme": "drak"}, "theme='drak'"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        LiveMap(**wrong)


def test_a_copy_has_its_own_view():
    live = LiveMap(max_points=5, interval=2.0, size=(300, 200), theme="dark")
    for copy in (clone(NomadProjection(callbacks=[live])).callbacks[0], pickle.loads(pickle.dumps(live))):
        assert copy is not live
        assert repr(copy) == "LiveMap(max_points=5, interval=2.0, size=(300, 200), theme='dark')"
    assert nomad_dask.LiveMap is LiveMap


EVIL = "<img src=x onerror=document.title='hit'>"
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><link rel="stylesheet" href="live.css">
<style>body { background: #111; color: #eee }</style><div id="at"></div>
<script type="module">
import live from "./live.js";
const state = await (await fetch("state.json")).json();
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
state.data = bytes(state.data);
window.event_log = {};
const model = {
  get: (name) => state[name],
  on: (what, tell) => { (event_log[what] ??= new Set()).add(tell); },
  off: (what, tell) => event_log[what].delete(tell),
};
window.put = (name, value) => {
  state[name] = name === "data" ? bytes(value) : value;
  for (const tell of event_log[`change:${name}`]) tell();
};
window.end = live.render({ model, el: document.getElementById("at") });
</script>"""
BOX = """
const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
return [box.left + canvas.clientLeft, box.top + canvas.clientTop, canvas.clientWidth];
"""
LIT = """
const canvas = document.querySelector("canvas");
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
const found = [];
for (let i = 3; i < data.length; i += 4) if (data[i]) found.push((i - 3) / 4);
return found;
"""


def lit(page: Page, width: int) -> np.ndarray:
    """Return the positions (n, 2) of the pixels that are not empty."""
    found = np.array(page.run(LIT), int)
    return np.column_stack([found % width, found // width])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_view_in_a_browser(jupyter, page, tmp_path):
    """The data from the kernel is shown: points at their positions, figures as text, and updates."""
    running, _ = jupyter
    state = {name: live_widgets(running)[0][1][name] for name in ("figures", "frame", "size", "data")}
    state["figures"] = state["figures"] | {"lost": [EVIL], "said": EVIL, "dashboard": f"javascript:{EVIL}"}
    state["data"] = base64.b64encode(state["data"]).decode()
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "index.html").write_text(PAGE)
    for name in ("live.js", "live.css"):
        shutil.copy(Path(live_package.__file__).with_name(name), tmp_path)
    with served(tmp_path) as address:
        page.driver.get(address)
        page.wait(lambda: page.all("canvas") and len(lit(page, 560)))
        width, height = state["size"]
        pairs = np.frombuffer(base64.b64decode(state["data"]), "<u2").reshape(-1, 2) / 65535
        scale = 0.96 * min(width, height)
        at = np.column_stack([width / 2 + (pairs[:, 0] - 0.5) * scale, height / 2 + (0.5 - pairs[:, 1]) * scale])
        # Every point is drawn, and every pixel that is drawn belongs to one.
        distances = np.abs(lit(page, width)[:, None] + 0.5 - at).max(axis=2)
        assert distances.min(axis=0).max() <= 1
        assert distances.min(axis=1).max() <= 3

        assert page.text(".nomad-head strong") == "Finished"
        assert [page.text(f".nomad-stages tr:nth-child({i}) th") for i in (1, 5)] == ["sample", "layout"]
        assert f"epoch {EPOCHS} of {EPOCHS}" in page.text(".nomad-panel .nomad-label")
        assert page.text(".nomad-map .nomad-label") == f"epoch {EPOCHS} of {EPOCHS}, {MAX_POINTS} of {N} points"
        assert f"{N} rows" in page.text(".nomad-workers")
        assert page.text(".nomad-message") == EVIL
        assert page.text(".nomad-lost") == f"worker {EVIL} was lost"
        assert page.all(".nomad-live a, .nomad-live img") == []
        assert page.run("return document.title") == ""

        # Zooming in keeps the point under the pointer in place, and moves all others away from it.
        left, top, shown = page.run(BOX)
        pointer = (at[0] * shown / width).round()
        page.wheel(left + pointer[0], top + pointer[1], -400)
        there = pointer * width / shown
        expected = there + (at[0] - there) * np.e
        page.wait(lambda: np.abs(lit(page, width) + 0.5 - expected).max(axis=1).min() <= 2)
        assert len(lit(page, width)) < len(distances)
        page.run("document.querySelector('canvas').dispatchEvent(new MouseEvent('dblclick'))")

        page.run("put('figures', arguments[0])", state["figures"] | {"dashboard": "http://127.0.0.1:1/status"})
        assert page.one(".nomad-live a").get_attribute("href") == "http://127.0.0.1:1/status"
        frame, data = make_frame(seen(np.zeros((MAX_SENT_POINTS + 1, 2), np.float32)), (width, height), "dark")
        page.run("put('frame', arguments[0]); put('data', arguments[1])", frame, base64.b64encode(data).decode())
        page.wait(lambda: len(lit(page, width)) == width * height)
        assert page.text(".nomad-map .nomad-label") == "epoch 3 of 9, 250,001 of 1,000,000 points"
        page.run("end()")
        assert page.run("return Object.values(event_log).map((of) => of.size)") == [0, 0, 0]
