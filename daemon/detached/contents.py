"""Headers and bodies of detached calls: in the store, and as many as fit in memory too."""

from __future__ import annotations

from daemon.core.detached import Call
from daemon.store import detached_records as records
from daemon.store.database import Database
from daemon.store.detached_records import Headers

CONTENT_BYTES_MAX = 16 * 2**20
"""Bodies and headers of waiting calls that are kept in memory, to save reading them again."""


class Contents:
    """What the calls of a node were sent with."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, tuple[Headers, bytes]] = {}
        self._bytes = 0

    async def of(self, call_id: str) -> tuple[Headers, bytes] | None:
        """Of a call or dead letter; None: it is gone.

        Raises:
          InternalError: the disk refuses.
        """
        held = self._held.get(call_id)
        return held if held is not None else await self._database.read(lambda conn: records.content(conn, call_id))

    def keep(self, call: Call, headers: Headers, body: bytes) -> None:
        """Hold it in memory, if there is room."""
        if self._bytes + call.size_bytes <= CONTENT_BYTES_MAX:
            self._held[call.id] = (headers, body)
            self._bytes += call.size_bytes

    def drop(self, call_id: str) -> None:
        """The call is over."""
        if (held := self._held.pop(call_id, None)) is not None:
            self._bytes -= len(held[1]) + sum(len(name) + len(value) for name, value in held[0])
