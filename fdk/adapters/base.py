"""What all adapters share: the call as an HTTP request, the answer as an outcome, failures as the FDK has them."""

from __future__ import annotations

import os
import sys
from contextvars import copy_context
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from fdk import constants, event_handler, log
from fdk.context import context_from_headers
from fdk.runner import Outcome, _failed, _failure, _header_list, _outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType, TracebackType
    from typing import Any, Protocol

    class App(Protocol):
        """What an adapter makes of the author's handler."""

        def begin(self) -> None:
            """Once in each instance, before its first call."""

        def answer(self, request: Request) -> Reply:
            """Run the handler. What it raises is a failed call."""


ROOT_VARIABLE = "STOKER_ROOT_PATH"
"""Configuration: the path at which the app is mounted, below ``/t/APP`` unless it begins with ``/t/``."""
_H = "fn-http-h-"
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade"})
_OURS = ("fn-call-id", "fn-deadline", "fn-intent", "fn-http-method", "fn-http-request-url")
_HERE = os.path.dirname(os.path.abspath(__file__))


class Request:
    """A call as an HTTP request: the trigger's own, or for a direct invoke ``POST /`` with the caller's headers."""

    __slots__ = (
        "body",
        "call_id",
        "deadline",
        "gateway",
        "headers",
        "host",
        "method",
        "path",
        "query",
        "raw_path",
        "root",
        "scheme",
    )

    def __init__(self, *, call_id: str, deadline: str, headers: Iterable[Sequence[str]], body: bytes) -> None:
        """``headers``: pairs as the Fn server sends them to a function; repeated ones stay repeated."""
        pairs = [(name.lower(), value) for name, value in headers]
        fields = dict(pairs)
        self.call_id = call_id
        self.deadline = deadline
        self.body = body
        self.gateway = fields.get(constants.FN_INTENT) == constants.INTENT_HTTP_REQUEST
        url = urlsplit(fields.get("fn-http-request-url", "")) if self.gateway else urlsplit("")
        self.method = fields.get("fn-http-method", "POST") if self.gateway else "POST"
        self.scheme = url.scheme or "http"
        self.raw_path = url.path or "/"
        self.path = unquote(self.raw_path)
        """Percent-decoded, ``root`` included."""
        self.query = url.query
        self.root = _root(self.path) if self.gateway else ""
        if self.gateway:
            self.headers = [
                (name[len(_H) :] if name.startswith(_H) else name, value)
                for name, value in pairs
                if name.startswith(_H) or name == "content-type"
            ]
        else:
            self.headers = [pair for pair in pairs if pair[0] not in _OURS and pair[0] not in _FRAMING]
        self.headers = [pair for pair in self.headers if pair[0] not in _FRAMING]
        self.host = url.netloc or self.header("host") or "localhost"
        if url.netloc and not self.header("host"):
            self.headers.insert(0, ("host", url.netloc))
        if body:
            self.headers.append(("content-length", str(len(body))))

    def header(self, name: str) -> str:
        """The first value, or the empty string."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def path_bytes(self) -> bytes:
        """The path's bytes, percent-decoded."""
        return unquote_to_bytes(self.raw_path)


class Reply:
    """What the author's code answered, as HTTP."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class AdapterRunner:
    """The place of `fdk.runner.Runner` for a function with an adapter."""

    __slots__ = ("_app", "_frame_header", "_frame_name", "module")

    def __init__(self, app: App, module: ModuleType | None) -> None:
        """``module``: the author's, for its warm-up hook; None when it has none."""
        self._app = app
        self.module = module
        name, header = os.environ.get(constants.FN_LOGFRAME_NAME), os.environ.get(constants.FN_LOGFRAME_HDR)
        self._frame_name = name if header else None
        self._frame_header = (header or "").lower()

    def begin(self) -> None:
        """Once in each instance, before it says that it is ready. What it raises is why the instance cannot start."""
        self._app.begin()

    def call(self, *, call_id: str, deadline: str, headers: Iterable[Sequence[str]], body: bytes) -> Outcome:
        """As `fdk.runner.Runner.call`."""
        pairs = list(headers)
        if self._frame_name is not None:
            found = {name.lower(): value for name, value in pairs}
            event_handler.print_frame(self._frame_name, found.get(self._frame_header))
        log.set_request_id(call_id)
        request = Request(call_id=call_id, deadline=deadline, headers=pairs, body=body)
        return copy_context().run(self._answer, request)

    def _answer(self, request: Request) -> Outcome:
        try:
            reply = self._app.answer(request)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            return self._failed(request, exc)
        try:
            return outcome(request, reply)
        except Exception as exc:
            text = f"Error: Writing response failed, connection closed {exc!r}".encode(errors="replace")
            headers = [("content-type", "text/plain; charset=utf-8")]
            return Outcome(502, headers, text, _failure("invalid-response", exc))

    @staticmethod
    def _failed(request: Request, exc: BaseException) -> Outcome:
        context = context_from_headers({constants.FN_CALL_ID: request.call_id})
        response, failure = _failed(context, exc.with_traceback(_authors_part(exc)))
        return _outcome(response, failure)


def outcome(request: Request, reply: Reply) -> Outcome:
    """The answer in the form of the Fn contract: through a trigger the client gets status and headers as they are.

    Raises:
      ValueError: a header that would break the reply, or a status that is none.
    """
    status = int(reply.status)
    if not 200 <= status <= 999:
        raise ValueError(f"status {status}: must be 200 to 999")
    found: list[tuple[str, str]] = []
    for name, value in reply.headers:
        checked = _header_list({str(name).lower(): str(value)})[0]  # one by one: they may be repeated
        if checked[0] != str(name).lower():
            continue  # a framing header: only the default content type was left
        if request.gateway and checked[0] != constants.CONTENT_TYPE:
            checked = (_H + checked[0], checked[1])
        found.append(checked)
    if not any(name == constants.CONTENT_TYPE for name, _ in found):
        found.append((constants.CONTENT_TYPE, "application/octet-stream" if reply.body else "text/plain"))
    found.append(("fn-http-status", str(status)))
    found.append((constants.FN_FDK_VERSION, constants.VERSION_HEADER_VALUE))
    found.append((constants.FN_FDK_RUNTIME, constants.RUNTIME_HEADER_VALUE))
    return Outcome(200, found, bytes(reply.body))


def import_handler(path: str, handler_name: str) -> tuple[ModuleType, Any]:
    """The module at ``path``, under the name of its file, and its attribute ``handler_name``.

    Raises:
      AttributeError: there is no such handler.
    """
    import importlib.util

    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{os.path.basename(path)} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    found = getattr(module, handler_name, None)
    if not callable(found):
        raise AttributeError(f"{os.path.basename(path)} has no callable {handler_name!r}")
    return module, found


def _root(path: str) -> str:
    root = os.environ.get(ROOT_VARIABLE, "").rstrip("/")
    if not root.startswith("/t/"):
        root = f"/t/{os.environ.get(constants.FN_APP_NAME, '')}{root}"
    return root if path == root or path.startswith(root + "/") else ""


def _authors_part(exc: BaseException) -> TracebackType | None:
    found = exc.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_HERE) and found.tb_next is not None:
        found = found.tb_next
    return found
