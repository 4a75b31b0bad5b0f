"""Names of the Fn contract: environment variables, values, and headers in lower case, as handlers see them."""

import sys

from fdk import version

ASYNC_IO_READ_BUFFER = 65536
DEFAULT_DEADLINE = 30
"""Seconds from now that `InvokeContext.Deadline` gives when the caller set none."""

HTTPSTREAM = "http-stream"
INTENT_HTTP_REQUEST = "httprequest"

FN_FORMAT = "FN_FORMAT"
FN_LISTENER = "FN_LISTENER"
FN_APP_ID = "FN_APP_ID"
FN_ID = "FN_FN_ID"
FN_APP_NAME = "FN_APP_NAME"
FN_NAME = "FN_FN_NAME"
FN_LOGFRAME_NAME = "FN_LOGFRAME_NAME"
FN_LOGFRAME_HDR = "FN_LOGFRAME_HDR"
OCI_TRACE_COLLECTOR_URL = "OCI_TRACE_COLLECTOR_URL"
OCI_TRACING_ENABLED = "OCI_TRACING_ENABLED"

CONTENT_LENGTH = "content-length"
CONTENT_TYPE = "content-type"
FN_CALL_ID = "fn-call-id"
FN_DEADLINE = "fn-deadline"
FN_FDK_RUNTIME = "fn-fdk-runtime"
FN_FDK_VERSION = "fn-fdk-version"
FN_HTTP_METHOD = "fn-http-method"
FN_HTTP_PREFIX = "fn-http-h-"
FN_HTTP_REQUEST_URL = "fn-http-request-url"
FN_HTTP_STATUS = "fn-http-status"
FN_INTENT = "fn-intent"
X_B3_FLAGS = "x-b3-flags"
X_B3_PARENTSPANID = "x-b3-parentspanid"
X_B3_SAMPLED = "x-b3-sampled"
X_B3_SPANID = "x-b3-spanid"
X_B3_TRACEID = "x-b3-traceid"

FN_ENFORCED_RESPONSE_CODES = [200, 502, 504]
"""The only statuses a function process may answer with; the server kills it for any other."""
FN_DEFAULT_RESPONSE_CODE = 200
"""What any other status becomes. In gateway mode the real one travels in ``fn-http-status``."""

VERSION_HEADER_VALUE = f"fdk-python/{version.VERSION}"
RUNTIME_HEADER_VALUE = "python/{}.{}.{} {}".format(*sys.version_info[:4])


def is_py37() -> bool:
    """Whether this is Python 3.7. Kept because code written for the official FDK may ask."""
    return sys.version_info[:2] == (3, 7)
