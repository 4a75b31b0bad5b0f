"""Groups whose commands are kinds of things: ``app``, ``function``, ``trigger``; and the other words ``fn`` knows."""

from __future__ import annotations

import click

ALIASES = {
    "apps": "app",
    "application": "app",
    "functions": "function",
    "fn": "function",
    "func": "function",
    "triggers": "trigger",
}


class Named(click.Group):
    """A group that takes singular, plural and ``fn``'s short words for its commands."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or the one that the other word means."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        singular = ALIASES.get(cmd_name, cmd_name)
        return super().get_command(ctx, singular) or super().get_command(ctx, f"{singular}s")
