"""What is let through, by configuration, and why. Every entry is strict: the day it is held off, its line must go.

Two kinds: what is still missing, and what level C (no user namespaces) cannot promise, as docs/explanation/isolation.md
says too.
"""

from __future__ import annotations

_LET_THROUGH: list[tuple[str, str, str, str]] = [
    # attack, configurations, names of violations, what is missing
    # level C
<<<<<<< HEAD
    ("net_reach", "no-userns", "reached-host reached-socket", "the network of an application"),
=======
    ("net_reach", "no-userns", "reached-host reached-metadata", "the network of an application"),
>>>>>>> 193084a (Ask the doctor from the client, tell how)
    ("disk_fill_tmp", "no-userns", "tmp-over-limit tmp-without-limit", "a /tmp of its own"),
    ("inode_fill_tmp", "no-userns", "inodes-over-limit inodes-without-limit", "a /tmp of its own"),
    ("fork_bomb", "no-userns", "no-answer no-process-limit", "a limit on processes"),
    ("thread_bomb", "no-userns", "no-process-limit", "a limit on processes"),
<<<<<<< HEAD
    ("fork_bomb_tree", "no-userns", "no-process-limit wrong-outcome", "sometimes: a limit on processes"),
    ("prlimit_others", "no-userns", "affinity priority read-limits scheduler", "a filter for calls that name a pid"),
    ("write_everywhere", "no-userns", "changed wrote-own-code touched-outside", "a filter for chmod and utime"),
=======
    ("fork_bomb_tree", "no-userns", "no-process-limit", "sometimes: a limit on processes"),
>>>>>>> 193084a (Ask the doctor from the client, tell how)
]

EXPECTED = {
    (configuration, attack): (frozenset(names.split()), f"{missing} is missing")
    for attack, configurations, names, missing in _LET_THROUGH
    for configuration in configurations.split()
}
"""``(configuration, attack): (names of violations, why)``."""
