"""Resource principals: what an instance needs to sign requests as its function, given to it and renewed in time.

One key per function and life of the daemon, made ahead; a token for it is issued and sent before an instance may take
its first call, and to all again when two thirds of its time have passed. All instances of a function are one principal;
what each holds is in files that only it can read (`runtime.identity`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from daemon import ocid
from daemon.auth import tokens
from daemon.auth.identity import Identity
from daemon.catalog import Catalog
from daemon.model import LaunchPlan
from daemon.supervisor import Slot, Supervisor
from runtime import wire

__all__ = ["ResourcePrincipals"]

SPARE_KEYS = 2
"""Keys made ahead: making one takes longer than a cold start may."""
CHECK_S = 5.0
"""How often tokens and instances are looked at."""
RENEW_AT = 2 / 3
"""A token is replaced when this part of its time has passed."""
CALL_S_MAX = 3600.0
"""Added to a token's time: a call that was begun with it must be able to end with it (detached calls: one hour)."""


@dataclass(slots=True, eq=False)
class _Issued:
    """What the instances of a function hold."""

    key: rsa.RSAPrivateKey
    pem: str
    frame: bytes = b""
    renew_s: float = 0.0


class ResourcePrincipals:
    """Gives them out. `run` must be running."""

    def __init__(
        self,
        identity: Identity,
        supervisor: Supervisor,
        *,
        ttl_s: float,
        endpoint: str,
        log: Any,
        clock: Callable[[], float],
    ) -> None:
        """``ttl_s`` is ``auth.resource_principal_s``, ``endpoint`` where this node is reached, ``clock`` wall time."""
        self._identity = identity
        self._catalog: Catalog = identity.catalog
        self._supervisor = supervisor
        self._ttl_s = ttl_s
        self._endpoint = endpoint
        self._log = log
        self._clock = clock
        self._spare: deque[rsa.RSAPrivateKey] = deque()
        self._issued: dict[str, _Issued] = {}
        self._given: dict[int, bytes] = {}
        self._lock = trio.Lock()
        supervisor.before_ready = self.give

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Make keys ahead and renew until cancelled."""
        task_status.started()
        while True:
            while len(self._spare) < SPARE_KEYS:
                self._spare.append(await trio.to_thread.run_sync(tokens.new_key))
            self.renew()
            await trio.sleep(CHECK_S)

    async def give(self, slot: Slot) -> None:
        """Send an instance that has just started what it needs. (The canary of a new function too, before that is
        stored: the token is worth nothing until then.)"""
        function_id = slot.plan.function_id
        async with self._lock:  # forty instances of a floor that start together share one key
            issued = self._issued.get(function_id)
            if issued is None:
                key = self._spare.popleft() if self._spare else await trio.to_thread.run_sync(tokens.new_key)
                issued = self._issued[function_id] = _Issued(key, tokens.private_pem(key))
        self._send(slot, self._current(slot.plan, issued))

    def renew(self) -> None:
        """Send new tokens where old ones are getting old; forget what belongs to nobody any more."""
        slots = self._supervisor.slots
        self._given = {instance_id: frame for instance_id, frame in self._given.items() if instance_id in slots}
        running = {slot.plan.function_id for slot in slots.values()}
        for function_id in self._issued.keys() - running - self._catalog.functions.keys():
            del self._issued[function_id]
        for slot in slots.values():
            issued = self._issued.get(slot.plan.function_id)
            if issued is not None and slot.ready_s <= trio.current_time():
                frame = self._current(slot.plan, issued)
                if self._given.get(slot.instance_id) != frame:
                    self._send(slot, frame)

    def _send(self, slot: Slot, frame: bytes) -> None:
        if slot.channel is not None and slot.channel.give(frame):
            self._given[slot.instance_id] = frame

    def _current(self, plan: LaunchPlan, issued: _Issued) -> bytes:
        """The frame to send, with a token that is young enough."""
        now_s = self._clock()
        if now_s >= issued.renew_s:
            app = self._catalog.app(plan.app_id)
            subject = ocid.function_ocid(plan.function_id)
            compartment_id = self._catalog.compartment_of(app) if app is not None else self._catalog.tenancy_id
            token = self._identity.issuer.issue(
                subject=subject,
                kind="res_sp",
                key=issued.key.public_key(),
                now_s=now_s,
                ttl_s=self._ttl_s + CALL_S_MAX,
                claims={
                    "res_type": "fnfunc",
                    "res_id": subject,
                    "res_tenant": self._catalog.tenancy_id,
                    "res_compartment": compartment_id,
                },
            )
            issued.renew_s = now_s + RENEW_AT * self._ttl_s
            issued.frame = wire.encode(
                {
                    "type": "identity",
                    "token": token,
                    "key": issued.pem,
                    "region": ocid.REGION,
                    "endpoint": self._endpoint,
                }
            )
        return issued.frame
