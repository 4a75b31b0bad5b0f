"""What a start costs, as the modules that it must not import; the summaries; the reference page."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import click
import pytest

from cli import __version__
from cli.main import COMMANDS, root
from cli.options import Settings
from tests.cli.conftest import ROOT, Stoker
from tests.cli.fake import FakeDaemon

HEAVY = ("rich", "yaml", "ssl", "asyncio", "trio", "daemon", "runtime", "fdk", "msgpack", "zipfile", "subprocess")
REPORT = (
    "import sys, atexit; atexit.register(lambda: print(*(m for m in sys.argv.pop().split() if m in sys.modules), "
    "file=sys.stderr)); from cli.main import main; heavy = sys.argv.pop(); arguments = sys.argv[1:]; "
    "sys.argv.append(heavy); main(arguments)"
)


def imported(environment: dict[str, str], *arguments: str) -> list[str]:
    """Which of the heavy modules a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments, " ".join((*HEAVY, "click"))], env=environment, capture_output=True,
        text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("arguments", [["--help"], ["deploy", "--help"], ["invoke", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(environment: dict[str, str], arguments: list[str]) -> None:
    found = imported(environment, *arguments)
    assert "click" in found  # else the report itself is broken
    allowed = {"click", "subprocess"} if arguments[0] == "deploy" else {"click"}
    assert set(found) <= allowed


@pytest.mark.parametrize("words", [["ls"], ["ps"], ["stats"]])
def test_a_request_imports_nothing_heavy(environment: dict[str, str], daemon: FakeDaemon, words: list[str]) -> None:
    path = {"ls": "/v2/apps?per_page=100", "ps": "/stoker/v1/instances", "stats": "/stoker/v1/stats"}[words[0]]
    daemon.expect(f"GET {path}", {"items": []})
    assert imported({**environment, "STOKER_URL": daemon.url}, *words) == ["click"]


def test_an_invoke_imports_nothing_heavy(environment: dict[str, str], daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"")
    assert imported({**environment, "STOKER_URL": daemon.url}, "invoke", "demo", "hello", "-d", "x") == ["click"]


def test_a_step_on_no_terminal_imports_no_rich(stoker: Stoker, environment: dict[str, str], function: object) -> None:
    assert "rich" not in imported(environment, "build", str(function), "-o", f"{function}.zip")


def every_command() -> list[tuple[list[str], click.Command]]:
    found: list[tuple[list[str], click.Command]] = []

    def walk(command: click.Command, words: list[str]) -> None:
        found.append((words, command))
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="stoker", obj=Settings())
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                walk(below, [*words, name])

    walk(root, [])
    return found


@pytest.mark.parametrize(
    ("words", "command"), every_command(), ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_every_command_has_help_with_examples(words: list[str], command: click.Command) -> None:
    text = f"{command.help}{command.epilog or ''}"
    assert "\b\nExamples:\n" in text.replace("\b\n    Examples", "\b\nExamples")
    for line in text.partition("Examples:\n")[2].splitlines():
        assert not line.strip() or "stoker" in line, line
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summaries_of_the_table_are_the_commands_own(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert (command.help or "").splitlines()[0].startswith(COMMANDS[name][1].rstrip(".").partition(":")[0])


def test_the_version_is_the_distributions() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_the_reference_is_what_help_prints() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_cli_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
