"""Every way a request can fail: whose fault it is, what the client sees, whether the instance survives.

The tree (the parents are abstract and refuse to be raised)::

    StokerError
    ├── CallerError            the client asked for something wrong
    │   ├── BadRequest (LimitExceeded MissingParameter CannotParse)  Conflict (NameTaken IncorrectState)
    │   ├── StaleEtag  PayloadTooLarge  Forbidden  NotFound  MethodNotAllowed  RequestTimeout
    │   ├── RequestTooLarge  HeadersTooLarge  InvalidFunction  LayerMissing
    ├── FunctionError          the function, its code or its settings
    │   ├── FunctionFailed     the handler raised; the instance goes on
    │   ├── HandlerTimeout     the handler itself answered 504; the instance goes on
    │   ├── FunctionCrashed  FunctionTimeout  FunctionOutOfMemory
    │   ├── InvalidResponse  ResponseTooLarge  ResponseHeadersTooLarge
    │   ├── InitFailed  InitTimeout  BundleMissing  DeployFailed
    ├── NodeError              this machine has no room just now
    │   ├── QueueFull (with ConcurrencyLimit)  QueueTimeout  TooLargeForNode  Draining
    └── PlatformError          our fault
        └── InternalError

``message`` is the exact text of the Fn server where it has one (reference: fn agent, models/error.go), because
users and tests match on it; ``detail`` says what happened here, with the numbers. ``code`` is ours and stable.
"""

from __future__ import annotations

from typing import Any, ClassVar


class StokerError(Exception):
    """Root of the tree. ``str(error)`` is ``message`` and, when there is one, ``: detail``."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = ""
    oci_code: ClassVar[str] = "InternalServerError"
    fault: ClassVar[str] = "platform"
    """One of ``caller``, ``function``, ``node``, ``platform``; the label in metrics and call records."""
    instance_survives: ClassVar[bool] = True
    """False: the instance that was running the call is killed."""
    retry_after_s: ClassVar[int | None] = None
    """Sent as ``Retry-After`` when set."""
    default_message: ClassVar[str] = "internal server error"

    def __init__(self, message: str | None = None, *, detail: str = "", call_id: str = "") -> None:
        if not type(self).code:
            raise TypeError(f"{type(self).__name__} is abstract: raise one of its leaves")
        self.message = message if message is not None else self.default_message
        self.detail = detail
        self.call_id = call_id
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message

    def to_json(self) -> dict[str, Any]:
        """The reply's body. ``message`` alone is Fn's; the other members are ours and only present when known."""
        body: dict[str, Any] = {"message": self.message, "code": self.code}
        if self.detail:
            body["detail"] = self.detail
        if self.call_id:
            body["call_id"] = self.call_id
        return body


class CallerError(StokerError):
    """The client asked for something wrong. Nothing was run."""

    status, fault, oci_code = 400, "caller", "InvalidParameter"


class BadRequest(CallerError):
    """The request cannot be understood or breaks a rule; the message names the field and what is allowed."""

    code, default_message = "bad-request", "bad request"


class LimitExceeded(BadRequest):
    """A service limit of the node would be exceeded; the message has the arithmetic."""

    code, oci_code, default_message = "limit-exceeded", "LimitExceeded", "service limit exceeded"


class NotAuthenticated(CallerError):
    """In ``auth.mode: iam``: not signed by anybody we know, or not well; which of these only the log says."""

    status, code, oci_code = 401, "not-authenticated", "NotAuthenticated"
    default_message = "The required information to complete authentication was not provided or was incorrect."


class MissingParameter(BadRequest):
    """A query parameter that the operation needs is not there (OCI API)."""

    code, oci_code, default_message = "missing-parameter", "MissingParameter", "missing parameter"


class CannotParse(BadRequest):
    """The body is not JSON, or not an object (OCI API)."""

    code, oci_code, default_message = "cannot-parse", "CannotParseRequest", "cannot parse the request's body"


class Forbidden(CallerError):
    """Host or Origin is not one that may use this listener, or the principal may not do this."""

    status, code, oci_code, default_message = 403, "forbidden", "NotAllowed", "forbidden"


class NotFound(CallerError):
    """There is no such app, function, trigger, version, bundle or path."""

    status, code, oci_code, default_message = 404, "not-found", "NotAuthorizedOrNotFound", "not found"


class MethodNotAllowed(CallerError):
    """The path exists, but not with this method."""

    status, code, oci_code, default_message = 405, "method-not-allowed", "MethodNotAllowed", "Method not allowed"


class RequestTimeout(CallerError):
    """The client took too long to send its request (RFC 9110 section 15.5.9)."""

    status, code, default_message = 408, "request-timeout", "request was not received in time"


class Conflict(CallerError):
    """The name is taken, or the change is not allowed in this state."""

    status, code, oci_code, default_message = 409, "conflict", "Conflict", "conflict"


class NameTaken(Conflict):
    """There is one with this name already (OCI API)."""

    code, oci_code = "name-taken", "NotAuthorizedOrResourceAlreadyExists"


class IncorrectState(Conflict):
    """The resource is still being created or changed; OCI's clients try again by themselves (OCI API)."""

    code, oci_code = "incorrect-state", "IncorrectState"


class StaleEtag(CallerError):
    """``if-match`` names another state of the resource than the present one (OCI API)."""

    status, code, oci_code, default_message = 412, "stale-etag", "NoEtagMatch", "the resource has been changed"


class PayloadTooLarge(CallerError):
    """The body of a management request, or the archive in it, is over its limit."""

    status, code, oci_code, default_message = 413, "payload-too-large", "PayloadTooLarge", "request body too large"


