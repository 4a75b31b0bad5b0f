"""The table of faults: what the user sees must hold ``evidence`` (the cause) and ``step`` (the cure).

``docs/how-to/troubleshooting.md`` is made from it: ``python -m tests.faults.table`` writes the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "troubleshooting.md"


@dataclass(frozen=True)
class Fault:
    key: str
    where: str
    evidence: tuple[str, ...]
    step: tuple[str, ...]
    cause: str
    cure: str


DEPLOY, INVOKE, START, LOG, CLI = "stoker deploy", "stoker invoke", "stokerd, at start", "stokerd's log", "stoker"
CONFIG, PUSH, API = "stokerd, at start", "stoker push", "error reply"

FAULTS = [
    Fault("wrong-handler-name", DEPLOY, ("has no function 'handle'", "func.py"), ("deploy again",),
          "The entrypoint names a function that func.py does not define.",
          "Correct `entrypoint:` in func.yaml, or the name in func.py; deploy again. The old version goes on serving."),
    Fault("import-error", DEPLOY, ("broken at the top",), ("deploy again",),
          "The module raises while it is imported; its traceback is in the message.",
          "Mend the line that the traceback names and deploy again."),
    Fault("missing-dependency", DEPLOY, ("No module named 'not_there_at_all'",), ("requirements.txt",),
          "The function imports a module that its bundle does not have.", "Add it to requirements.txt; deploy again."),
    Fault("no-such-python", DEPLOY, ("there is no python3.10 on this machine",), ("change 'runtime:'", "install"),
          "func.yaml asks for a Python that this machine lacks, or that is older than 3.11.",
          "Change `runtime:` to one of those listed, or install it."),
    Fault("func-yaml-field", DEPLOY, ("func.yaml line", "memory"), ("must be",),
          "A field of func.yaml has a value that is not allowed.", "Set it to what the message allows."),
    Fault("bundle-not-pushed", INVOKE, ("Failed to pull image", "no bundle of this name was pushed"), ("stoker push",),
          "The function names an image that was never pushed to this node.", "`stoker push`, or `stoker deploy`."),
    Fault("handler-raises", INVOKE, ("function-failed",), ("traceback", "stoker logs"),
          "The handler raised an exception.", "`stoker logs APP FN --call ID` shows its traceback."),
    Fault("handler-exits", INVOKE, ("function-crashed", "exit code 3"), ("log say where", "stoker logs"),
          "The worker's process ended during the call.", "Look at the last lines of the call's log."),
    Fault("handler-crashes", INVOKE, ("function-crashed", "SIGSEGV"), ("log say where", "stoker logs"),
          "Native code crashed the worker.", "Look at the last lines of the log; update the module that crashed."),
    Fault("timeout", INVOKE, ("function-timeout", "Timed out"), ("--timeout SECONDS",),
          "The call ran longer than the function's timeout.",
          "Give every wait a timeout of its own, raise `--timeout`, or call it detached."),
    Fault("out-of-memory", INVOKE, ("function out of memory", "limit 64 MiB", "peak"), ("--memory MIB",),
          "The instance went over its memory.", "`stoker update function APP FN --memory MIB`, or hold less at once."),
    Fault("garbage-in-pipe", INVOKE, ("invalid-response",), ("descriptors that it did not open",),
          "The function wrote into a descriptor that belongs to the platform.",
          "Write nothing to descriptors that the function did not open."),
    Fault("answer-too-large", INVOKE, ("response-too-large", "body"), ("reference to the data",),
          "The answer is over 6 MiB.", "Answer with a reference, or raise `limits.response_bytes_max`."),
    Fault("queue-full", API, ("queue-full", "too many requests"), ("limits.queue_max", "provision"),
          "More calls wait for the function than `limits.queue_max`.",
          "Call less at once, give the node more memory, or provision instances."),
    Fault("function-too-large", INVOKE, ("too-large-for-node", "the node has"), ("limits.memory_mib",),
          "The function needs more memory than the whole node may give.",
          "Give the function less, or raise `limits.memory_mib`."),
    Fault("node-out-of-memory", INVOKE, ("node-busy", "MiB are taken"), ("limits.memory_mib", "stoker ps"),
          "Other functions hold all of the node's memory.", "`stoker ps` shows which; raise `limits.memory_mib`."),
    Fault("provisioned-count", CLI, ("provisioned", "3"), ("must be", "40"),
          "The count does not follow OCI's rule (PCUs) for this memory.",
          "Take one of the counts that the message allows, or set `pcu.steps: any`."),
    Fault("unknown-function", CLI, ("function helo not found",), ("did you mean hello?",),
          "There is no function of this name in the app.", "`stoker ls functions APP` lists what there is."),
    Fault("hostile-archive", API, ("invalid-function", "../evil"), ("push again",),
          "The archive has a member that would be written outside of the bundle.", "Take that member out; push again."),
    Fault("daemon-not-running", CLI, ("cannot reach the daemon", "Connection refused"), ("stokerd --data",),
          "No daemon listens at the address.", "Start `stokerd`, or name another with `--url` or `STOKER_URL`."),
    Fault("port-taken", START, ("cannot listen on 127.0.0.1:", "Address already in use"), ("--listen 127.0.0.1:0",),
          "Another program listens on the port.", "Stop it, or choose another with `--listen`."),
    Fault("socket-in-use", START, ("cannot listen on", "another daemon does"), ("--socket",),
          "Another daemon answers on the unix socket.", "Stop it, or choose another with `--socket`."),
    Fault("socket-path-taken", START, ("something else than a socket is there",), ("move it away", "--socket"),
          "A file or directory is where the unix socket should be.", "Move it away, or give another `--socket`."),
    Fault("data-in-use", START, ("cannot use data directory", "another stokerd is using it"), ("--data",),
          "Two daemons cannot share a data directory.", "Stop the other one, or choose another with `--data`."),
    Fault("data-not-writable", START, ("cannot use data directory",), ("choose another with --data",),
          "The data directory cannot be made or written.", "Correct its owner and mode, or choose another `--data`."),
    Fault("disk-full", API, ("internal-error", "disk is full"), ("make room on its disk",),
          "The disk of the data directory is full.",
          "Make room and try again; nothing that was acknowledged is lost."),
    Fault("disk-full-at-start", START, ("disk is full",), ("make room on its disk",),
          "The disk of the data directory is full when the daemon starts.", "Make room on it and start again."),
    Fault("database-damaged", START, ("cannot use", "stoker.db", "not a database"), ("restore a copy", ".recover"),
          "stoker.db is damaged.", "Restore a copy, or save what can be read with sqlite3's `.recover`."),
    Fault("database-newer", START, ("written by a newer Stoker",), ("install that version again", "restore"),
          "stoker.db was written by a newer version.", "Install that version, or restore a copy from before."),
    Fault("records-damaged", LOG, ("call records cannot be read", "not a database"), ("nothing has to be done",),
          "records.db is damaged: it is set aside and begun anew; functions and settings are not touched.",
          "Nothing; remove the file that was set aside."),
    Fault("unknown-setting", CONFIG, ("line 2: unknown setting limits.memory_mb",), ("known in limits:", "memory_mib"),
          "The configuration has a key that does not exist.", "Take one of those listed; `docs/reference/config.md`."),
    Fault("bad-certificate", START, ("cannot use", "cert.pem"), ("must be PEM", "belong together"),
          "The TLS certificate or key cannot be used.", "Give PEM files that belong together, without a passphrase."),
    Fault("certificate-missing", START, ("cannot read", "No such file"), ("http.tls_certificate",),
          "The certificate's file is not there or not readable.", "Correct `http.tls_certificate` and its rights."),
    Fault("sandbox-floor", START, ("sandbox.floor is A", "missing"), ("stokerd --doctor", "--insecure"),
          "The machine does not give the level of separation that `sandbox.floor` asks for.",
          "`stokerd --doctor` says how to get what is missing."),
    Fault("exposed", START, ("http.listen", "0.0.0.0"), ("--insecure",),
          "The daemon would be reachable from other machines without authentication or TLS.",
          "Set `auth.mode: iam` and a certificate, listen on loopback, or say `--insecure` in a trusted network."),
    Fault("unsigned", CLI, ("required information to complete authentication",), ("STOKER_TOKEN",),
          "The node is in mode iam and the request says nobody's name.", "Sign it, or send a token."),
    Fault("unknown-key", LOG, ("not authenticated", "no key"), ("stoker iam user ls", "stoker iam key rotate"),
          "The key of the signature is not known here, or was revoked.", "`stoker iam key rotate USER`."),
    Fault("revoked-token", LOG, ("not authenticated", "no such bearer token"), ("stoker iam token USER",),
          "The bearer token was revoked, or never was one.", "Make a new one: `stoker iam token USER`."),
    Fault("clock-skew", LOG, ("not authenticated", "s from our clock", "300 s are allowed"), ("clock", "NTP"),
          "The clocks of client and node differ by more than five minutes.", "Set them by NTP."),
    Fault("no-policy", API, ("not-found", "lacks FN_INVOCATION"), ("stoker iam explain",),
          "No policy allows it; who may not see a thing is told that it is not there.",
          "`stoker iam explain USER ACTION` says what lacks; add a policy."),
]  # fmt: skip


def page() -> str:
    """The how-to."""
    lines = [
        "<!-- Generated by python -m tests.faults.table: change the table, then run it. -->",
        "# When something goes wrong",
        "",
        "Every message says what went wrong and what to do. `stoker explain CODE` tells more about an error's code",
        "([all codes](../reference/errors.md)), `stoker call ID` and `stoker logs APP FN --call ID` about one call,",
        "`stoker doctor` about the machine. A test causes each fault below for real and looks for these words.",
        "",
        "| Where | You see | Cause | Cure |",
        "|---|---|---|---|",
    ]
    for f in FAULTS:
        seen = " ... ".join(f"`{text}`" for text in f.evidence)
        lines.append(f"| {f.where} | {seen} | {f.cause} | {f.cure} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
