"""Entry point of ``stoker``: the table of commands. A command's module is imported only when it runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli import __version__
from cli.options import Settings, common

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Make and deploy": {
        "init": ("init", "Make the files of a new function."),
        "deploy": ("deploy", "Bundle a function, send it, and put it into service."),
        "build": ("deploy", "Make the bundle of a function."),
        "push": ("deploy", "Send a bundle to the daemon under a name."),
        "dev": ("dev", "Work on a function: every save puts it into service; its output and its calls are shown here."),
        "watch": ("watch", "Deploy a function now, and again whenever a file of it changes."),
        "bump": ("bump", "Raise the version in func.yaml."),
        "rollback": ("versions", "Put an earlier version of a function back into service."),
        "versions": ("versions", "List the versions of a function."),
    },
    "Call and watch": {
        "invoke": ("invoke", "Call a function and print its answer."),
        "status": ("status", "Say how a function is: healthy, how often called, how slow and why."),
        "logs": ("logs", "Show what a function wrote."),
        "calls": ("calls", "List the calls of an app, or of one function, that have ended; newest first."),
        "call": ("calls", "Show one call: its phases as a bar, what it printed, and what to do next."),
        "replay": ("calls", "Run a call again with the same headers and body, and print the function's answer."),
        "explain": ("explain", "Say what an error means, whose fault it is, and what to do."),
        "deadletter": ("deadletter", "Look at detached calls that failed for good, run them again, or delete them."),
        "advise": ("advise", "Say how many instances of a function to keep warm, from the calls that came."),
        "ps": ("node", "List the instances that run."),
        "stats": ("node", "Show calls, starts, latency and memory of the node."),
    },
    "Manage": {
        "ls": ("listing", "List apps, functions or triggers."),
        "inspect": ("inspect", "Show everything about an app, function or trigger."),
        "create": ("create", "Create an app, function or trigger."),
        "update": ("create", "Change an app, function or trigger."),
        "delete": ("delete", "Delete an app, function or trigger."),
        "config": ("config", "Read and change configuration values."),
    },
    "Identity": {
        "iam": ("iam", "Say who may do what: users, keys, tokens, groups, policies, compartments."),
        "audit": ("iam_policies", "Show who changed what, or tried to; oldest first."),
    },
    "Node": {
        "console": ("console", "Print a link to the console that signs you in."),
        "doctor": ("doctor", "Say what of the sandbox works, what stands in for what does not, and how to get it."),
        "shim": ("shim", "Let the fn command work without a container engine."),
        "bundles": ("node", "List the bundles that the daemon keeps."),
        "runtimes": ("node", "List what the daemon's machine has to run functions."),
        "version": ("node", "Print the versions of the command and of the daemon."),
        "completion": ("completion", "Print the script that makes a shell complete names."),
    },
}
"""Section -> command -> (module in ``cli.commands``, summary). The summary is here so that ``--help`` imports nothing;
a test keeps it equal to the command's own."""

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
ALIASES = {"list": "ls", "rm": "delete"}

EPILOG = """\b
Where the daemon is: --url, STOKER_URL, FN_API_URL, STOKER_SOCKET, or the current
context of fn; else the unix socket ($XDG_RUNTIME_DIR/stoker/stoker.sock,
/run/stoker/stoker.sock, ./.stoker/stoker.sock); else http://127.0.0.1:8080.

\b
Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.

\b
Examples:
  stoker init --runtime python hello
  stoker deploy --app demo --create-app hello
  echo '{"name": "Ada"}' | stoker invoke demo hello
"""


class Root(click.Group):
    """The commands of ``SECTIONS``, imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"cli.commands.{COMMANDS[name][0]}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` name; an unknown one gets a suggestion."""
        name = args[0]
        if name not in COMMANDS and name not in ALIASES and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no such command {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, from the table."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(10), summary) for name, (_, summary) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, from the table."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(n, help=s) for n, (_, s) in COMMANDS.items() if n.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.command(
    "stoker",
    cls=Root,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@common
@click.version_option(__version__, "--version", message="stoker %(version)s")
def root() -> None:
    """Deploy, call and watch Python functions that a Stoker daemon runs.

    A function is a directory with func.yaml, func.py and requirements.txt, as Fn and OCI Functions have it.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``stoker`` and leave the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``stoker`` and return its exit code."""
    if "_STOKER_COMPLETE" in os.environ:
        root.main(arguments, prog_name="stoker", obj=Settings())
    try:
        result: Any = root.main(arguments, prog_name="stoker", standalone_mode=False, obj=Settings())
        sys.stdout.flush()
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output left (`stoker logs | head`): no message, and none at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        from cli.errors import of_the_machine

        if (known := of_the_machine(exc)) is None:
            raise
        known.show()
        return known.exit_code
    return result if isinstance(result, int) else 0
