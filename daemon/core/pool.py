"""The pools: all instances of a function, by revision, and the calls that wait for one of them.

Plain data and counts; who moves what is ``node.py``, when is ``settle.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from daemon.core.instance import Instance
from daemon.core.policy import in_use
from daemon.errors import StokerError

__all__ = ["LeavingTemplate", "Pool", "PoolSpec", "Revision", "Role", "Waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What the scheduler has to know of one revision of a function."""

    function_id: str
    revision: str
    """Unique on the node; instances of different revisions never mix."""
    memory_mib: int
    timeout_s: float
    idle_timeout_s: float
    floor: int = 0
    """Provisioned concurrency: instances always kept started, counting busy ones."""
    uses_template: bool = True
    """False: its instances import by themselves; no memory is reserved for a template."""

    def __post_init__(self) -> None:
        if self.memory_mib < 1 or self.timeout_s <= 0 or self.idle_timeout_s < 0 or self.floor < 0:
            raise ValueError(f"memory and timeout must be above 0, idle timeout and floor not below: {self}")


class Role(StrEnum):
    """What a revision is to its pool."""

    LIVE = "live"
    """Calls go to it."""
    PREPARED = "prepared"
    """A deploy starts it; no call goes to it yet."""
    OUTGOING = "outgoing"
    """Its busy instances finish, then it is forgotten."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits for an instance."""

    call_id: str
    since_s: float
    deadline_s: float


@dataclass(slots=True, eq=False)
class LeavingTemplate:
    """A template that was told to stop. Its memory comes back when it is gone, at the latest at the deadline."""

    revision: str
    deadline_s: float
    alarm_s: float = inf


@dataclass(slots=True, eq=False)
class Revision:
    """All instances of one revision. Counts, not scans: a pool of 200 costs what a pool of one does."""

    pool: Pool = field(repr=False)
    spec: PoolSpec
    role: Role
    idle_timeout_s: float = 0.0
    """The spec's: a shortcut for ``release``."""
    accepting: bool = False
    """The quick path of ``release`` is open: it is live, and no canary waits for its memory."""
    instances: dict[int, Instance] = field(default_factory=dict)
    """All that are not GONE."""
    idle: list[Instance] = field(default_factory=list)
    """The stack of idle ones, the most recently used last; those never used come first."""
    starting: int = 0
    leaving: int = 0
    """Those STOPPING or KILLING."""
    claims: int = 0
    """Launches that are decided and wait until the memory of others is given back."""
    used_s: float = -inf
    """When a call last ended."""
    failures: int = 0
    """Failed starts in a row."""
    start_error: StokerError | None = None
    """Why the last start failed; None after one that did not."""
    retry_s: float = -inf
    """Backing off until then."""
    template: bool = False
    """It has a template; ``template_mib`` is reserved for it."""
    template_idle_s: float = inf
    """When its template goes, having no instances."""
    doomed: bool = False
    """Its template is wanted by another revision and goes with the last instance."""
    deadline_s: float = inf
    """The nearer of back-off and template deadline."""
    alarm_s: float = inf

    @property
    def id(self) -> str:
        """The name it goes by in actions."""
        return self.spec.revision

    @property
    def alive(self) -> int:
        """Instances that hold or may come to hold a call: STARTING, IDLE or BUSY."""
        return len(self.instances) - self.leaving

    @property
    def lasting(self) -> int:
        """Those alive, without the worn ones whose replacement is under way."""
        return self.alive - sum(instance.relieved_s < inf for instance in self.instances.values())

    @property
    def busy(self) -> int:
        """Instances that hold a call."""
        return len(self.instances) - self.leaving - self.starting - len(self.idle)

    @property
    def coming(self) -> int:
        """Instances that are starting or about to."""
        return self.starting + self.claims

    def backing_off(self, now_s: float) -> bool:
        """A start failed and the pause is not over."""
        return now_s < self.retry_s

    def in_use(self, now_s: float) -> bool:
        """A call runs, or one ended within the idle timeout."""
        return in_use(busy=self.busy, used_s=self.used_s, idle_timeout_s=self.spec.idle_timeout_s, now_s=now_s)

    def forgive(self) -> None:
        """Forget failed starts: one succeeded, or somebody asked for a new attempt."""
        self.failures, self.start_error, self.retry_s = 0, None, -inf

    def set_deadline(self, now_s: float) -> None:
        """Work out the nearest point in time at which something of this revision is to be done."""
        retry_s = self.retry_s if self.retry_s > now_s else inf
        self.deadline_s = min(retry_s, self.template_idle_s)


@dataclass(slots=True, eq=False)
class Pool:
    """One function: the revision that serves it, perhaps one that is being deployed, and its queue."""

    function_id: str
    idle: list[Instance] = field(default_factory=list)
    """The live revision's stack: a shortcut for ``take``."""
    timeout_s: float = 0.0
    """The live revision's: a shortcut for ``take``."""
    granted: int = 0
    """How much of the live revision's floor the node can hold."""
    live: Revision | None = None
    prepared: Revision | None = None
    instances: int = 0
    """Of all revisions, not GONE."""
    leaving: int = 0
    """Of these, how many are counted on to be gone soon."""
    claims: int = 0
    held_mib: int = 0
    """Memory of its instances that are not leaving, and of its claims."""
    short_mib: int = 0
    """What its floor still needs; nobody else may use that much."""
    waiting: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)
    no_turn_before_s: float = -inf
    """Pause after a turn in which it got no memory."""
    spare_asked: bool = False
    """It stands in the list of pools that want a spare."""
    spillover: int = 0
    first_calls: dict[str, int] = field(default_factory=dict)
    """Calls that were the first of their instance, by start kind."""
    answered: int = 0
    """Calls answered by instances that are gone."""
    broken: int = 0
    """Calls that ended with their instance."""
    alarm_s: float = inf

    @property
    def deadline_s(self) -> float:
        """When its oldest call has waited too long."""
        return next(iter(self.waiting.values())).deadline_s if self.waiting else inf

    def room_instances(self, most: int) -> int:
        """How many more there may be when all that leaves is gone and all claims are met."""
        return most - self.instances + self.leaving - self.claims
