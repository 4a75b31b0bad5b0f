"""The how-to is true: its five commands are run, as printed, in both modes of authentication."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import errors
from tests.oci.clients import Profile, oci_python
from tests.system.daemon import HELLO, Daemon, bundle, eventually, run_daemon

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "oci-clients.md"
TABLE = ROOT / "docs" / "reference" / "oci-compatibility.md"


def commands(name: str = "commands") -> list[str]:
    block = re.search(rf"<!-- {name}:[^\n]*-->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1].strip().splitlines()


@pytest.mark.parametrize("mode", ["open", "iam"])
def test_the_five_commands_of_the_how_to(mode: str, tmp_path: Path) -> None:
    lines = commands()
    assert len(lines) == 5
    path = [str(Path(sys.executable).parent), str(oci_python("new").parent), os.environ["PATH"]]
    with run_daemon(tmp_path / "data", config=f"auth: {{mode: {mode}}}") as daemon:
        environment = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "HOME": str(tmp_path),
            "STOKER_SOCKET": str(daemon.data / "stoker.sock"),
            "PYTHONWARNINGS": "ignore",
        }
        (tmp_path / ".oci").mkdir(mode=0o700)
        script = "set -eu\n" + "\n".join(lines).replace("http://127.0.0.1:8080", daemon.url)
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=180
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout[done.stdout.rindex("\n{") if "\n{" in done.stdout else 0 :]) == {
            "message": "Hello Ada"
        }


@pytest.mark.parametrize("kind", ["classic", "new"])
def test_the_commands_for_provisioned_concurrency(kind: str, node: Daemon, profile: Profile, tmp_path: Path) -> None:
    node.push(bundle(HELLO), "hello:0.0.1")
    app = node.api(
        "POST", "/20181201/applications",
        {"compartmentId": profile.config["tenancy"], "displayName": f"printed-{kind}", "subnetIds": []},
    )["id"]  # fmt: skip
    create, *updates = (line.replace("http://127.0.0.1:8080", node.url) for line in commands(kind))
    environment = {
        **os.environ, "PATH": os.pathsep.join([str(oci_python(kind).parent), os.environ["PATH"]]), "app": app,
        "OCI_CLI_CONFIG_FILE": str(profile.file), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip

    def run(command: str) -> str:
        done = subprocess.run(
            ["sh", "-euc", command], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=180,
            input="y\n",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def config() -> dict[str, object]:
        path = f"/20181201/functions/{environment['fn']}"
        eventually(lambda: node.api("GET", path)["lifecycleState"] == "ACTIVE", what="ACTIVE")
        found: dict[str, object] = node.api("GET", path)["provisionedConcurrencyConfig"]
        return found

    environment["fn"] = run(create + '; echo "$fn"')
    seen = [config()]
    for update in updates:
        run(update)
        seen.append(config())
    constant = [{"strategy": "CONSTANT", "count": count} for count in (40, 80)]
    assert seen == [*constant, {"strategy": "NONE"}]


def rows() -> list[list[str]]:
    """The cells of the feature table."""
    lines = [line for line in TABLE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_the_table_has_every_feature_and_names_tests_that_exist() -> None:
    assert [int(row[0]) for row in rows()] == list(range(1, 63))
    for row in rows():
        number, _, state, how, test = row
        assert state in ("works", "differs", "n/a", "missing"), number
        assert how or state == "works", f"{number} says neither how nor why"
        assert test or state in ("n/a", "missing"), f"{number} names no test"
        if test:
            path, _, name = test.strip("`").partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(), test


def test_the_table_of_codes_is_the_tree_of_errors() -> None:
    text = TABLE.read_text().partition("## Error codes of a call")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \| \d+ \|", text, re.MULTILINE))
    invoke = {error.oci_code for error in errors.leaves() if error.oci_code.startswith("FunctionInvoke")}
    assert invoke <= named
    for error in errors.leaves():
        if error.oci_code in invoke:
            assert f"| `{error.oci_code}` | {error.status} |" in text or error.status == 400
