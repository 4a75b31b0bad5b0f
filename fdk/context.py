"""What a handler gets to know about its call: `InvokeContext`, and in it a `TracingContext`."""

from __future__ import annotations

import os
from collections import namedtuple

from fdk import constants
from fdk import headers as hs

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_environ_get = os.environ.get

ZipkinAttrs = namedtuple("ZipkinAttrs", "trace_id, span_id, parent_span_id, is_sampled, flags")


class InvokeContext:
    """One call, as the first argument of its handler. The methods' names are the Fn contract's."""

    def __init__(
        self,
        app_id: str | None,
        app_name: str | None,
        fn_id: str | None,
        fn_name: str | None,
        call_id: str | None,
        content_type: str | None = "application/octet-stream",
        deadline: str | None = None,
        config: Mapping[str, str] | None = None,
        headers: dict[str, Any] | None = None,
        request_url: str | None = None,
        method: str | None = "POST",
        fn_format: str | None = None,
        tracing_context: TracingContext | None = None,
    ) -> None:
        """``headers`` in lower case; ``deadline`` as RFC 3339; ``config`` is the environment in a real call."""
        self.__app_id = app_id
        self.__app_name = app_name
        self.__fn_id = fn_id
        self.__fn_name = fn_name
        self.__call_id = call_id
        self.__config = config or {}
        self.__headers = headers or {}
        self.__http_headers: dict[str, Any] = {}
        self.__deadline = deadline
        self.__content_type = content_type
        self._request_url = request_url
        self._method = method
        self.__response_headers: dict[str, Any] = {}
        self.__fn_format = fn_format
        self.__tracing_context = tracing_context or None
        if self.__headers.get(constants.FN_INTENT) == constants.INTENT_HTTP_REQUEST:
            self.__headers = hs.decap_headers(headers, True)
            self.__http_headers = hs.decap_headers(headers, False)

    def AppID(self) -> str | None:
        """Id of the app."""
        return self.__app_id

    def AppName(self) -> str | None:
        """Name of the app."""
        return self.__app_name

    def FnID(self) -> str | None:
        """Id of the function."""
        return self.__fn_id

    def FnName(self) -> str | None:
        """Name of the function."""
        return self.__fn_name

    def CallID(self) -> str | None:
        """Id of this call; every line it logs is led by it."""
        return self.__call_id

    def Config(self) -> Mapping[str, str]:
        """The environment: the configuration of app and function, and every other variable."""
        return self.__config

    def Headers(self) -> dict[str, Any]:
        """Request headers, names in lower case. In gateway mode the client's own ones come without prefix and win."""
        return self.__headers

    def HTTPHeaders(self) -> dict[str, Any]:
        """Only the client's own headers of gateway mode; empty on a direct invoke."""
        return self.__http_headers

    def Format(self) -> str | None:
        """How the process talks to the server: ``http-stream``."""
        return self.__fn_format

    def TracingContext(self) -> TracingContext | None:
        """Where and as what this call is traced. Always there in a call, with tracing on or off."""
        if self.__tracing_context is _NOT_TRACED:  # made when somebody asks: nearly no call is traced
            url = _environ_get(constants.OCI_TRACE_COLLECTOR_URL)
            self.__tracing_context = TracingContext(False, url, None, None, None, None, None)
        return self.__tracing_context

    def Deadline(self) -> str:
        """When the call is ended, RFC 3339; 30 s from now when the caller set none."""
        if self.__deadline is None:
            import datetime as dt

            now = dt.datetime.now(dt.timezone.utc).astimezone()  # noqa: UP017
            return (now + dt.timedelta(seconds=constants.DEFAULT_DEADLINE)).isoformat()
        return self.__deadline

    def SetResponseHeaders(self, headers: dict[str, Any], status_code: int) -> None:
        """Add headers to the answer. ``status_code`` counts in gateway mode only."""
        if self.__is_gateway():
            headers = hs.encap_headers(headers, status=status_code)
        for name, value in headers.items():
            self.__response_headers[name.lower()] = value

    def GetResponseHeaders(self) -> dict[str, Any]:
        """The answer's headers so far, prefixed in gateway mode."""
        return self.__response_headers

    def RequestURL(self) -> str | None:
        """The URL that the client asked for; None on a direct invoke."""
        return self._request_url

    def Method(self) -> str | None:
        """The client's HTTP method; None on a direct invoke."""
        return self._method

    def __is_gateway(self) -> bool:
        return bool(self.__headers.get(constants.FN_INTENT) == constants.INTENT_HTTP_REQUEST)


