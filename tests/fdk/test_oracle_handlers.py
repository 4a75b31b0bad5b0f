"""The same functions under the official FDK, under ours over HTTP, and under `Runner`: the same answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fdk import oracle
from tests.fdk.differences import DIFFERENT_HANDLERS
from tests.fdk.functions import coroutines, failures, responses, values

pytestmark = [pytest.mark.slow, pytest.mark.processes]

# (file, entry point, a case that is always answered)
SUBJECTS = [
    (values, "handler", "returns_text"),
    (responses, "handler", "responds_with_none"),
    (failures, "handler", "does_not_raise"),
    (coroutines, "handler", "runs_in_a_thread"),
    (coroutines, "plain", "runs_in_a_thread"),
]
CASES = [
    pytest.param(subject, name, id=f"{subject[0].__name__.rpartition('.')[2]}-{subject[1]}-{name}")
    for subject in SUBJECTS
    for name in subject[0].CASES
]


@dataclass
class Subjects:
    official: oracle.HttpFunction
    http: oracle.HttpFunction
    runner: oracle.RunnerFunction


class Starter:
    """Starts the three processes of a subject when it is first asked for."""

    def __init__(self, stack: ExitStack, directory: Any, official: list[str]) -> None:
        self._stack, self._directory, self._official = stack, directory, official
        self._started: dict[tuple[str, str], Subjects] = {}

    def __call__(self, module: Any, entrypoint: str) -> Subjects:
        key = (module.__name__, entrypoint)
        if key not in self._started:
            file = Path(module.__file__)
            home = self._directory.mktemp("oracle")
            enter = self._stack.enter_context
            self._started[key] = Subjects(
                enter(oracle.serve(self._official, file, entrypoint=entrypoint, directory=home / "official")),
                enter(oracle.serve(oracle.ours(), file, entrypoint=entrypoint, directory=home / "http")),
                enter(oracle.run(file, entrypoint=entrypoint, directory=home / "runner")),
            )
        return self._started[key]


@pytest.fixture(scope="module")
def start(official_fdk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with ExitStack() as stack:
        yield Starter(stack, tmp_path_factory, official_fdk)


@pytest.mark.parametrize(("subject", "name"), CASES)
def test_a_function_answers_as_under_the_official_fdk(start: Starter, subject: Any, name: str) -> None:
    module, entrypoint, always_answered = subject
    started, case = start(module, entrypoint), module.CASES[name]
    headers = [("X-Case", name), *case.headers]
    if case.answered:
        official = started.official.call(headers, case.body)
    else:
        official = started.official.call_until([("X-Case", always_answered)], headers, case.body)
    http = started.http.call(headers, case.body)
    runner = started.runner.call(headers, case.body)
    assert http == runner
    if name in DIFFERENT_HANDLERS:
        assert http != official, "no difference any more: take it off the list and out of the table"
    else:
        assert http == official


def test_no_plain_function_made_the_worker_import_asyncio(start: Starter) -> None:
    runner = start(values, "handler").runner
    runner.call([("X-Case", "returns_text")])
    assert not runner.has_asyncio
    async_runner = start(coroutines, "handler").runner
    async_runner.call([("X-Case", "awaits")])
    assert async_runner.has_asyncio


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (values, "logs"),
        (failures, "raises"),
        (failures, "raises_with_unicode"),
        (failures, "raises_from_another"),
        (failures, "raises_timeout_error"),
        (failures, "raises_key_error"),
    ],
)
def test_a_call_logs_the_same_lines(start: Starter, module: Any, name: str) -> None:
    started = start(module, "handler")
    call_id = f"01LOG{name.upper()}"
    lines = []
    for subject in (started.official, started.http, started.runner):
        subject.call([("X-Case", name)], call_id=call_id)
        text = subject.logged()
        lines.append(_comparable(text[text.index(call_id) :], call_id))
    assert lines[0] == lines[1] == lines[2]
    assert lines[0]


def test_a_task_logs_with_the_call_id_of_its_call(start: Starter) -> None:
    started = start(coroutines, "handler")
    for subject in (started.official, started.http, started.runner):
        subject.call([("X-Case", "logs_in_a_task")], call_id="01TASK")
        assert "01TASK - child - INFO - from a task\n" in subject.logged()


def _comparable(text: str, call_id: str) -> list[str]:
    """The lines of one call, the FDK's own frames taken out of tracebacks (see error-log-frames)."""
    return [
        re.sub(r'  File "[^"]*/fdk/\w+\.py", line \d+, in \w+(\\n.*?)\\n(?=  File|$)', "", line)
        for line in text.splitlines()
        if line.startswith((call_id, "None - ")) or line[:1] == " "
    ]
