"""Teeth: with a layer switched off, the matching attack gets through and doctor says that the layer is off.

Without this, an attack that fails for a reason of its own would look like a wall. Where two layers hold off the same
thing both are switched off, since one is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import psutil
import pytest

from tests.hostile import attacks
from tests.hostile.site import CONFIGURATIONS, Neighbour, Site, listeners, run_site
from tests.hostile.visit import Visit

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Tooth:
    """``layer`` is what is tested, ``also`` what would hold the attack off in its stead."""

    layer: str
    bites: dict[str, str]
    """Attack: a violation that must be among those found."""
    also: tuple[str, ...] = ()
    configuration: str = "user"

    @property
    def off(self) -> tuple[str, ...]:
        return (self.layer, *self.also)


TEETH = [
    Tooth("seccomp", {"syscalls": "allowed-keyctl", "net_raw": "odd-family", "abi_tricks": "int80"}),
    Tooth("no-new-privs", {"privileges": "new-privileges"}),
    Tooth("capabilities", {"privileges": "capabilities"}),
    Tooth("rlimits", {"fd_exhaustion": "no-descriptor-limit", "thread_bomb": "no-process-limit"}),
    Tooth("uts", {"kernel_info": "hostname"}),
    Tooth("mount", {"read_host_files": "read-secret", "write_everywhere": "wrote-outside"}, also=("landlock",)),
    Tooth("landlock", {"read_host_files": "canary-found", "path_tricks": "escaped-root"}, also=("namespaces",)),
    Tooth("landlock-scopes", {"kill_others": "kill"}, also=("pid",)),
    Tooth("pid", {"kill_others": "kill", "prlimit_others": "affinity"}, also=("landlock-scopes", "seccomp")),
    Tooth("ipc", {"sysv_ipc": "ipc-on-host"}, also=("seccomp",)),
    Tooth("user", {"proc_of_others": "saw-others", "kill_others": "kill"}, also=("landlock",)),
    Tooth("instance", {"disk_fill_tmp": "tmp-without-limit"}),
    Tooth("net", {"net_reach": "reached-host"}, also=("landlock-net",)),
    Tooth("landlock-net", {"net_reach": "reached-host"}, also=("net",)),
    Tooth("cgroup", {"mem_tmpfs_memfd": "memory-over-limit"}, also=("seccomp",), configuration="root"),
    Tooth("cgroup-ns", {"cgroup_escape": "cgroup-path"}, configuration="root"),
]
OTHERWISE = {
    "egress": "without it a function reaches less, not more",
    "own-uid": "judged from outside, in a test of its own below",
    "proc": "it only decides whether a function can be forked from a template",
}
"""Mechanisms of doctor without an attack here, and why."""


def switched_off(off: tuple[str, ...], configuration: str) -> object:
    chosen = CONFIGURATIONS[configuration]
    if why := chosen.why_not():
        pytest.skip(f"configuration {configuration}: {why}")
    environment = {"STOKER_SANDBOX_SWITCH_OFF": ",".join(off)}
    return run_site(replace(chosen, env=environment, arguments=("--insecure",)))


def facts(site: Site) -> dict[str, dict[str, object]]:
    return {fact["name"]: fact for fact in site.api("GET", "/stoker/v1/doctor")["facts"]}


@pytest.mark.parametrize("tooth", TEETH, ids=lambda tooth: tooth.layer)
def test_without_the_layer_the_attack_gets_through_and_doctor_says_so(tooth: Tooth) -> None:
    with switched_off(tooth.off, tooth.configuration) as site, listeners() as host:  # type: ignore[attr-defined]
        known = facts(site)
        for name in tooth.off:
            if name != "namespaces":  # a name for several
                assert not known[name]["active"], f"doctor says that {name} is active"
                assert known[name]["detail"] == "switched off"
        neighbour = Neighbour(site)
        for attack, violation in tooth.bites.items():
            found = attacks.run(Visit(site, neighbour, host, attack))
            names = {v.partition(":")[0] for v in found}
            assert violation in names, f"{attack} found {names or 'nothing'} without {', '.join(tooth.off)}"


def host_uid(site: Site) -> int:
    function = site.send("clean")
    assert site.invoke(function, "x").status == 200
    (instance, *_) = [i for i in site.instances(function) if i["calls"]]
    return psutil.Process(site.host_pid(instance["pid"])).uids().real


def test_own_uid() -> None:
    with switched_off(("own-uid",), "root") as site:  # type: ignore[attr-defined]
        assert not facts(site)["own-uid"]["active"]
        shared = host_uid(site)
    if why := CONFIGURATIONS["root"].why_not():
        pytest.skip(why)
    with run_site(CONFIGURATIONS["root"]) as site:
        assert facts(site)["own-uid"]["active"]
        own = host_uid(site)
    assert own not in (shared, 0)
    assert own >= 100_000


def test_every_mechanism_of_doctor_has_teeth() -> None:
    with run_site(CONFIGURATIONS["root" if not CONFIGURATIONS["root"].why_not() else "user"]) as site:
        names = set(facts(site))
    covered = {tooth.layer for tooth in TEETH} | OTHERWISE.keys()
    assert names <= covered, f"without teeth: {sorted(names - covered)}"
