"""Kill -9 in the middle of accepting and running: every call that was acknowledged runs, none is lost.

The function tells the test the number of each call; what was acknowledged is compared with that at the end. Sixty
kills here; STOKER_TEST_KILLS=1000 is the long run.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.detached.effects import Effects, ready
from tests.detached.test_accept import DETACHED
from tests.detached.test_accept import effects as effects
from tests.system.daemon import Daemon, eventually, run_daemon

KILLS = int(os.environ.get("STOKER_TEST_KILLS", "60"))
SEED = int(os.environ.get("STOKER_TEST_SEED", "20261121"))
CLIENTS = 3
CONFIG = "detached: {interruptions_max: 1000000}"
"""Some calls are cut by many kills in a row here, and are to run all the same."""

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120 + KILLS * 12)]

SOURCE = """
import time
def handler(ctx, data=None):
    number = int(data.getvalue().split()[0])
    tell(str(number))
    if number % 50 == 0:
        time.sleep(0.3 if number % 500 == 0 else 0.1)
    return ""
"""


class Client(threading.Thread):
    """Sends numbered detached calls on one connection until the daemon is gone."""

    def __init__(self, daemon: Daemon, function: str, numbers: list[int], rng: random.Random) -> None:
        super().__init__()
        self.daemon_, self.function, self.numbers, self.rng = daemon, function, numbers, rng
        self.acknowledged: list[int] = []
        self.pending: list[int] = []
        self.refused = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon_.port, timeout=60)
        try:
            while self.numbers:
                number = self.numbers.pop()
                self.pending.append(number)
                body = b"%d " % number + b"x" * self.rng.choice([0, 0, 100, 5_000])
                connection.request("POST", f"/invoke/{self.function}", body, DETACHED)
                reply = connection.getresponse()
                reply.read()
                if reply.status == 202:
                    self.acknowledged.append(number)
                else:
                    assert reply.status == 429, reply.status
                    self.refused += 1
                self.pending.pop()
        except (OSError, http.client.HTTPException):
            return  # the daemon is gone: what was pending may or may not have been accepted
        finally:
            connection.close()


def test_no_acknowledged_call_is_lost_in_many_kills(data: Path, effects: Effects) -> None:
    rng = random.Random(SEED)
    acknowledged: list[int] = []
    unknown: set[int] = set()
    refused, function = 0, ""
    numbers = list(range(10_000_000, 0, -1))
    began_s = time.monotonic()
    for _ in range(KILLS):
        with run_daemon(data, config=CONFIG) as daemon:
            if not function:
                function = ready(daemon).deploy("f", effects.source + SOURCE)
            clients = [Client(daemon, function, numbers, rng) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(0.0, 0.4))  # not a wait for something: the moment of the kill
            daemon.process.kill()
            daemon.process.wait()
            for client in clients:
                client.join()
                acknowledged += client.acknowledged
                unknown |= set(client.pending)
                refused += client.refused
    with run_daemon(data, config=CONFIG) as daemon:

        def over() -> bool:
            state = daemon.api("GET", "/stoker/v1/detached")
            return not state["waiting"] and not state["running"]

        eventually(over, what="everything that was accepted has run")
        assert daemon.api("GET", "/stoker/v1/detached")["dead_letters"] == 0
        log = daemon.stderr()
        assert "Traceback" not in log
    restored = [json.loads(line)["waiting"] for line in log.splitlines() if "calls of an earlier daemon" in line]
    ran = Counter(map(int, effects.told))
    lost = [number for number in acknowledged if number not in ran]
    twice = sum(count > 1 for count in ran.values())
    surprises = set(ran) - set(acknowledged) - unknown
    print(
        f"kills {KILLS}, acknowledged {len(acknowledged)}, lost {len(lost)}, ran more than once {twice}"
        f" (at most {max(ran.values())} times), unknown {len(unknown)} of which ran {len(unknown & set(ran))},"
        f" refused {refused}, restarts that found calls {len(restored)} with up to {max(restored, default=0)},"
        f" {time.monotonic() - began_s:.0f} s"
    )
    assert lost == []
    assert surprises == set(), "nothing runs that nobody sent"
    assert len(acknowledged) > 3 * KILLS, "the kills came too early to prove much"
    assert len(restored) > KILLS / 10, "hardly a kill left a call behind: little was proved"
