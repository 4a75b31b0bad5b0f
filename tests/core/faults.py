"""Small faults, one at a time, for ``test_mutants.py``: in FILE, OLD becomes NEW where it stands first."""

from __future__ import annotations

from dataclasses import dataclass

WORLD = "test_world.py"


@dataclass(frozen=True)
class Fault:
    """One change of the source, and the test file that must find it."""

    name: str
    file: str
    old: str
    new: str
    found_by: str = WORLD


FAULTS = [
    Fault(
        name="too many instances of a function",
        file="node.py",
        old="            or revision.pool.instances >= limits.function_instances_max\n",
        new="",
        found_by="test_memory.py",
    ),
    Fault(
        name="too many instances on the node",
        file="node.py",
        old="            or len(self.instances) + len(ahead) >= limits.instances_max\n",
        new="",
    ),
    Fault(
        name="too many templates",
        file="node.py",
        old="len(starting) > limits.templates_max",
        new="len(starting) > 99",
    ),
    Fault(
        name="an instance that was never used is taken first",
        file="node.py",
        old="revision.idle.insert(0, instance)",
        new="revision.idle.append(instance)",
    ),
    Fault(
        name="a claim takes what those before it were promised",
        file="settle.py",
        old="            ahead.append(revision)",
        new="            continue",
        found_by="test_memory.py",
    ),
    Fault(
        name="a call beyond its timeout goes on",
        file="instance.py",
        old=("Event.DEADLINE: State.KILLING,\n        Event.EXITED: State.GONE,\n    },\n    State.STOPPING"),
        new=("Event.DEADLINE: State.BUSY,\n        Event.EXITED: State.GONE,\n    },\n    State.STOPPING"),
    ),
    Fault(
        name="an answered instance stops",
        file="instance.py",
        old="Event.RELEASED: State.IDLE",
        new="Event.RELEASED: State.STOPPING",
    ),
    Fault(
        name="a stopping instance is killed without a word",
        file="instance.py",
        old=("Event.CONDEMNED: State.KILLING,\n        Event.DEADLINE: State.KILLING"),
        new=("Event.CONDEMNED: State.GONE,\n        Event.DEADLINE: State.KILLING"),
    ),
    Fault(
        name="a late ready is a bug",
        file="instance.py",
        old="frozenset({Event.READY, Event.RELEASED, Event.CONDEMNED}),",
        new="frozenset({Event.RELEASED, Event.CONDEMNED}),",
    ),
    Fault(
        name="the least recently used instance is taken",
        file="scheduler.py",
        old="pool.idle.pop()",
        new="pool.idle.pop(0)",
    ),
    Fault(
        name="a drained scheduler takes calls",
        file="scheduler.py",
        old="or self._node.draining:",
        new="or False:",
        found_by="test_endings.py",
    ),
    Fault(
        name="a free instance is not given to who waits",
        file="scheduler.py",
        old="and not self._node.restless",
        new="",
    ),
    Fault(
        name="a worn instance goes on",
        file="scheduler.py",
        old="and instance.calls < instance.calls_max",
        new="",
        found_by="test_endings.py",
    ),
    Fault(
        name="the caller's leaving is ignored",
        file="scheduler.py",
        old="node.kill(instance, Event.CONDEMNED, left, now_s)",
        new="pass",
    ),
    Fault(
        name="the queue holds one too many",
        file="scheduler.py",
        old="if len(pool.waiting) >= node.limits.queue_max",
        new="if len(pool.waiting) > node.limits.queue_max",
    ),
    Fault(
        name="the timeout of the last call stays",
        file="scheduler.py",
        old=(
            "if deadline_s < instance.alarm_s:\n"
            "            self._alarms.set(instance)\n"
            "            self.needs_settle = True\n"
            "        if (not"
        ),
        new=(
            "if False:\n            self._alarms.set(instance)\n            self.needs_settle = True\n        if (not"
        ),
        found_by="test_calls.py",
    ),
    Fault(
        name="memory is given back at the kill",
        file="node.py",
        old="self.leaving_mib += instance.memory_mib",
        new="self.used_mib -= instance.memory_mib",
    ),
    Fault(
        name="memory is not given back",
        file="node.py",
        old=("self.used_mib -= instance.memory_mib\n        pool.instances"),
        new="pool.instances",
    ),
    Fault(
        name="a template costs nothing",
        file="node.py",
        old=("            self.used_mib += limits.template_mib\n"),
        new="",
    ),
    Fault(
        name="a template's memory comes back when it is told to stop",
        file="node.py",
        old="leaving = LeavingTemplate(",
        new=("self.used_mib -= self.limits.template_mib\n        leaving = LeavingTemplate("),
    ),
    Fault(
        name="a killed call stays in the books",
        file="node.py",
        old=("            del self.running[instance.call_id]\n"),
        new="",
    ),
    Fault(
        name="the template stays for ever",
        file="node.py",
        old=("            self.arm(revision, now_s)\n"),
        new="",
        found_by="test_memory.py",
    ),
    Fault(
        name="nobody gives up on a process that does not go",
        file="node.py",
        old=("    def give_up_on(self, instance: Instance) -> None:\n"),
        new=(
            "    def give_up_on(self, instance: Instance) -> None:\n        instance.deadline_s = inf\n        return\n"
        ),
        found_by="test_memory.py",
    ),
    Fault(
        name="spillover is not counted",
        file="node.py",
        old="pool.spillover += 1",
        new="pass",
        found_by="test_floors.py",
    ),
    Fault(
        name="victims are given up though they are not enough",
        file="policy.py",
        old=("        return []\n"),
        new=("        return chosen\n"),
        found_by="test_policy.py",
    ),
    Fault(
        name="more victims than needed",
        file="policy.py",
        old=("            chosen.remove(candidate)\n"),
        new=("            pass\n"),
        found_by="test_policy.py",
    ),
    Fault(
        name="starting instances do not count as coming",
        file="policy.py",
        old="max(0, waiting - idle - starting)",
        new="max(0, waiting - idle)",
        found_by="test_calls.py",
    ),
    Fault(
        name="no call is worth a launch",
        file="policy.py",
        old="max(0, waiting - idle - starting)",
        new="max(0, waiting - idle - starting - 1)",
    ),
    Fault(
        name="the spare idles out",
        file="policy.py",
        old="return in_use and others_unused == 0",
        new="return False",
        found_by="test_calls.py",
    ),
    Fault(
        name="the pause does not double",
        file="policy.py",
        old="first_s * 2.0**doublings",
        new="first_s",
    ),
    Fault(
        name="functions grow without regard",
        file="policy.py",
        old="return held_mib + need_mib <= blocked_held_mib + blocked_need_mib",
        new="return True",
        found_by="test_memory.py",
    ),
    Fault(
        name="nobody yields",
        file="policy.py",
        old="return held_mib - instance_mib >= blocked_held_mib + blocked_need_mib",
        new="return False",
        found_by="test_memory.py",
    ),
    Fault(
        name="a floor is granted beyond the node",
        file="policy.py",
        old="min(floor, room_mib // memory_mib, instances_max)",
        new="floor",
        found_by="test_floors.py",
    ),
    Fault(
        name="the pace of a function is not kept",
        file="settle.py",
        old="return min(limits.starts_at_once - revision.coming, ",
        new="return min(100, ",
    ),
    Fault(
        name="the pace of the node is not kept",
        file="settle.py",
        old="most - node.starting - len(node.claims))",
        new="100)",
    ),
    Fault(
        name="launches do not wait for the memory of victims",
        file="settle.py",
        old="if node.must_wait(revision, ahead):",
        new="if False:",
    ),
    Fault(
        name="claims that nobody needs stay",
        file="settle.py",
        old="if revision.claims > wanted:",
        new="if False:",
        found_by="test_memory.py",
    ),
    Fault(
        name="floors are not filled",
        file="settle.py",
        old=("            _fill_floors(node, now_s)\n"),
        new=("            pass\n"),
    ),
    Fault(
        name="nobody is told why a start failed",
        file="settle.py",
        old="for call_id in list(pool.waiting):",
        new="for call_id in ():",
        found_by="test_starts.py",
    ),
    Fault(
        name="memory promised to floors is used",
        file="settle.py",
        old=("    keep_mib = node.short_mib - pool.short_mib\n    if admit"),
        new=("    keep_mib = 0\n    if admit"),
        found_by="test_floors.py",
    ),
    Fault(
        name="a failed canary is started again",
        file="settle.py",
        old=("    if revision.start_error is not None:\n        return 0\n"),
        new="",
        found_by="test_prepared.py",
    ),
    Fault(
        name="a spare evicts",
        file="settle.py",
        old=("evict=False):\n                del"),
        new=("evict=True):\n                del"),
        found_by="test_memory.py",
    ),
    Fault(
        name="floors are evicted",
        file="room.py",
        old="if left <= 0:",
        new="if False:",
    ),
    Fault(
        name="the floor idles out",
        file="lifecycle.py",
        old="or revision.lasting <= revision.pool.granted",
        new="",
    ),
    Fault(
        name="a failed start is forgotten",
        file="lifecycle.py",
        old=("    revision.retry_s = now_s + pause_s\n"),
        new="",
    ),
    Fault(
        name="nobody tries again after the pause",
        file="lifecycle.py",
        old=("    revision.retry_s = now_s + pause_s\n    node.arm(revision, now_s)\n"),
        new=("    revision.retry_s = now_s + pause_s\n"),
        found_by="test_starts.py",
    ),
    Fault(
        name="calls wait for ever",
        file="lifecycle.py",
        old=("        if waiting.deadline_s > now_s:\n            break"),
        new=("        if True:\n            break"),
    ),
    Fault(
        name="an old version stays",
        file="lifecycle.py",
        old=("        _send_away(node, old, now_s)\n"),
        new=("        pass\n"),
    ),
    Fault(
        name="instances survive their template",
        file="lifecycle.py",
        old="if instance.state in (State.IDLE, State.BUSY):",
        new="if False:",
        found_by="test_memory.py",
    ),
    Fault(
        name="a lower floor is not noticed",
        file="lifecycle.py",
        old="    for instance in list(revision.idle):  # the floor",
        new="    for instance in ():  # the floor",
        found_by="test_floors.py",
    ),
    Fault(
        name="an early alarm is lost",
        file="alarms.py",
        old=("            else:\n                self.set(what)\n"),
        new="",
        found_by="test_alarms.py",
    ),
    Fault(
        name="a nearer deadline is not noticed",
        file="alarms.py",
        old=("            self.nearer = True\n"),
        new=("            pass\n"),
        found_by="test_alarms.py",
    ),
    Fault(
        name="a restart spares what is starting",
        file="lifecycle.py",
        old="        elif instance.state is State.STARTING:  # POLICY: it began",
        new="        elif False:  # POLICY: it began",
        found_by="test_endings.py",
    ),
    Fault(
        name="a version that can never fit is prepared",
        file="lifecycle.py",
        old="    check_room(node, spec)\n",
        new="",
        found_by="test_prepared.py",
    ),
    Fault(
        name="its own floor stands in a new version's way",
        file="lifecycle.py",
        old="node.granted_mib - own_mib",
        new="node.granted_mib",
        found_by="test_prepared.py",
    ),
]
