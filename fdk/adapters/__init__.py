"""Handlers written for other platforms, run as functions: thin layers between a call and what the handler expects.

A function names its adapter with the annotation ``stoker.dev/adapter``. Nothing in here is imported for a function
that has none. The standard library is enough, but for ``google-http`` and ``google-event``: those need
``functions-framework`` in the function's own requirements.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from fdk.adapters.base import AdapterRunner

ADAPTERS = {
    "lambda": "fdk.adapters.aws",
    "google-http": "fdk.adapters.google",
    "google-event": "fdk.adapters.google",
    "wsgi": "fdk.adapters.wsgi",
    "asgi": "fdk.adapters.asgi",
}
"""Name -> module. Each module has ``make(name, path, handler_name)``, which imports the author's module."""


def load(name: str, path: str, handler_name: str) -> AdapterRunner:
    """Import the module at ``path`` as the adapter wants it, and give what calls its ``handler_name``.

    Raises whatever the author's module raises; ValueError for an unknown adapter; AttributeError when there is no
    such handler.
    """
    from importlib import import_module

    if name not in ADAPTERS:
        raise ValueError(f"there is no adapter {name!r}; known: {', '.join(ADAPTERS)}")
    runner: AdapterRunner = import_module(ADAPTERS[name]).make(name, path, handler_name)
    return runner
