"""Which confinement a worker gets on this machine. `runtime.confine` carries it out, in the worker.

What is decided here holds for every function alike and needs no privilege. Namespaces, the root file system, seccomp,
Landlock and cgroups, which have to be probed for, are decided here as well when they come: `Confinement` is what the
rest of the daemon sees of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daemon.config import Limits
from daemon.model import LaunchPlan

MIB = 2**20
LOCKED_BYTES_MAX = 64 * 2**10
"""RLIMIT_MEMLOCK of a worker. Fn's FN_MAX_LOCKED_MEMORY."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What `runtime.confine` applies to the processes of one function."""

    no_new_privs: bool
    limits: dict[str, int]
    """Resource limits of the template and all instances."""
    instance_limits: dict[str, int]
    """Resource limits that only instances get."""

    def describe(self) -> dict[str, Any]:
        """For people: what is in force."""
        return {"no_new_privs": self.no_new_privs, **{f"rlimit_{k.lower()}": v for k, v in self.limits.items()}}


def confinement(plan: LaunchPlan, limits: Limits) -> Confinement:
    """The confinement of the plan's function.

    The template keeps a descriptor for each of its instances, so NOFILE is the instances' only. There is no NPROC: the
    kernel counts it per user, and one function could keep all others from forking.
    """
    return Confinement(
        no_new_privs=True,
        limits={
            "CORE": 0,
            "DATA": (plan.memory_mib + limits.memory_backstop_mib) * MIB,
            "FSIZE": plan.memory_mib * MIB,  # four times what OCI gives /tmp
            "MEMLOCK": LOCKED_BYTES_MAX,
            "MSGQUEUE": 0,
        },
        instance_limits={"NOFILE": limits.open_files_max},
    )
