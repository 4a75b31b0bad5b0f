"""What to do about each error: the next step, in a sentence or two. Pure; a test holds it to `daemon.errors`."""

from __future__ import annotations

__all__ = ["CURES"]

CURES: dict[str, str] = {
    # The client asked for something wrong.
    "bad-request": "The message names the field and what is allowed: correct the request.",
    "limit-exceeded": "Delete or shrink what is not needed, or raise the limit that the message names in the daemon's "
    "configuration.",
    "missing-parameter": "Add the parameter that the message names; list operations of the OCI API need a "
    "compartmentId or an applicationId.",
    "cannot-parse": "Send one JSON object, UTF-8, with every name once.",
    "not-authenticated": "Check that the key is known ('stoker iam user ls'), that key file and fingerprint in "
    "~/.oci/config belong together, and that the clock is right to five minutes; the daemon's log says which it was.",
    "forbidden": "From a browser: open the page again. From a program: use the listener's own name or address as Host "
    "(http.hosts allows more), and no Origin of another site.",
    "not-found": "Check the name or id ('stoker ls'). In auth.mode: iam, what no policy allows looks the same: "
    "'stoker iam explain' says whether one does.",
    "method-not-allowed": "Use another method; docs/reference/api.md lists them. Functions are invoked with POST.",
    "request-timeout": "Send the request without pauses; http.header_s and http.body_s are how long it may take.",
    "conflict": "Choose another name, or change the thing that has it; the message says what is in the way.",
    "name-taken": "Choose another name, or update the one that is there.",
    "incorrect-state": "Wait until it is ACTIVE and try again.",
    "stale-etag": "Somebody changed it meanwhile: read it again, and send its new etag as if-match.",
    "payload-too-large": "Send less, or put what is large somewhere else and send a reference to it.",
    "request-too-large": "Send less at once, or a reference to where the data is; http.body_bytes_max is the limit.",
    "headers-too-large": "Send fewer or shorter headers; http.header_bytes_max and http.headers_max are the limits.",
    "invalid-function": "The message names the member of the archive or the field of func.yaml: correct it and push "
    "again.",
    "layer-missing": "Send the layer first: 'stoker deploy' does so by itself.",
    # The function's code or settings.
    "function-failed": "The handler raised an exception: its traceback is in the logs of this call "
    "('stoker logs APP FN --call ID').",
    "handler-timeout": "The handler itself raised TimeoutError: see what it waited for in the logs of this call.",
    "function-crashed": "The worker's process ended during the call (exit, signal, or a crash in native code): the "
    "detail says how, the last lines of its log say where.",
    "function-timeout": "The call ran longer than the function's timeout and its instance was killed. Look for a wait "
    "without a timeout of its own, raise it ('stoker update function APP FN --timeout SECONDS'), or call it detached.",
    "function-out-of-memory": "The instance went over its memory and was killed. Raise it ('stoker update function APP "
    "FN --memory MIB'), or hold less in memory at once.",
    "invalid-response": "The worker broke the protocol, or answered with a status other than 200, 502 and 504. Check "
    "that the function writes nothing to descriptors that it did not open.",
    "response-too-large": "Answer with a reference to the data instead; limits.response_bytes_max is the limit.",
    "response-headers-too-large": "Answer with fewer or shorter headers; limits.response_header_bytes_max is how much "
    "is allowed.",
    "init-failed": "The function could not be imported: the traceback is in the detail, and what it printed is in its "
    "log ('stoker logs APP FN'). A module that is not found belongs into requirements.txt.",
    "init-timeout": "Import and warm-up took longer than limits.start_s: move work out of the module's top level, or "
    "raise the limit.",
    "bundle-missing": "Push a bundle under the name of the function's image: 'stoker push DIR NAME:VERSION', or "
    "'stoker deploy'.",
    "deploy-failed": "The new version did not start; one that served before goes on serving. The detail is its "
    "traceback: mend it and deploy again.",
    # No room just now.
    "queue-full": "More calls wait than limits.queue_max: the function is slower than its calls come. Call less at "
    "once, give the node more memory, or provision instances.",
    "concurrency-limit": "As many calls run as the service limit allows: try again later, or raise the limit that the "
    "message names in the daemon's configuration.",
    "node-busy": "No instance became free in time: 'stoker ps' shows what holds the node's memory; limits.memory_mib "
    "is how much there is.",
    "too-large-for-node": "Give the function less memory, or the node more (limits.memory_mib).",
    "draining": "The daemon is stopping: try again in a moment.",
    # Ours.
    "internal-error": "Where the detail names a disk or a file, mend that and try again: nothing that was acknowledged "
    "is lost. Otherwise this is a bug in Stoker: the daemon's log has the traceback, please report it.",
}
"""By the error's code."""
