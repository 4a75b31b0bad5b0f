"""The annotations that say what instances may use and reach: of a function ``stoker.dev/cpu``, of an app
``stoker.dev/network``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.core.network import NetworkPolicy, parse
from daemon.errors import BadRequest

CPU = "stoker.dev/cpu"
NETWORK = "stoker.dev/network"
CPU_MIN, CPU_MAX = 0.01, 1024.0
"""Cores. The kernel accounts in milliseconds of a tenth of a second."""


def cpu_of(annotations: Mapping[str, Any]) -> float:
    """Cores that an instance may use at most; 0: as many as are free.

    Raises:
      BadRequest: not a number, or out of range.
    """
    value = annotations.get(CPU)
    if value is None:
        return 0.0
    try:
        cpu = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except ValueError:
        cpu = -1.0
    if not CPU_MIN <= cpu <= CPU_MAX:
        raise BadRequest(
            f"annotation {CPU} must be a number of cores from {CPU_MIN:g} to {CPU_MAX:g}, not {value!r:.80}"
        )
    return cpu


def network_of(annotations: Mapping[str, Any], *, default: str = "egress") -> NetworkPolicy:
    """What an app's functions may reach; ``default`` is the mode of apps that do not say.

    Raises:
      BadRequest: the annotation's value is not one.
    """
    value = annotations.get(NETWORK)
    if value is None:
        return NetworkPolicy(default)
    try:
        return parse(value)
    except ValueError as exc:
        raise BadRequest(f"annotation {NETWORK}: {exc}") from None
