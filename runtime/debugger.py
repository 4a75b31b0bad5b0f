"""Puts an instance under debugpy, for ``stoker dev --debug``: the editor attaches to a socket of the host's.

The daemon made that socket and put it where standard input is: a socket belongs to the network that it was made in, so
the editor reaches it on the host's loopback whatever network the function has, and none of the walls has to go.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys

STDIN = 0
_QUIET = "PYDEVD_DISABLE_FILE_VALIDATION"
"""Without it debugpy warns, in the function's output, that the standard library's frozen modules have no files."""


class NoDebugger(Exception):
    """debugpy cannot be used; the text says why."""


def listen(directory: str) -> None:
    """Have debugpy accept editors from now on, and look at this thread. ``directory``: debugpy's own.

    Raises:
      NoDebugger: with what debugpy says.
    """
    listener = socket.socket(fileno=os.dup(STDIN))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, STDIN)
    os.close(null)
    known = os.environ.get(_QUIET)
    os.environ[_QUIET] = "1"
    try:
        # Not by the search path: what else lies beside debugpy is not the function's.
        spec = importlib.util.spec_from_file_location(
            "debugpy", os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"no debugpy in {directory}")
        debugpy = sys.modules["debugpy"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(debugpy)
        importlib.import_module("debugpy.server.api")
        pydevd = sys.modules["pydevd"]
        pydevd.create_server_socket = lambda host, port: listener  # type: ignore[attr-defined]
        debugpy.listen(listener.getsockname()[:2], in_process_debug_adapter=True)
        debugpy.debug_this_thread()
    except Exception as exc:
        raise NoDebugger(f"debugpy cannot be used: {type(exc).__name__}: {exc}") from exc
    finally:
        if known is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = known
