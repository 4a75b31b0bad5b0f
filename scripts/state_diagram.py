#!/usr/bin/env python3
"""Print the states of an instance as a Mermaid diagram, made from the table in daemon/core/instance.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from daemon.core.instance import TRANSITIONS, State


def diagram() -> str:
    """The diagram's text; arrows between the same two states share one line."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.STARTING.name}: launch"]
    for state, row in TRANSITIONS.items():
        targets: dict[State, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(event.value)
        lines += [f"    {state.name} --> {target.name}: {', '.join(on)}" for target, on in targets.items()]
        if not row:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print(diagram())
