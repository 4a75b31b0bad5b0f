"""Functions written for Google's functions-framework: that package, from the function's own requirements, runs them.

Its ``create_app`` gives a WSGI application (for ``functions_framework.aio`` an ASGI one) that knows all signatures
(http, cloudevent) and does its own parsing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from fdk import constants
from fdk.adapters.base import AdapterRunner
from fdk.adapters.wsgi import WsgiApp

SIGNATURES = {"google-http": "http", "google-event": "cloudevent"}


def make(name: str, path: str, handler_name: str) -> AdapterRunner:
    """Runner of the function ``handler_name`` of the file at ``path``.

    Raises:
      ImportError: functions-framework is not in the bundle.
    """
    os.environ.setdefault("FUNCTION_TARGET", handler_name)
    os.environ.setdefault("FUNCTION_SIGNATURE_TYPE", SIGNATURES[name])
    os.environ.setdefault("K_SERVICE", os.environ.get(constants.FN_NAME, handler_name))
    os.environ.setdefault("K_REVISION", os.environ.get(constants.FN_ID, "1"))
    try:
        framework = import_module("functions_framework")
    except ModuleNotFoundError as exc:
        if exc.name != "functions_framework":
            raise
        raise ImportError(
            f"the adapter {name} needs functions-framework: add the line 'functions-framework' to requirements.txt"
        ) from None
    application = framework.create_app(handler_name, path, SIGNATURES[name])
    module = sys.modules.get(os.path.splitext(os.path.basename(path))[0])
    if hasattr(application, "wsgi_app"):
        return AdapterRunner(WsgiApp(application), module)
    from fdk.adapters.asgi import AsgiApp  # a function that functions_framework.aio decorates

    return AdapterRunner(AsgiApp(application), module)
