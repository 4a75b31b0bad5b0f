"""Run a handler once without a daemon: its own interpreter, its dependencies, its configuration; no sandbox."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import deps, funcfile, interpreters, requirements
from cli.errors import CliError
from cli.steps import Steps

PROGRAM = Path(__file__).parent / "local_program.py"
TIMEOUT_S = 30
"""When func.yaml has none: the daemon's default."""
CALL_ID = "01LOCA1CA11000000000000000"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the function answered, as its FDK would say it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    traceback: str
    """Of what it raised, or empty."""
    at_import: bool
    """It did not even start."""


def invoke(
    directory: Path, found: funcfile.FuncFile, *, body: bytes, headers: list[tuple[str, str]], config: dict[str, str],
    steps: Steps,
) -> Outcome:  # fmt: skip
    """Call the handler of ``directory`` in a process of its own; what it prints goes to standard error.

    Raises:
      CliError: it is no Python handler, a dependency cannot be had, it ended without an answer, or took too long.
    """
    if found.starts_program:
        raise CliError(f"{found.name} is no Python handler: it can only be run by the daemon")
    with steps.step("dependencies") as step:
        python = interpreters.for_runtime(found.runtime)
        resolved = deps.provide(requirements.read(directory / "requirements.txt"), python, step)
    packages = _unpacked(resolved) if resolved is not None else ""
    timeout_s = found.timeout or TIMEOUT_S
    request = {
        "directory": str(directory.resolve()), "packages": packages, "fdk": _fdk(),
        "file": found.handler_file, "handler": found.handler_name,
        "adapter": str(found.annotations.get("stoker.dev/adapter") or ""), "call_id": CALL_ID,
        "deadline": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + timeout_s)),
        "headers": [[name.lower(), value] for name, value in headers],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="stoker-local-") as tmp:
        environment = _environment(found, {**found.config, **config}, tmp)
        return _run(python.path, request, body, environment, timeout_s)


def _run(python: str, request: dict[str, Any], body: bytes, environment: dict[str, str], timeout_s: float) -> Outcome:
    read_fd, write_fd = os.pipe()
    try:
        process = subprocess.Popen(
            [python, "-I", "-S", str(PROGRAM), str(write_fd)], stdin=subprocess.PIPE, stdout=2, env=environment,
            pass_fds=(write_fd,), start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        os.close(read_fd)
        raise CliError(f"cannot run {python}: {exc.strerror}") from exc
    finally:
        os.close(write_fd)
    with open(read_fd, encoding="utf-8") as answers:
        try:
            process.communicate(json.dumps(request).encode() + b"\n" + body, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise CliError(f"no answer within the function's timeout of {timeout_s} s: it was killed") from None
        finally:
            process.kill()
            process.wait()
        text = answers.read()
    if not text:
        how = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise CliError(f"the function ended the process without an answer: {how}")
    answer = json.loads(text)
    return Outcome(
        answer["status"], [(name, value) for name, value in answer["headers"]], base64.b64decode(answer["body"]),
        answer["traceback"], answer["init"],
    )  # fmt: skip


def _environment(found: funcfile.FuncFile, config: dict[str, str], tmp: str) -> dict[str, str]:
    """As a worker has it, as far as there is no daemon."""
    return {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": tmp, "TMPDIR": tmp, "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1", **config, "FN_APP_NAME": "local", "FN_APP_ID": "local", "FN_FN_NAME": found.name,
        "FN_FN_ID": "local", "FN_MEMORY": str(found.memory or 128), "FN_TYPE": "sync", "FN_FORMAT": "http-stream",
    }  # fmt: skip


def _unpacked(resolved: deps.Dependencies) -> str:
    """The dependencies as files, beside their archive; unpacked once. We made the archive ourselves."""
    target = resolved.layer.parent / "unpacked"
    if not target.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="unpacked-", dir=resolved.layer.parent))
        with zipfile.ZipFile(resolved.layer) as archive:
            archive.extractall(partial)
        try:
            partial.rename(target)
        except OSError:  # another run was faster
            shutil.rmtree(partial, ignore_errors=True)
    return str(target / "python")


def _fdk() -> str:
    """The directory that our FDK is in."""
    spec = importlib.util.find_spec("fdk")
    if spec is None or spec.origin is None:
        raise CliError("the FDK is not installed beside this command", hint="install stoker again")
    return os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
