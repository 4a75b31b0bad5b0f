"""Users of the host: no two daemons give theirs functions the same one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from daemon.sandbox.host_ids import HostIds
from tests.system.daemon import ROOT

OTHER = """
import pathlib, sys, time
from daemon.sandbox.host_ids import HostIds
ids = HostIds(1000, 6, locks=pathlib.Path(sys.argv[1]))
print(*[ids.claim() for _ in range(3)], flush=True)
sys.stdin.read()
"""


def test_two_daemons_have_different_ones_until_one_is_gone(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    mine = HostIds(1000, 6, locks=locks)
    assert mine.claim() == 1000
    command = [sys.executable, "-c", OTHER, str(locks)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().split() == ["1001", "1002", "1003"]
        # The file being opened and closed elsewhere in this process must not drop our locks.
        os.close(os.open(locks, os.O_RDWR))
        assert [mine.claim() for _ in range(3)] == [1004, 1005, 1000], "its own again, never the other's"
        other.kill()
        other.wait()
    assert [mine.claim() for _ in range(5)] == [1001, 1002, 1003, 1004, 1005]
    third = HostIds(1000, 6, locks=locks)
    assert third.claim() in range(1000, 1006), "nothing free: it works all the same"
    mine.close()
    assert HostIds(1000, 6, locks=locks).claim() == 1000
    third.close()


def test_without_a_place_for_locks_it_works_as_if_alone(tmp_path: Path) -> None:
    ids = HostIds(5, 2, locks=tmp_path / "absent" / "locks")
    assert [ids.claim() for _ in range(3)] == [5, 6, 5]
