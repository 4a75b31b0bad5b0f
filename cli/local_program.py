"""The program that runs a handler once, without a daemon; `cli.local` starts it, with the function's own interpreter.

    python -I -S local_program.py ANSWER_FD < request

The request is one line of JSON and the body after it. The answer goes to ANSWER_FD as one line of JSON, with the body
in base64; what the function prints goes where this process's output goes.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    """Run the call that standard input describes."""
    answer_fd = int(sys.argv[1])
    os.set_inheritable(answer_fd, False)
    request = json.loads(sys.stdin.buffer.readline())
    body = sys.stdin.buffer.read()
    # As in a worker: our FDK whatever the bundle holds, and nothing else of what lies beside it.
    sys.path.insert(0, request["fdk"])
    from fdk import runner as fdk_runner

    sys.path[:1] = [entry for entry in (request["directory"], request["packages"]) if entry]
    os.chdir(request["directory"])
    sys.argv[:] = [os.path.join(request["directory"], request["file"])]
    try:
        run = _runner(request, fdk_runner)
    except BaseException as exc:
        answer = {"status": 502, "headers": [], "body": "", "init": True, "traceback": _told(exc)}
    else:
        run.begin()
        outcome = run.call(
            call_id=request["call_id"], deadline=request["deadline"], headers=request["headers"], body=body
        )
        failure = outcome.failure
        answer = {
            "status": outcome.status,
            "headers": [list(pair) for pair in outcome.headers],
            "body": base64.b64encode(outcome.body).decode(),
            "init": False,
            "traceback": failure.traceback if failure is not None else "",
        }
    sys.stdout.flush()
    with open(answer_fd, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _told(exc: BaseException) -> str:
    """The traceback from the first line that is the author's."""
    at = exc.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.startswith(("<frozen importlib", __file__)):
        at = at.tb_next
    return "".join(traceback.format_exception(type(exc), exc, at))


def _runner(request: dict[str, str], fdk_runner: Any) -> Any:
    path = os.path.join(request["directory"], request["file"])
    if request["adapter"]:
        from fdk import adapters

        return adapters.load(request["adapter"], path, request["handler"])
    import importlib.util

    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{request['file']} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, request["handler"], None)):
        raise AttributeError(f"{request['file']} has no function {request['handler']!r}")
    warm_up = getattr(module, "stoker_warm_up", None)
    if warm_up is not None:
        warm_up()
    return fdk_runner.Runner(module, request["handler"])


if __name__ == "__main__":
    main()
