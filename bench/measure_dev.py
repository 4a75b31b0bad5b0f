"""The developer's loop: from a saved file to the first call that runs it, with ``stoker dev`` watching."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench import stoker as stokers
from bench.budgets import Figure
from bench.processes import BenchError, Server
from bench.stats import Sample
from bench.stoker import Stoker

ASK_S = 0.002
"""Between two calls while the new version is awaited: what the figure can be too long by."""
LIVE_S = 60.0
"""Longest time for one save, and for the first deploy."""
SETTLE_S = 0.5
"""Between an answer and the next save: people do not save while the last save is being deployed."""
SOURCE = "REVISION = {}\n\n\ndef handler(ctx, data=None):\n    return str(REVISION)\n"


def saves_ms(stoker: Stoker, scratch: Path, count: int) -> list[float]:
    """Milliseconds from the save to the answer of the new code, for each of ``count`` saves.

    Raises:
      BenchError: the new code never answered.
    """
    home = scratch / "watched"
    home.mkdir()
    (home / "func.yaml").write_text("schema_version: 20180708\nname: watched\nversion: 0.0.1\nruntime: python\n")
    (home / "func.py").write_text(SOURCE.format(0))
    command = [sys.executable, "-m", "cli", "dev", "--url", stoker.url, "--app", stokers.APP, home]
    env = {"XDG_CACHE_HOME": str(scratch / "cache"), "PYTHONPATH": str(stokers.ROOT), "PYTHONUNBUFFERED": "1"}
    server = Server(command, log=scratch / "dev.log", env=env)
    try:
        stoker.wait(lambda: "Watching" in server.output(), "stoker dev that watches")
        app_id = stoker.app()
        (function,) = stoker.api("GET", f"/v2/fns?app_id={app_id}&name=watched")["items"]
        return [_save_ms(stoker, function["id"], home / "func.py", number + 1) for number in range(count)]
    finally:
        server.stop()


def _save_ms(stoker: Stoker, function_id: str, path: Path, number: int) -> float:
    time.sleep(SETTLE_S)
    new = path.with_name(".func.py.new")
    new.write_text(SOURCE.format(number))
    began_s = time.perf_counter()
    os.replace(new, path)
    while (took_s := time.perf_counter() - began_s) < LIVE_S:
        reply = stoker.call(function_id)
        if reply.status != 200:
            raise BenchError(f"a call while a save was deployed was answered {reply.status} {reply.body[:500]!r}")
        if reply.body == b"%d" % number:
            return took_s * 1e3
        time.sleep(ASK_S)
    raise BenchError(f"the saved code did not answer within {LIVE_S:g} s")


def figure(saves_ms: list[float]) -> Figure:
    """The row of the report."""
    return Figure(
        "save", "`stoker dev`: save a file until the next call runs it", "ms", Sample.of(saves_ms),
        note=f"calls go on every {ASK_S * 1e3:g} ms meanwhile; none fails",
    )  # fmt: skip
