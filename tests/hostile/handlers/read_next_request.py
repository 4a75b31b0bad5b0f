"""A thread reads the pipe that calls come from. Must happen: an error or the right answer for the next call, no hang."""

import json
import os
import threading

stolen = []
nap = threading.Event()


def steal():
    while True:
        data = os.read(3, 65536)
        stolen.append(len(data))
        if not data:
            return


def handler(ctx, data=None):
    told = json.loads(data.getvalue() or b"{}")
    if told.get("steal"):
        threading.Thread(target=steal, daemon=True).start()
        nap.wait(0.05)
    return json.dumps({"violations": [], "facts": {"stolen": stolen}, "echo": told.get("echo")})
