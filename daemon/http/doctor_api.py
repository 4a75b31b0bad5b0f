"""What of the sandbox is in force, over HTTP: the facts that `stoker doctor` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from daemon.auth.permissions import NODE_READ
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.sandbox.doctor import LEVELS, Diagnosis, in_trouble

Sample = tuple[str, tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Doctor:
    """What these endpoints know."""

    diagnosis: Diagnosis
    floor: str
    trouble: Callable[[], str] = lambda: ""
    """Why functions reach nothing outside just now though there is a way; empty: they do."""

    @property
    def now(self) -> Diagnosis:
        """What was found at the start, but for what has ended since."""
        if not (trouble := self.trouble()):
            return self.diagnosis
        facts = self.diagnosis.facts
        return replace(
            self.diagnosis,
            facts=tuple(in_trouble(fact, trouble) if fact.name == "egress" else fact for fact in facts),
        )

    async def samples(self) -> list[Sample]:
        """For Prometheus."""
        here = self.now
        levels: list[Sample] = [("stoker_sandbox_level", (level,), float(level == here.level)) for level in LEVELS]
        return levels + [("stoker_sandbox_mechanism", (fact.name,), float(fact.active)) for fact in here.facts]


async def doctor(node: Doctor, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/doctor: every mechanism of the sandbox as found when the daemon started, egress as it is."""
    return ApiReply(body={**node.now.document(), "floor": node.floor, "met": node.diagnosis.meets(node.floor)})


ROUTES = [Route("GET", "/stoker/v1/doctor", doctor, NODE_READ)]
