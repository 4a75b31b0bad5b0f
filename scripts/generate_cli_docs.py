"""Write docs/reference/cli.md from what ``stoker --help`` and each command's ``--help`` print; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "cli.md"
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

from cli.main import root  # noqa: E402
from cli.options import Settings  # noqa: E402

WIDTH = 100
HEAD = """\
# The stoker command

<!-- Made by scripts/generate_cli_docs.py from the commands' own --help. Do not edit. -->

`stoker` is a client of the daemon's HTTP APIs. Results go to standard output, progress, warnings and errors to standard
error. Tables are for people; scripts use `--output json` or `--output yaml`, before or after the command's words.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | Done. |
| 1 | It failed: the daemon or the function answered with an error, or could not be reached. Standard error says why and what to do next. |
| 2 | Wrong usage: an unknown command or option, or a value that is not allowed. |
| 130 | Interrupted (Ctrl-C). |

## Environment

| Variable | Meaning |
|---|---|
| `STOKER_URL`, `FN_API_URL` | Address of the daemon: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`. `--url` comes first, then these, in this order. |
| `STOKER_SOCKET` | Path of the daemon's unix socket, when no address is given. Without it the first of these that somebody listens on: `$XDG_RUNTIME_DIR/stoker/stoker.sock`, `/run/stoker/stoker.sock`, `./.stoker/stoker.sock`; then `http://127.0.0.1:8080`. |
| `XDG_CACHE_HOME` | Where resolved dependencies are kept, in `stoker/deps` below it (default `~/.cache`). |
| `STOKER_SYSTEM_PACKAGES` | `installed`: this machine has what `apt-get`, `microdnf` and the like would install in a Dockerfile's image; such lines are passed over with a warning instead of refused. |
| `STOKER_CACHE_MIB` | Size bound of that cache (default 2048); the entries longest unused go. |
| `STOKER_INSTALLER` | `uv` or `pip`: which one resolves dependencies. Without it uv where it is installed, else pip. |
| `UV_INDEX_URL`, `PIP_INDEX_URL`, ... | The installers' own variables are passed on; an index is part of what a cached entry belongs to. |

## What goes into a bundle

All files of the directory under `function/`, but for `.git`, `.hg`, `.svn`, `__pycache__`, `*.pyc`, `*.pyo`, `.venv`,
`.DS_Store`, the caches of mypy, pytest and ruff, and what the patterns of `.fnignore` name (the syntax of `.gitignore`).
A symbolic link to something inside the directory becomes a copy of it; one that leads out of it is an error. The
dependencies of `requirements.txt` go under `python/`, without `fdk`: the worker provides it. `stoker deploy` and `stoker push
DIR` send these as a layer of their own, once; `stoker build` puts them into the bundle.

## Commands
"""


def commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """Path and help of a command and of all below it, in the order of the help."""
    context = click.Context(command, parent, name, terminal_width=WIDTH, obj=Settings(), **command.context_settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from commands(found, context, below)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, text in commands(root, None, "stoker"):
        depth = min(len(path.split()) + 2, 4)
        parts.append(f"{'#' * depth} {path}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is out of date: run scripts/generate_cli_docs.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
