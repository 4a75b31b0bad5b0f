"""`DispatchException`: an error that is an answer."""

from __future__ import annotations

from fdk import constants
from fdk.response import Response

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from fdk.context import InvokeContext


class DispatchException(Exception):
    """A failed call, with the status and the text that go to the server."""

    def __init__(self, ctx: InvokeContext, status: int, message: str) -> None:
        """``status``: 502, or 504 for a timeout."""
        self.status = status
        self.message = message
        self.ctx = ctx

    def response(self) -> Response:
        """The answer. Headers that the handler had set stay set."""
        return Response(
            self.ctx,
            response_data=self.message,
            headers={constants.CONTENT_TYPE: "application/json; charset=utf-8"},
            status_code=self.status,
        )