class TracingContext:
    """The B3 headers of a call and the trace collector, in the forms that py_zipkin wants."""

    def __init__(
        self,
        is_tracing_enabled: bool,
        trace_collector_url: str | None,
        trace_id: str | None,
        span_id: str | None,
        parent_span_id: str | None,
        is_sampled: int | None,
        flags: str | None,
    ) -> None:
        """``is_sampled``: 1 when spans are to be sent. The function's names come from the environment."""
        self.__is_tracing_enabled = is_tracing_enabled
        self.__trace_collector_url = trace_collector_url
        self.__trace_id = trace_id
        self.__span_id = span_id
        self.__parent_span_id = parent_span_id
        self.__is_sampled = is_sampled
        self.__flags = flags
        self.__app_name = _environ_get(constants.FN_APP_NAME)
        self.__app_id = _environ_get(constants.FN_APP_ID)
        self.__fn_name = _environ_get(constants.FN_NAME)
        self.__fn_id = _environ_get(constants.FN_ID)
        if is_tracing_enabled:  # the caller's span is the parent of the one that the handler will open
            parent_span_id, span_id = span_id, generate_id()
        self.__zipkin_attrs = ZipkinAttrs(trace_id, span_id, parent_span_id, bool(is_sampled), flags)

    def is_tracing_enabled(self) -> bool:
        """Whether the function is to send spans."""
        return self.__is_tracing_enabled

    def trace_collector_url(self) -> str | None:
        """Where spans go."""
        return self.__trace_collector_url

    def trace_id(self) -> str | None:
        """Id of the whole trace, 16 hexadecimal digits when it was made here."""
        return self.__trace_id

    def span_id(self) -> str | None:
        """The span that the caller sent."""
        return self.__span_id

    def parent_span_id(self) -> str | None:
        """The parent of the span that the caller sent."""
        return self.__parent_span_id

    def is_sampled(self) -> bool:
        """Whether spans of this trace are kept."""
        return bool(self.__is_sampled)

    def flags(self) -> str | None:
        """B3 debug flags."""
        return self.__flags

    def zipkin_attrs(self) -> ZipkinAttrs:
        """For py_zipkin: a new span whose parent is the caller's."""
        return self.__zipkin_attrs

    def service_name(self, override: str | None = None) -> str:
        """``app::function`` in lower case, or ``override``."""
        return (f"{self.__app_name}::{self.__fn_name}" if override is None else override).lower()

    def annotations(self) -> dict[str, str | None]:
        """What a span of this function is labelled with."""
        return {
            "generatedBy": "faas",
            "appName": self.__app_name,
            "appID": self.__app_id,
            "fnName": self.__fn_name,
            "fnID": self.__fn_id,
        }


_NOT_TRACED = TracingContext(False, None, None, None, None, None, None)
"""Stands for the tracing context of a call with tracing off, until it is asked for."""


def generate_id() -> str:
    """A new trace or span id: 64 random bits as 16 hexadecimal digits."""
    return os.urandom(8).hex()  # not the random module: importing it costs 3 ms


def context_from_headers(headers: dict[str, Any]) -> InvokeContext:
    """The context of a call that came with ``headers``, their names in lower case, in the environment as it is now.

    Raises:
      ValueError: tracing is on and OCI_TRACING_ENABLED or x-b3-sampled is not a number.
    """
    enabled = _environ_get(constants.OCI_TRACING_ENABLED)
    get = headers.get
    return InvokeContext(
        _environ_get(constants.FN_APP_ID),
        _environ_get(constants.FN_APP_NAME),
        _environ_get(constants.FN_ID),
        _environ_get(constants.FN_NAME),
        get(constants.FN_CALL_ID),
        get(constants.CONTENT_TYPE),
        get(constants.FN_DEADLINE),
        os.environ,
        headers,
        get(constants.FN_HTTP_REQUEST_URL),
        get(constants.FN_HTTP_METHOD),
        constants.HTTPSTREAM,
        _NOT_TRACED if enabled is None or not int(enabled) else _traced(get),
    )


def _traced(get: Callable[[str], Any]) -> TracingContext:
    trace_id, span_id, sampled = (
        get(name) for name in (constants.X_B3_TRACEID, constants.X_B3_SPANID, constants.X_B3_SAMPLED)
    )
    return TracingContext(
        True,
        _environ_get(constants.OCI_TRACE_COLLECTOR_URL),
        generate_id() if trace_id is None else trace_id,
        generate_id() if span_id is None else span_id,
        get(constants.X_B3_PARENTSPANID),
        1 if sampled is None else int(sampled),
        get(constants.X_B3_FLAGS),
    )


def context_from_format(format_def: str, **kwargs: Any) -> tuple[InvokeContext, Any]:
    """Context and data of a call given as ``headers`` and ``data``. The only format there is is ``http-stream``."""
    if format_def != constants.HTTPSTREAM:
        raise ValueError(f"format {format_def!r} is not {constants.HTTPSTREAM!r}")
    return context_from_headers(kwargs["headers"]), kwargs.get("data")
