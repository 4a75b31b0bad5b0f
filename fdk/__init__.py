"""Stoker's function development kit: what a function imports. Source-compatible with the official Python FDK of Fn.

``from fdk import response`` and a ``def handler(ctx, data=None)`` are all that a function needs. Importing this
package sets logging up and costs nothing else: asyncio comes in only when a handler needs it.
"""

from __future__ import annotations

from fdk import constants, log

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from fdk import customer_code

__all__ = ["constants", "handle", "log", "start"]

_ON_DEMAND = {
    "context",
    "customer_code",
    "errors",
    "event_handler",
    "fixtures",
    "headers",
    "response",
    "runner",
}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        from importlib import import_module

        return import_module(f"fdk.{name}")
    raise AttributeError(f"module 'fdk' has no attribute {name!r}")


def start(handle_code: customer_code.Function, uds: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Serve the function on the unix socket ``uds`` (``unix:/path`` or a path) until SIGTERM or SIGINT."""
    from fdk import server

    server.serve_unix(handle_code, uds, loop=loop)


def handle(handle_code: customer_code.Function) -> None:
    """Serve the function as the environment says: FN_FORMAT and FN_LISTENER. Returns after SIGTERM or SIGINT.

    Ends the process when the environment is wrong, or when it is given a bare handler: that form was given up by Fn
    in 2019, and the function is started by ``fdk func.py handler`` instead.
    """
    import os
    import sys

    from fdk import customer_code

    if not isinstance(handle_code, customer_code.Function):
        name = getattr(handle_code, "__name__", repr(handle_code))
        sys.exit(
            f"fdk.handle({name}) cannot be called from a function's own file any more: "
            f"remove it, and start the function with `fdk <file> {name}`"
        )
    listener = os.environ.get(constants.FN_LISTENER)
    if listener is None:
        sys.exit(f"{constants.FN_LISTENER} is not set")
    if os.environ.get(constants.FN_FORMAT) != constants.HTTPSTREAM:
        sys.exit(f"incompatible function format! {constants.FN_FORMAT} must be {constants.HTTPSTREAM}")
    start(handle_code, listener)