class RequestTooLarge(CallerError):
    """The request's body is over ``http.body_bytes_max``."""

    status, code, oci_code = 413, "request-too-large", "FunctionInvokeRequestContentTooLarge"
    default_message = "Request content too large"


class HeadersTooLarge(CallerError):
    """Request line or headers are over their limit (RFC 6585 section 5)."""

    status, code, oci_code = 431, "headers-too-large", "RequestHeaderFieldsTooLarge"
    default_message = "request headers too large"


class InvalidFunction(CallerError):
    """The bundle or its func.yaml breaks a rule."""

    code, default_message = "invalid-function", "invalid function"


class LayerMissing(CallerError):
    """A bundle names a layer of dependencies that is not on this node: it has to be uploaded first."""

    status, code, oci_code, default_message = 409, "layer-missing", "IncorrectState", "layer missing"


class FunctionError(StokerError):
    """The function's fault: counted against it, never against the platform."""

    status, fault, oci_code = 502, "function", "FunctionInvokeExecutionFailed"


class FunctionFailed(FunctionError):
    """The handler raised (the FDK answered 502). The instance goes on."""

    code, default_message = "function-failed", "function failed"


class HandlerTimeout(FunctionError):
    """The handler raised TimeoutError (the FDK answered 504). The instance goes on."""

    status, code, oci_code, default_message = 504, "handler-timeout", "FunctionInvokeTimeout", "Timed out"


class FunctionCrashed(FunctionError):
    """The worker ended during the call: exit, signal, connection lost."""

    code, oci_code, instance_survives = "function-crashed", "FunctionInvokeExecutionError", False
    default_message = "error receiving function response"


class FunctionTimeout(FunctionError):
    """The call overran its timeout. The instance is killed."""

    status, code, oci_code, instance_survives = 504, "function-timeout", "FunctionInvokeTimeout", False
    default_message = "Timed out"


class FunctionOutOfMemory(FunctionError):
    """The instance and its children went over the function's memory. The instance is killed."""

    code, oci_code, instance_survives = "function-out-of-memory", "FunctionInvokeExecutionError", False
    default_message = "function out of memory"


class InvalidResponse(FunctionError):
    """The worker broke the protocol: garbage, a forged frame, an illegal status. The instance is killed."""

    code, oci_code, instance_survives = "invalid-response", "FunctionInvokeInvalidResponse", False
    default_message = "invalid function response"


class ResponseTooLarge(FunctionError):
    """The answer's body is over ``limits.response_bytes_max``."""

    code, oci_code = "response-too-large", "FunctionInvokeResponseBodyTooLarge"
    default_message = "function response body too large"


class ResponseHeadersTooLarge(FunctionError):
    """The answer's headers are over ``limits.response_header_bytes_max``. The instance is killed."""

    code, oci_code, instance_survives = (
        "response-headers-too-large", "FunctionInvokeResponseHeaderTooLarge", False)  # fmt: skip
    default_message = "function response header too large"


class InitFailed(FunctionError):
    """The worker ended or raised before it was ready; ``detail`` carries the traceback."""

    code, oci_code, instance_survives = "init-failed", "FunctionInvokeContainerInitFail", False
    default_message = "Container failed to initialize, please ensure you are using the latest fdk and check the logs"


class InitTimeout(FunctionError):
    """The worker was not ready within ``limits.start_s``."""

    status, code, oci_code, instance_survives = 504, "init-timeout", "FunctionInvokeContainerInitTimeout", False
    default_message = (
        "Container initialization timed out, please ensure you are using the latest fdk and check the logs"
    )


class BundleMissing(FunctionError):
    """The function's ``image`` names no bundle that was pushed to this node."""

    code, oci_code, default_message = "bundle-missing", "FunctionInvokeImageNotAvailable", "Failed to pull image"


class DeployFailed(FunctionError):
    """The canary instance of a new version did not become ready. The old version goes on serving."""

    status, code, oci_code, default_message = 422, "deploy-failed", "UnprocessableEntity", "cannot deploy"


class NodeError(StokerError):
    """No room on this machine just now. Nothing was run; the client may try again."""

    status, fault, oci_code = 503, "node", "FunctionInvokeServiceUnavailable"
    retry_after_s: ClassVar[int | None] = 15
    default_message = "Timed out - server too busy"


class QueueFull(NodeError):
    """All places of the function's queue are taken."""

    status, code, oci_code, default_message = 429, "queue-full", "TooManyRequests", "too many requests"


class ConcurrencyLimit(QueueFull):
    """The calls that run and wait hold all of ``limits.concurrency_mib`` (OCI: total-concurrency-mb)."""

    code = "concurrency-limit"


class QueueTimeout(NodeError):
    """No instance became free within ``limits.queue_s``."""

    code = "node-busy"


class TooLargeForNode(NodeError):
    """The function's memory is more than the node's whole budget (Fn: models.ErrCallResourceTooBig)."""

    status, code = 400, "too-large-for-node"
    retry_after_s = None
    default_message = "Requested CPU/Memory cannot be allocated"


class Draining(NodeError):
    """The daemon is stopping."""

    code = "draining"


class PlatformError(StokerError):
    """Our fault."""


class InternalError(PlatformError):
    """A bug in Stoker. The log has the traceback."""

    code, instance_survives = "internal-error", False


def leaves(root: type[StokerError] = StokerError) -> list[type[StokerError]]:
    """Every error that can be raised, in the tree's order. The reference and the metrics are made from this."""
    found = [root] if root.code else []
    for child in root.__subclasses__():
        found += leaves(child)
    return found
