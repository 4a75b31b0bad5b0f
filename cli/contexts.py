"""The contexts of the ``fn`` command, read only: where the daemon is and what registry names images begin with.

``~/.fn/config.yaml`` names the current context (``FN_CONTEXT`` another one), ``~/.fn/contexts/NAME.yaml`` has
``provider``, ``api-url`` and ``registry`` (reference: fn-contract 4.2). ``fn`` writes them; Stoker never does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cli.errors import CliError

DEFAULT_URLS = ("http://localhost:8080", "http://127.0.0.1:8080", "localhost:8080")
"""What ``fn`` writes when it first runs: it says nothing about where the user's daemon is."""
FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Context:
    """What a context says; empty: nothing."""

    name: str = ""
    api_url: str = ""
    registry: str = ""


def current(environ: Mapping[str, str]) -> Context:
    """The context that ``fn`` would use.

    One of another provider than ``default`` counts as none: it names a cloud, not a daemon.

    Raises:
      CliError: FN_CONTEXT names none, or a file cannot be read.
    """
    home = environ.get("HOME", "")
    if not home:
        return Context()
    name = environ.get("FN_CONTEXT", "")
    asked = bool(name)
    if not name:
        name = _read(os.path.join(home, ".fn", "config.yaml")).get("current-context", "")
    if not name or "/" in name or name.startswith("."):
        return Context()
    path = os.path.join(home, ".fn", "contexts", f"{name}.yaml")
    values = _read(path)
    if asked and not values:
        raise CliError(f"FN_CONTEXT: there is no context {name!r}", hint=f"it would be {path}; 'fn list contexts'")
    if values.get("provider", "default") not in ("", "default"):
        return Context(name=name)
    return Context(name, values.get("api-url", ""), values.get("registry", ""))


def api_url(environ: Mapping[str, str]) -> str:
    """The current context's address, or the empty string when it is none or only what ``fn`` has by default."""
    found = current(environ)
    return "" if found.api_url.rstrip("/") in DEFAULT_URLS and not environ.get("FN_CONTEXT") else found.api_url


def registry(environ: Mapping[str, str]) -> str:
    """What image names begin with: FN_REGISTRY, else the current context's registry, else nothing."""
    return environ.get("FN_REGISTRY") or current(environ).registry


def _read(path: str) -> dict[str, str]:
    """A flat YAML file; empty when it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise CliError(f"cannot read {path}: {exc}") from exc
    import yaml  # 10 ms, and only for those who use fn, too

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise CliError(f"cannot read {path}: not YAML: {exc}") from exc
    if not isinstance(values, dict):
        return {}
    return {str(key): str(value) for key, value in values.items() if isinstance(value, (str, int))}
