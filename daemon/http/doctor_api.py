"""What of the sandbox is in force, over HTTP: the facts that `stoker doctor` prints."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.doctor import LEVELS, Diagnosis
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.permissions import NODE_READ

Sample = tuple[str, tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Doctor:
    """What these endpoints know."""

    diagnosis: Diagnosis
    floor: str

    async def samples(self) -> list[Sample]:
        """For Prometheus."""
        here = self.diagnosis
        levels: list[Sample] = [("stoker_sandbox_level", (level,), float(level == here.level)) for level in LEVELS]
        return levels + [("stoker_sandbox_mechanism", (fact.name,), float(fact.active)) for fact in here.facts]


async def doctor(node: Doctor, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/doctor: every mechanism of the sandbox as the daemon found it when it started."""
    return ApiReply(body={**node.diagnosis.document(), "floor": node.floor, "met": node.diagnosis.meets(node.floor)})


ROUTES = [Route("GET", "/stoker/v1/doctor", doctor, NODE_READ)]
