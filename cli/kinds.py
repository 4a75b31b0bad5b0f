"""What is no Python: which runtimes there are besides, what starts them, what a machine needs for them. Pure.

A bundle of such a kind is a program of its own that follows the Fn function contract (HTTP on the unix socket that
FN_LISTENER names). What it starts is written into the bundle as ``.stoker.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FDK_ANNOTATION = "stoker.dev/fdk"
"""In func.yaml: ``official`` has a Python handler run by Fn's own FDK in a process per instance, ``stoker`` by ours."""
START_ANNOTATION = "stoker.dev/start"
ADAPTER_ANNOTATION = "stoker.dev/adapter"
BUILT_FILE = ".stoker.json"
"""Equal to the daemon's: ``runtime``, ``command``, ``environment`` of a bundle."""
_FOREIGN = re.compile(r"(node|go|java|kotlin|ruby|dotnet|docker|exec)([0-9][0-9.]*)?")
FDK_JAVA = "com.fnproject.fn.runtime.EntryPoint"
JAVA_CLASS_PATH = "/function/*:/function/app/*:/function/target/*:/function/build/libs/*:/function/runtime/*"
"""Where fn's Java image has the function (``app``) and the FDK (``runtime``), and where Maven and Gradle put theirs."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs the functions of one language."""

    name: str
    """The command."""
    install: str
    """How to get it on Debian."""


PROGRAMS = {
    "node": Program("node", "apt install nodejs npm"),
    "java": Program("java", "apt install default-jre-headless"),
    "kotlin": Program("java", "apt install default-jre-headless"),
    "ruby": Program("ruby", "apt install ruby"),
    "dotnet": Program("dotnet", "the .NET runtime, https://dotnet.microsoft.com/download"),
}
"""Family -> program. Others (``go``, ``exec``, ``docker``) start what is in the bundle."""


def family(runtime: str) -> str:
    """``node`` for ``node22``; empty for Python."""
    match = _FOREIGN.fullmatch(runtime)
    return match[1] if match else ""


def major(runtime: str) -> str:
    """``22`` for ``node22``; empty when none is asked for."""
    match = _FOREIGN.fullmatch(runtime)
    return (match[2] or "").partition(".")[0] if match else ""


def default_command(runtime: str, cmd: list[str], jars: list[str]) -> list[str]:
    """What is started when func.yaml has no entrypoint; empty: it has to say.

    ``jars``: those of the bundle, relative to ``function/``, that say their main class.
    """
    match family(runtime):
        case "node":
            return ["node", *(cmd or ["func.js"])]
        case "go" | "exec":
            return ["./func", *cmd]
        case "ruby":
            return ["ruby", *(cmd or ["func.rb"])]
        case "java" | "kotlin" if cmd and "::" in cmd[0]:
            return ["java", "-XX:+UseSerialGC", "-cp", JAVA_CLASS_PATH, FDK_JAVA, *cmd]
        case "java" | "kotlin" if len(jars) == 1:
            return ["java", "-XX:+UseSerialGC", "-jar", jars[0], *cmd]
    return []
