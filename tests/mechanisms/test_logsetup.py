"""The daemon's own log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from daemon.config.settings import Logs
from daemon.logsetup import setup_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _leave_the_root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_it_is_json_where_nobody_looks_and_text_on_a_terminal() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    setup_logging(Logs(), pipe).info("ready", url="http://x", pid=3)
    setup_logging(Logs(), terminal).info("ready", url="http://x", pid=3)
    ((entry),) = lines(pipe)
    assert entry.pop("timestamp")
    assert entry == {"event": "ready", "level": "info", "url": "http://x", "pid": 3}
    assert "ready" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize(("setting", "is_json"), [("json", True), ("text", False)])
def test_the_form_can_be_chosen(setting: str, is_json: bool) -> None:
    for stream in (io.StringIO(), Terminal()):
        setup_logging(Logs(format=setting), stream).info("ready")
        assert stream.getvalue().startswith("{") == is_json


def test_the_level_counts() -> None:
    stream = io.StringIO()
    log = setup_logging(Logs(level="warning"), stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [entry["event"] for entry in lines(stream)] == ["c", "d"]


def test_an_exception_comes_with_its_traceback_and_without_values() -> None:
    for setting in ("json", "text"):
        stream = io.StringIO()
        log = setup_logging(Logs(format=setting), stream)
        try:
            secret = "do not tell"
            raise ValueError("broken" + secret[:0])
        except ValueError:
            log.exception("failed")
        assert "ValueError: broken" in stream.getvalue()
        assert "Traceback" in stream.getvalue()
        assert "do not tell" not in stream.getvalue().replace('secret = "do not tell"', "")


def test_a_line_feed_in_a_value_makes_no_second_entry() -> None:
    stream = io.StringIO()
    setup_logging(Logs(format="json"), stream).info("said", line='x\n{"event": "forged"}')
    assert [entry["event"] for entry in lines(stream)] == ["said"]


def test_what_libraries_say_from_warning_on_comes_along_once() -> None:
    old, stream = io.StringIO(), io.StringIO()
    setup_logging(Logs(format="json"), old)
    setup_logging(Logs(format="json"), stream)
    logging.getLogger("hypercorn.error").info("chatter")
    logging.getLogger("hypercorn.error").warning("%s is wrong", "something")
    assert old.getvalue() == ""
    assert [(e["event"], e["level"], e["logger"]) for e in lines(stream)] == [
        ("something is wrong", "warning", "hypercorn.error")
    ]


def test_values_that_are_no_json_are_shown_anyway() -> None:
    stream = io.StringIO()
    setup_logging(Logs(format="json"), stream).info("x", path=Terminal, data=b"\xff")
    assert len(lines(stream)) == 1
