"""Functions that overrun their timeout: a busy loop, and one with grandchildren that ignore signals."""

import io
import json
import subprocess
import sys
from typing import Any

GRANDCHILD = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    os._exit(0)
os.setsid()
end = time.monotonic() + 30  # should nobody kill it
while time.monotonic() < end:
    pass
"""


def handler(ctx: Any, data: io.BytesIO) -> None:
    order = json.loads(data.getvalue())
    if order.get("grandchildren"):
        # The mark on the command line lets the bench see when they are gone; they end with the instance, or the bench
        # reports that they did not.
        subprocess.Popen([sys.executable, "-I", "-c", GRANDCHILD, order["mark"]])
    while True:
        pass
