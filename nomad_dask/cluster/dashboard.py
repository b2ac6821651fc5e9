"""The address of Dask's dashboard, for people to open."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

_ANSWER_SECONDS = 2.0


def dashboard_of(client: Any) -> str | None:
    """Return the address of the dashboard of a client's scheduler; None if it is switched off.

    Dask returns an address in either case. If the connection to it is refused, there is no dashboard. An address
    that does not answer from here is returned, because a browser elsewhere may reach it.
    """
    link = None
    with suppress(KeyError):  # a scheduler without an HTTP server
        link = client.dashboard_link
    if not link:
        return None
    plots = link.removesuffix("/status") + "/individual-plots.json"
    # Without a proxy, because it is in the scheduler's network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(plots, timeout=_ANSWER_SECONDS) as answer:
            return link if json.load(answer) else None
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else str(link)
    except (OSError, ValueError):
        return str(link)
