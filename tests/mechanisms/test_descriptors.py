"""A low limit of open files lowers the other limits, and a node that is full of it is like any full node."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.settings import Http, Limits
from daemon.descriptors import OWN, PER_INSTANCE, PER_TEMPLATE, within
from tests.system.daemon import run_daemon

SLEEPER = "import time\ndef handler(ctx, data=None):\n    time.sleep(0.05)\n    return 'fine'\n"
CALLS = 60


@given(st.integers(0, 100_000) | st.integers(OWN, OWN + 100))
def test_what_is_allowed_fits(descriptors: int) -> None:
    limits, http = within(Limits(), Http(), descriptors)
    needed = OWN + http.connections_max + PER_INSTANCE * limits.instances_max + PER_TEMPLATE * limits.templates_max
    assert min(http.connections_max, limits.instances_max, limits.templates_max) >= 1
    assert needed <= max(descriptors, OWN + 1 + PER_INSTANCE + PER_TEMPLATE)


def test_as_many_as_the_unit_gives_lower_nothing() -> None:
    assert within(Limits(), Http(), 65536) == (Limits(), Http())


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_few_descriptors_make_calls_wait_not_fail(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = data.parent / "python"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 256\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    with run_daemon(data) as daemon:
        functions = [daemon.deploy(f"f{number}", SLEEPER) for number in range(6)]
        answers: Counter[str] = Counter()

        def call(function: str) -> None:
            reply = daemon.invoke(function)
            answers[f"{reply.status} {reply.body.decode()}"] += 1

        threads = [threading.Thread(target=call, args=(functions[n % len(functions)],)) for n in range(CALLS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {"200 fine": CALLS}
        told = [json.loads(line) for line in daemon.stderr().splitlines()]
        assert [line["open_files"] for line in told if line["event"].startswith("the limit of open files is low")] == [
            256
        ]
        assert [line for line in told if line["level"] == "error"] == []
