"""``fdk func.py [handler]``: serve a function as the Fn process contract wants it; ``python -m fdk`` is the same."""

from __future__ import annotations

import os
import sys

import fdk
from fdk import customer_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve on the unix socket that FN_LISTENER names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not 1 <= len(arguments) <= 2:
        _usage("fdk <func_module> [entrypoint]")
    fdk.handle(_function(*arguments))


def main_tcp_debug(arguments: Sequence[str] | None = None) -> None:
    """Serve on a TCP port of 127.0.0.1."""
    from fdk import server

    arguments = sys.argv[1:] if arguments is None else arguments
    if not 2 <= len(arguments) <= 3 or not arguments[0].isdigit():
        _usage("fdk-tcp-debug <port> <func_module> [entrypoint]")
    server.serve_tcp(_function(*arguments[1:]), int(arguments[0]))


def _function(path: str, entrypoint: str = "handler") -> customer_code.Function:
    if not os.path.exists(path):
        sys.exit(f"Module: {path} doesn't exist")
    return customer_code.Function(path, entrypoint=entrypoint)


def _usage(line: str) -> None:
    print(f"Usage: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
