"""The page for people who come from Fn names every command of fn, and the commands of ours that it names exist."""

from __future__ import annotations

import re

import pytest

from cli import kinds, templates
from cli.main import ALIASES, COMMANDS
from daemon.bundles import funcfile
from daemon.model import ADAPTERS
from tests.golden.test_replay import SHARED
from tests.system.daemon import ROOT

PAGE = (ROOT / "docs" / "how-to" / "coming-from-fn.md").read_text()
CONTRACT = SHARED / "reference" / "fn-contract.md"


@pytest.mark.skipif(not CONTRACT.exists(), reason=f"no list of fn's commands at {CONTRACT}")
def test_every_command_of_fn_is_there() -> None:
    table = CONTRACT.read_text().partition("### 4.3 ")[2].partition("Gone for good")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    first = {re.sub(r"\(.*?\)", "", part).split()[0] for row in rows[1:] for part in row.split(",")}
    words = {word for word in first if re.fullmatch("[a-z-]+", word)} - {"triggers", "contexts", "function"}
    assert len(words) > 20
    assert [word for word in sorted(words) if not re.search(rf"fn {word}\b", PAGE)] == []


def test_our_commands_exist() -> None:
    named = set(re.findall(r"`stoker ([a-z]+)", PAGE))
    assert named <= {*COMMANDS, *ALIASES}
    assert len(named) > 12


def test_adapters_and_languages_have_their_pages() -> None:
    adapters = (ROOT / "docs" / "how-to" / "adapters.md").read_text()
    assert [name for name in ADAPTERS if f"| `{name}` |" not in adapters] == []
    pages = {path.stem for path in (ROOT / "docs" / "how-to" / "languages").glob("*.md")}
    assert pages == {"python", "node", "go", "java", "executable"}


def test_both_sides_know_the_same_runtimes_and_defaults() -> None:
    assert kinds.BUILT_FILE == funcfile.BUILT_FILE
    for runtime in (
        "node",
        "node22",
        "go1.24",
        "java",
        "kotlin",
        "ruby3.3",
        "dotnet9.0",
        "docker",
        "exec",
        "python",
        "x",
    ):
        assert bool(kinds.family(runtime)) == bool(funcfile.FOREIGN.fullmatch(runtime)), runtime
    for name, command in funcfile.COMMANDS.items():
        assert tuple(kinds.default_command(name, [], [])) == command
    assert templates.start_lines("node")[-1] == "entrypoint: node func.js"
