"""`Response`: what a handler returns when it has more to say than a body."""

from __future__ import annotations

from fdk import constants

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from typing import Any

    from fdk.context import InvokeContext


_FDK_HEADERS = {
    constants.FN_FDK_VERSION: constants.VERSION_HEADER_VALUE,
    constants.FN_FDK_RUNTIME: constants.RUNTIME_HEADER_VALUE,
}


class Response:
    """Body, headers and status of one answer."""

    def __init__(
        self,
        ctx: InvokeContext,
        response_data: Any = None,
        headers: dict[str, Any] | None = None,
        status_code: int = 200,
        response_encoding: str = "utf-8",
    ) -> None:
        """``response_data``: bytes are sent as they are, nothing for a falsy value, anything else as ``str()``.

        ``headers`` is changed: the FDK's two headers are added to it. ``status_code`` reaches the client through
        an HTTP trigger; a direct invoke answers 200, 502 or 504 only.
        """
        self.ctx = ctx
        self.status_code = status_code
        self.response_data = response_data or ""
        self.response_encoding = response_encoding
        if headers is None:
            headers = {}
        headers.update(_FDK_HEADERS)
        ctx.SetResponseHeaders(headers, status_code)

    def status(self) -> int:
        """The status that the handler wants."""
        return self.status_code

    def body(self) -> Any:
        """The data as it was given; an empty string for a falsy one."""
        return self.response_data

    def body_bytes(self) -> bytes | bytearray:
        """The data as it is sent."""
        data = self.response_data
        if isinstance(data, (bytes, bytearray)):
            return data
        return str(data).encode(self.response_encoding)

    def context(self) -> InvokeContext:
        """The call that this answers."""
        return self.ctx
