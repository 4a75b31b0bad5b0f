"""WSGI applications (PEP 3333): Flask, Django, Bottle, or a plain callable."""

from __future__ import annotations

import sys
from io import BytesIO

from fdk.adapters.base import AdapterRunner, Reply, Request, import_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def make(name: str, path: str, handler_name: str) -> AdapterRunner:
    """Runner of the application ``handler_name`` of the file at ``path``."""
    module, application = import_handler(path, handler_name)
    return AdapterRunner(WsgiApp(application), module)


class WsgiApp:
    """One WSGI application."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def begin(self) -> None:
        """Nothing to do: WSGI has no start-up."""

    def answer(self, request: Request) -> Reply:
        """Run the application to its end. The whole body is collected: replies are not streamed."""
        started: list[tuple[str, list[tuple[str, str]]]] = []
        body: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., object]:
            if started and exc_info is None:
                raise AssertionError("start_response was called twice without exc_info")
            if exc_info is not None:
                try:
                    if body:  # PEP 3333: what was sent cannot be taken back
                        raise exc_info[1].with_traceback(exc_info[2])
                finally:
                    exc_info = None
            started[:] = [(status, list(headers))]
            return body.append

        result = self._application(environ(request), start_response)
        try:
            body.extend(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        if not started:
            raise RuntimeError("the WSGI application did not call start_response")
        status, headers = started[0]
        texts = [(name, _text(str(value))) for name, value in headers]
        return Reply(int(status.split(" ", 1)[0]), texts, b"".join(body))


def environ(request: Request) -> dict[str, Any]:
    """The request as PEP 3333 has it. Text is latin-1 decoded bytes, as the standard demands."""
    host, _, port = request.host.rpartition(":") if ":" in request.host.rpartition("]")[2] else (request.host, "", "")
    path = request.path_bytes.decode("latin-1")
    root = request.root.encode().decode("latin-1")
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": root,
        "PATH_INFO": path[len(root) :] or ("" if root else "/"),
        "RAW_URI": request.raw_path + (f"?{request.query}" if request.query else ""),
        "QUERY_STRING": request.query,
        "SERVER_NAME": host.strip("[]") or "localhost",
        "SERVER_PORT": port or ("443" if request.scheme == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "stoker.call_id": request.call_id,
        "stoker.deadline": request.deadline,
    }
    for name, value in request.headers:
        if name == "content-length":
            continue
        key = "CONTENT_TYPE" if name == "content-type" else "HTTP_" + name.upper().replace("-", "_")
        joiner = "; " if name == "cookie" else ","
        value = value.encode("utf-8", "surrogateescape").decode("latin-1")
        found[key] = f"{found[key]}{joiner}{value}" if key in found else value
    return found


def _text(value: str) -> str:
    """What an application says as the standard demands, bytes decoded as latin-1, or as text although it should not."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
