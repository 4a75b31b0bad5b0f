"""Signals that come when nobody expects them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.daemon import PATIENCE_S, ROOT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


def test_a_reload_while_the_daemon_starts_does_not_end_it(data: Path) -> None:
    """A certificate's renewal comes when it comes: at any moment after the daemon has its data directory."""
    command = [sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            end_s, sent, line = time.monotonic() + PATIENCE_S, 0, b""
            while not line and process.poll() is None and time.monotonic() < end_s:
                if (data / "stokerd.lock").exists():
                    process.send_signal(signal.SIGHUP)
                    sent += 1
                time.sleep(0.005)
                line = process.stdout.readline()
            assert process.poll() is None, f"ended with {process.returncode} after {sent} reloads"
            assert line.startswith(b"ready http://")
            assert sent, "none came while it started"
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
