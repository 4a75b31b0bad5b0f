"""What ``scripts/run`` shows: the daemon starts, a function is deployed, is called cold and hot, and goes on serving."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DATA = ROOT / ".stoker"
HOT_CALLS = 50


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the daemon must not outlive us
        signal.signal(number, signal.default_int_handler)
    command = [BIN / "stokerd", "--data", DATA, *sys.argv[1:]]
    # A group of its own: Ctrl-C comes to us alone, and we ask the daemon once to drain.
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert daemon.stdout is not None
        line = daemon.stdout.readline().strip()
        if not line.startswith("ready "):
            return daemon.wait()
        url = line.removeprefix("ready ")
        if demonstrate(url):
            daemon.wait()
    except KeyboardInterrupt:
        print("\nstopping: running calls finish (Ctrl-C again does not wait)", flush=True)
    finally:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait()
            except KeyboardInterrupt:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()
    return daemon.returncode


def demonstrate(url: str) -> bool:
    """Deploy the example, call it, print what a user wants to know. False: the deploy failed."""
    stoker = [str(BIN / "stoker"), "--url", url]
    deployed = subprocess.run([*stoker, "deploy", "--app", "demo", "--create-app", str(ROOT / "examples" / "hello")])
    if deployed.returncode:
        return False
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    app = get(connection, "/v2/apps?name=demo")["items"][0]
    function = get(connection, f"/v2/fns?app_id={app['id']}&name=hello")["items"][0]
    post(connection, f"/stoker/v1/functions/{function['id']}/restart")  # the canary is warm: a cold call needs none
    path = f"/invoke/{function['id']}"
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)  # calls have a faster way
    cold_s, body = timed(connection, path)
    hot_s = sorted(timed(connection, path)[0] for _ in range(HOT_CALLS))[HOT_CALLS // 2]
    print(f"\n  answer     {body.decode().strip()}")
    print(f"  cold call  {cold_s * 1000:.1f} ms   (a new worker was forked for it)")
    print(f"  hot call   {hot_s * 1000:.2f} ms   (median of {HOT_CALLS})")
    print(f"\nserving on {url} until Ctrl-C. Next, in another terminal:\n")
    shown = "" if url.endswith(":8080") else f"--url {url} "
    print(f'  .venv/bin/stoker {shown}invoke demo hello -d \'{{"name": "you"}}\'')
    print(f"  .venv/bin/stoker {shown}init --runtime python mine && .venv/bin/stoker {shown}deploy --app demo mine\n")
    sys.stdout.flush()
    return True


def timed(connection: http.client.HTTPConnection, path: str) -> tuple[float, bytes]:
    """Seconds and body of one call that must succeed."""
    began_s = time.perf_counter()
    connection.request("POST", path, body=b"world")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise SystemExit(f"the call failed: {response.status} {body.decode(errors='replace')}")
    return time.perf_counter() - began_s, body


def get(connection: http.client.HTTPConnection, path: str) -> dict:
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def post(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("POST", path, body=b"{}")
    connection.getresponse().read()


if __name__ == "__main__":
    sys.exit(main())
