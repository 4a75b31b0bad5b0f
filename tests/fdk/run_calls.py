"""Answers calls with `fdk.runner.Runner`, as Stoker's worker does. Arguments: file, handler, descriptor.
Calls come as JSON on stdin, answers go to the descriptor, one a line."""

import base64
import importlib.util
import json
import os
import sys

from fdk import runner

path, name, descriptor = sys.argv[1:]
spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
runner.prepare(module, name)
run = runner.Runner(module, name)
with os.fdopen(int(descriptor), "w") as answers:
    for line in sys.stdin:
        call = json.loads(line)
        call["body"] = base64.b64decode(call["body"])
        outcome = run.call(**call)
        failure = outcome.failure and [outcome.failure.kind, outcome.failure.message, outcome.failure.traceback]
        body = base64.b64encode(outcome.body).decode()
        answer = [outcome.status, outcome.headers, body, failure, "asyncio" in sys.modules]
        print(json.dumps(answer), file=answers, flush=True)
