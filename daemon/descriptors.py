"""How many file descriptors the daemon needs, and which limits go with as many as it may have. Pure."""

from __future__ import annotations

from dataclasses import replace

from daemon.config.settings import Http, Limits

OWN = 64
"""Of the daemon itself: listeners, databases and their readers, the spawner, files that are open for a moment."""
PER_INSTANCE = 12
"""Four pipes, a pidfd, its control group's files, and what a start needs besides."""
PER_TEMPLATE = 8
"""A control socket, a pidfd, pipes, its control group's files, its network's relay."""


def within(limits: Limits, http: Http, descriptors: int) -> tuple[Limits, Http]:
    """The settings, lowered where so many descriptors do not carry them.

    POLICY: a quarter is for connections. A call for which there is no instance then waits, or is refused as on any full
    node; without this it would fail wherever the last descriptor was taken, perhaps in another one's start.
    """
    room = max(0, descriptors - OWN)
    connections = min(http.connections_max, max(1, min(room // 4, room - PER_INSTANCE - PER_TEMPLATE)))
    rest = room - connections
    templates = min(limits.templates_max, max(1, rest // (PER_INSTANCE + PER_TEMPLATE)))
    instances = min(limits.instances_max, max(1, (rest - templates * PER_TEMPLATE) // PER_INSTANCE))
    return replace(limits, templates_max=templates, instances_max=instances), replace(http, connections_max=connections)
