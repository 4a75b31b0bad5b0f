"""Questions about many recorded calls: the answers are those of a plain loop, and do not take the calls into memory."""

from __future__ import annotations

import sqlite3
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.settings import Records
from daemon.store import record_file
from daemon.telemetry import advice, recorder
from daemon.telemetry.calls import COLD, CallRecord
from daemon.telemetry.recorder import Question
from tests.services.world import SilentLog

CALLS = 20_000
BLOCK = 250
BYTES_MAX = 4 * 2**20
"""In memory for one answer; the records alone of so many calls are four times that."""


def record(number: int) -> CallRecord:
    """Every twentieth call is slow, every fiftieth a cold start, every hundredth fails."""
    return CallRecord(
        id=f"{number:026d}", function_id=f"F{number % 3}", app_id=f"A{number % 3 % 2}", function="f", version=1,
        instance=1 + number % 7, kind="trigger" if number % 5 == 0 else "sync",
        start_kind="reuse" if number % 50 else "fork", at=1000.0 + number, queue_s=0.001, start_s=0.0, template_s=0.0,
        fork_s=0.0, init_s=0.0, handler_s=1.0 + number / CALLS if number % 20 == 0 else 0.01, write_s=0.0,
        status=502 if number % 100 == 0 else 200, error="function-failed" if number % 100 == 0 else "", fault="none",
        detail="", bytes_in=1, bytes_out=1, cpu_s=0.001, memory_bytes=1000 + number, caller=f"c{number % 4}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    conn = record_file._prepare(Path(tmp_path_factory.mktemp("questions")) / "records.db")
    for first in range(0, CALLS, BLOCK):
        record_file.add_calls(conn, [record(number) for number in range(first, first + BLOCK)])
    yield conn
    conn.close()


def fits(question: Question, call: CallRecord) -> bool:
    return (
        question.since <= call.at <= question.until
        and question.function_id in ("", call.function_id)
        and question.app_id in ("", call.app_id)
        and (question.visible is None or call.function_id in question.visible)
        and (not question.failed or bool(call.error))
        and question.kind in ("", call.kind)
        and question.caller in ("", call.caller)
        and (not question.cold or call.start_kind in COLD)
        and call.total_s >= question.longer_s
        and (not question.before_id or call.id < question.before_id)
    )


questions = st.builds(
    Question, app_id=st.sampled_from(["", "A0", "A1", "A2"]), function_id=st.sampled_from(["", "F0", "F1", "F3"]),
    failed=st.booleans(), kind=st.sampled_from(["", "sync", "trigger"]), caller=st.sampled_from(["", "c0", "c3"]),
    cold=st.booleans(), longer_s=st.sampled_from([0.0, 0.011, 1.5]), since=st.sampled_from([0.0, 1100.0]),
    until=st.sampled_from([1900.0, float("inf")]), visible=st.sampled_from([None, frozenset({"F0", "F1"})]),
    before_id=st.sampled_from(["", f"{500:026d}"]),
)  # fmt: skip


@given(questions)
def test_what_fits_is_what_a_plain_loop_finds(question: Question) -> None:
    calls = [record(number) for number in range(0, 1000, 5)]
    assert list(question.of(calls)) == [call for call in calls if fits(question, call)]


def test_the_slowest_twentieth_is_found_without_the_others_in_memory(conn: sqlite3.Connection) -> None:
    tracemalloc.start()
    found = recorder._find(Question(slow=True), 50, conn)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    totals = sorted(record(number).total_s for number in range(CALLS))
    slow_s = totals[CALLS * 95 // 100]
    slow = [call for number in reversed(range(CALLS)) if (call := record(number)).total_s >= slow_s]
    assert (found.records, found.more, found.scanned, found.slow_s) == (slow[:50], True, CALLS, slow_s)
    assert peak_bytes < BYTES_MAX


def test_of_a_function_and_of_nothing(conn: sqlite3.Connection) -> None:
    found = recorder._find(Question(slow=True, function_id="F1", app_id="A1"), 1000, conn)
    chosen = [call for number in range(CALLS) if fits(Question(function_id="F1", app_id="A1"), call := record(number))]
    slow_s = sorted(call.total_s for call in chosen)[len(chosen) * 95 // 100]
    assert [call.id for call in found.records] == [call.id for call in reversed(chosen) if call.total_s >= slow_s][
        :1000
    ]
    assert recorder._find(Question(slow=True, function_id="nobody"), 50, conn).records == []


async def test_a_call_is_found_whose_id_is_of_before_the_clock_went_back(tmp_path: Path) -> None:
    recorder_ = recorder.Recorder(Records(), log=SilentLog())
    async with recorder_.opened(tmp_path / "records.db"):
        stored = [record(number)._replace(at=time.time() - 60.0) for number in range(3)]
        await recorder_.file.write(lambda conn: record_file.add_calls(conn, stored))
        for at in (time.time() - 60.0, time.time() + 3600.0):
            assert await recorder_.get(stored[1].id, at=at) == stored[1]
        assert await recorder_.get(stored[1].id, at=time.time() - 30.0) is None, "its id says when"


def test_advice_does_not_take_the_calls_into_memory(conn: sqlite3.Connection) -> None:
    tracemalloc.start()
    calls = advice._calls(conn, "F1", 0.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(calls.spans) == len(range(1, CALLS, 3))
    assert calls.complete
    assert peak_bytes < BYTES_MAX
