"""What is let through, by configuration, and why. Every entry is strict: the day it is held off, its line must go.

Two kinds: what is still missing, and what level C (no user namespaces) cannot promise, as docs/explanation/isolation.md
says too.
"""

from __future__ import annotations

from tests.hostile.site import Site

_LET_THROUGH: list[tuple[str, str, str, str]] = [
    # attack, configurations, names of violations, what is missing
    # level C
    ("net_reach", "no-userns", "reached-host", "the network of an application"),
    ("thread_bomb", "no-userns", "no-process-limit", "a limit on threads: the daemon counts processes"),
    ("disk_fill_tmp", "no-userns", "tmp-over-limit tmp-without-limit", "a /tmp of its own"),
    ("inode_fill_tmp", "no-userns", "inodes-over-limit inodes-without-limit", "a /tmp of its own"),
]

EXPECTED = {
    (configuration, attack): (frozenset(names.split()), f"{missing} is missing")
    for attack, configurations, names, missing in _LET_THROUGH
    for configuration in configurations.split()
}
"""``(configuration, attack): (names of violations, why)``."""


def expected(site: Site, attack: str) -> tuple[frozenset[str], str]:
    """The names of the violations that are let through on this site, and why; no names where none is."""
    known = EXPECTED.get((site.configuration.name, attack), (frozenset(), ""))
    if attack == "net_reach" and not known[0]:
        (egress,) = (fact for fact in site.api("GET", "/stoker/v1/doctor")["facts"] if fact["name"] == "egress")
        if not egress["active"]:  # docs/how-to/network.md, method ports: UDP is not limited
            return frozenset({"reached-host"}), f"a filtered network is missing: {egress['detail']}"
    return known
