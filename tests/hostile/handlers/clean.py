"""Benign: answers with who it is. The tests call it before, during and after every attack."""

import json
import os

calls = 0


def handler(ctx, data=None):
    global calls
    calls += 1
    return json.dumps({"echo": data.getvalue().decode(), "pid": os.getpid(), "calls": calls, "violations": []})
