"""Where Dask's dashboard is, for people to open."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

_ANSWER_SECONDS = 2.0


def dashboard_of(client: Any) -> str | None:
    """Return the address of the dashboard of a client's scheduler; None where it is switched off.

    Dask names an address in either case. Where nobody listens there is none; one that does not answer here is taken
    for right, as a browser elsewhere may reach it.
    """
    link = None
    with suppress(KeyError):  # of a scheduler without a HTTP server
        link = client.dashboard_link
    if not link:
        return None
    pages = link.removesuffix("/status") + "/individual-plots.json"
    # No proxy: it is asked on the network of the scheduler.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(pages, timeout=_ANSWER_SECONDS) as answer:
            return link if json.load(answer) else None
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else str(link)
    except (OSError, ValueError):
        return str(link)
