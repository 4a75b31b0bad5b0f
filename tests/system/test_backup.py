"""What docs/how-to/systemd.md prints about backup and restore is run, while functions are called and deployed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.system.daemon import ROOT, run_daemon

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SOURCE = "def handler(ctx, data=None):\n    return ctx.Config()['ANSWER']\n# {}\n"


def printed(heading: str) -> str:
    """The first shell block below a heading of the page."""
    page = (ROOT / "docs/how-to/systemd.md").read_text()
    found = re.search(rf"^#+ {heading}\n.*?^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found, f"no block below {heading!r}"
    return found[1]


def run(block: str, **places: Path) -> None:
    """Run a block with these values instead of those that it gives its variables."""
    for name, value in places.items():
        block, count = re.subn(rf"^{name}=.*$", f"{name}={value}", block, flags=re.MULTILINE)
        assert count == 1, f"{name}= is not in the block"
    block = block.replace("/opt/stoker/.venv/bin/python", sys.executable)
    block = re.sub(r"sudo (-u stoker )?", "", block).replace("install -d -m 700 -o stoker -g stoker", "mkdir -m 700")
    lines = [line for line in block.splitlines() if not line.startswith("systemctl ")]
    subprocess.run(["sh", "-eu", "-c", "\n".join(lines)], check=True)


def test_a_copy_of_a_running_node_is_whole(data: Path, tmp_path: Path) -> None:
    copy, restored = tmp_path / "copy", tmp_path / "restored"
    copy.mkdir(mode=0o700)
    restored.mkdir(mode=0o700)
    stop = threading.Event()
    with run_daemon(data) as daemon:
        function = daemon.deploy("f", SOURCE.format(0), config={"ANSWER": "one"})
        daemon.api("POST", "/v2/triggers", {"app_id": daemon.app(), "fn_id": function, "name": "t", "type": "http",
                                            "source": "/t"})  # fmt: skip

        def deploys() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                daemon.deploy("other", SOURCE.format(number), config={"ANSWER": "other"})
                daemon.invoke(function)

        thread = threading.Thread(target=deploys)
        thread.start()
        try:
            run(printed("Back up"), data=data, copy=copy)
        finally:
            stop.set()
            thread.join()
        daemon.api("PUT", f"/v2/fns/{function}", {"config": {"ANSWER": "after the copy"}})
    run(printed("Restore"), data=restored, copy=copy)
    with run_daemon(restored) as daemon:
        assert daemon.invoke(function).body == b"one"
        assert daemon.request("POST", "/t/app/t").body == b"one"
        for item in daemon.api("GET", f"/v2/fns?app_id={daemon.app()}")["items"]:
            assert daemon.invoke(item["id"]).status == 200, item["name"]
        assert (restored / "webhook.key").read_bytes() == (data / "webhook.key").read_bytes()
