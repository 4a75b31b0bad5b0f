"""Provisioned concurrency: OCI's table of counts, the node's limit, and the status of a floor."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.errors import BadRequest, LimitExceeded

__all__ = ["PcuStatus", "check_pcu", "pcu_status", "pcu_step"]

_STEPS = ((128, 40), (256, 20))
"""OCI's table: up to this memory in MiB, this step. 512, 1024, 2048 and 3072 MiB have step 10 (oci-api 2.3)."""
_STEP_ABOVE = 10


def pcu_step(memory_mib: int) -> int:
    """The smallest count and the increment for a memory size, as OCI has them."""
    return next((step for size, step in _STEPS if memory_mib <= size), _STEP_ABOVE)


def check_pcu(*, count: int, memory_mib: int, steps: str, limit_mib: int, others_mib: int) -> None:
    """Check a provisioned concurrency against OCI's table and the node's limit.

    Args:
      steps: ``oci``: the count must be a multiple of the table's step; ``any``: any count from 1.
      limit_mib: ``pcu.memory_mib``, the most that all floors together may reserve.
      others_mib: what the floors of all other functions reserve.

    Raises:
      BadRequest, LimitExceeded: the rule, the arithmetic and the nearest allowed counts.
    """
    step = pcu_step(memory_mib) if steps == "oci" else 1
    largest = max(0, (limit_mib - others_mib) // memory_mib // step * step)
    if count < 1 or count % step:
        rule = (
            f"provisioned concurrency of a {memory_mib} MB function must be a positive multiple of {step}"
            if step > 1
            else "provisioned concurrency must be at least 1"
        )
        below, above = count // step * step, (count // step + 1) * step
        near = [str(n) for n in (below, max(above, step)) if 0 < n <= largest]
        nearest = f"nearest allowed: {' or '.join(near)}" if near else _none_allowed(largest)
        raise BadRequest(f"{rule}, not {count}; {nearest}")
    wanted_mib = count * memory_mib
    if others_mib + wanted_mib > limit_mib:
        nearest = f"largest allowed: {largest}" if largest else _none_allowed(largest)
        raise LimitExceeded(
            f"provisioned concurrency exceeds the node's limit: {count} x {memory_mib} MB = {wanted_mib} MB, "
            f"with {others_mib} MB of other functions {others_mib + wanted_mib} MB, "
            f"is more than pcu.memory_mib = {limit_mib} MB; {nearest}"
        )


def _none_allowed(largest: int) -> str:
    return (
        "no count is allowed: other functions have reserved the memory"
        if not largest
        else f"largest allowed: {largest}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PcuStatus:
    """A function's provisioned concurrency as people see it. 1 PCU is 1 instance."""

    requested: int
    """The floor that was asked for."""
    allocated: int
    """Instances of the floor that are ready or busy."""
    available: int
    """Of these, how many would take a call at once."""
    in_use: int
    """Of these, how many hold a call."""
    spillover: int
    """Calls that ran on demand because the whole floor was busy, since the daemon started."""
    state: str
    """``none``, ``ready``, ``filling``, ``partial`` or ``failing``."""
    reason: str
    """Why it is not ``ready``."""


def pcu_status(*, requested: int, granted: int, idle: int, busy: int, spillover: int, start_error: str) -> PcuStatus:
    """The status from the counts of a pool.

    ``granted`` is what the node can hold of the floor; ``start_error`` is why the last start failed, or empty.
    """
    allocated = min(requested, idle + busy)
    state, reason = "ready", ""
    if requested == 0:
        state = "none"
    elif allocated < requested and start_error:
        state, reason = "failing", start_error
    elif allocated < requested and granted < requested:
        state, reason = "partial", f"the node has room for {granted} of {requested}"
    elif allocated < requested:
        state, reason = "filling", f"{requested - allocated} of {requested} still to start"
    used = min(allocated, busy)
    return PcuStatus(
        requested=requested, allocated=allocated, available=allocated - used, in_use=used,
        spillover=spillover, state=state, reason=reason,
    )  # fmt: skip
