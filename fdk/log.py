"""Logging as functions of Fn know it: the root logger writes everything to stderr, each line led by its call id.

Importing this module sets the root logger up, as importing the official FDK does: authors' modules call
``logging.getLogger().info(...)`` and expect to find it so.
"""

from __future__ import annotations

import logging
import os
import sys
from contextvars import ContextVar

_DEBUG_WORDS = {"true", "1", "t", "y", "yes", "yeah", "yup", "certainly", "uh-huh"}

__fn_request_id__: ContextVar[str | None] = ContextVar("fn_request_id", default=None)


def set_request_id(rid: str | None) -> None:
    """From now on lines logged in this context are led by ``rid``."""
    __fn_request_id__.set(rid)


class RequestFormatter(logging.Formatter):
    """Gives each record the call id as ``fn_request_id``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``."""
        record.fn_request_id = __fn_request_id__.get()
        return super().format(record)


def _set_up() -> logging.Logger:
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RequestFormatter("%(fn_request_id)s - %(name)s - %(levelname)s - %(message)s"))
    root.addHandler(handler)
    own = logging.getLogger("fdk")
    own.setLevel(logging.DEBUG if os.environ.get("FDK_DEBUG") in _DEBUG_WORDS else logging.WARNING)
    return own


__log__ = _set_up()
__request_log__ = logging.getLogger("fn")


def get_logger() -> logging.Logger:
    """The FDK's own logger; it is quiet unless FDK_DEBUG is set."""
    return __log__


def log(message: str) -> None:
    """A debug line of the FDK itself."""
    __log__.debug(message)


def get_request_log() -> logging.Logger:
    """The logger that a handler's exception goes to."""
    return __request_log__
