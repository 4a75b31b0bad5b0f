"""Following a log as server-sent events, taken up where it broke off when the daemon was restarted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cli.api import api_error
from cli.errors import ApiError, CliError
from cli.transport import Transport

AGAIN_S = 1.0
"""Pause before the daemon is asked again."""
QUIET_S = 60.0
"""A stream that says nothing for so long, not even that it is alive (it does every 15 s), is taken for broken."""
AWAY = (429, 502, 503, 504)
"""Replies of a daemon that ends or begins, or of what stands before it."""


def follow(
    transport: Transport,
    path: str,
    *,
    query: Iterable[tuple[str, str]],
    away: Callable[[], object],
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Lines of a log as they come, without an end.

    ``away``: called once each time when the daemon is gone, until it is back; ``wait``: how to pass the seconds until
    it is asked again.

    Raises:
      CliError: it cannot be followed, or not any more: the function was deleted.
    """
    asked, after, begun, told = list(query), "", False, False
    while True:
        try:
            lines = transport.lines(path, query=[*asked, *([("after", after)] if after else [])], timeout_s=QUIET_S)
            if lines.reply.status >= 400 and not (begun and lines.reply.status in AWAY):
                raise api_error(lines.reply)
            if lines.reply.status < 400:
                begun, told = True, False
                for raw in lines:
                    if raw.startswith(b"data: "):
                        yield json.loads(raw[6:])
                    elif raw.startswith(b"id: "):  # comes last in its event: the line was shown
                        after = raw[4:].decode().strip()
        except CliError as exc:  # it cannot be reached, or went silent
            if isinstance(exc, ApiError) or not begun:
                raise
        if not told:
            told = True
            away()
        wait(AGAIN_S)
