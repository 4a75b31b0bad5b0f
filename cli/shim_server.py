"""``fn start`` and ``fn stop``: the engine's ``run`` and ``stop`` of the server, as a stokerd of the user's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from cli.errors import CliError
from cli.shim import SERVER, WHAT_IT_IS, Refused, split

READY_S = 60.0
"""Longest wait for a server that was started in the background."""
STOP_S = 60.0
"""Longest wait for it to drain and end; then it is killed."""
POLL_S = 0.05
_VALUED = {
    "--name", "-v", "--volume", "-e", "--env", "-p", "--publish", "--entrypoint", "--env-file", "--network", "--net",
    "--link", "--add-host", "-w", "--workdir", "-u", "--user", "--log-driver", "--restart", "-h", "--hostname",
}  # fmt: skip
_FLAGS = {"--rm", "-i", "-d", "-t", "-it", "-ti", "--detach", "--privileged", "--interactive", "--tty", "--init"}
_CONTAINERS_ONLY = {"FN_IOFS_DOCKER_PATH", "FN_IOFS_PATH", "FN_LOCAL_DEBUG", "FN_LOCAL_DEBUG_PORT"}
"""What ``fn start`` always sets, for the container that it thinks it starts."""


def run(words: list[str]) -> None:
    """``run``: start the server, in the foreground or, with -d, in the background.

    Raises:
      Refused: another image than the server's.
      CliError: it does not start.
    """
    found = split(words, valued=_VALUED, flags=_FLAGS, stop_at_first=True)
    if not found.rest:
        raise Refused("'run' requires at least 1 argument: an image")
    image = found.rest[0]
    if image.partition(":")[0] != SERVER:
        if any(value.startswith("FN_FUNCTION_NAME=") for value in found.options.get("-e", [])):
            raise Refused(
                f"{image} is an init image: a container, and there are none here", hint="fn init --runtime ..."
            )
        raise Refused(f"cannot run {image}: only {SERVER} is answered", hint=WHAT_IT_IS)
    name = found.last("--name", "fnserver")
    if running(name):
        raise CliError(f"the name {name!r} is in use: a server that 'fn start' started runs", hint="'fn stop' ends it")
    data = home() / "data"
    data.mkdir(parents=True, exist_ok=True)
    port = _port([*found.options.get("-p", []), *found.options.get("--publish", [])])
    command = [*_stokerd(), "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    environment = {**os.environ, **_environment(found.options.get("--env-file", []), found.options.get("-e", []))}
    background = any(flag in found.options for flag in ("-d", "--detach"))
    if background:
        _start(name, command, environment)
        return
    _pid_file(name).write_text(str(os.getpid()))
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def _start(name: str, command: list[str], environment: dict[str, str]) -> None:
    log = home() / f"{name}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, cwd="/",
        )  # fmt: skip
    _pid_file(name).write_text(str(process.pid))
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        if any(line.startswith("ready ") for line in log.read_text(errors="replace").splitlines()):
            click.echo(f"{process.pid:064x}")  # an engine prints the container's id
            return
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    process.kill()
    _pid_file(name).unlink(missing_ok=True)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise CliError("the server did not start", detail=tail, hint=f"all that it said is in {log}")


def stop(command: str, words: list[str]) -> None:
    """``stop NAME``: let it drain and end.

    Raises:
      CliError: there is none of that name.
    """
    found = split(words, valued={"-t", "--time", "-s", "--signal"}, flags={"-f", "--force", "-v"})
    for name in found.rest:
        pid = running(name)
        if not pid:
            raise CliError(
                f"no such container: {name}", hint=f"'fn start' starts a server ('{command}' ends only such)"
            )
        os.kill(pid, signal.SIGTERM)
        end_s = time.monotonic() + STOP_S
        while running(name):
            if time.monotonic() > end_s:
                os.kill(pid, signal.SIGKILL)
                end_s = time.monotonic() + STOP_S
            time.sleep(POLL_S)
        _pid_file(name).unlink(missing_ok=True)
        click.echo(name)


def home() -> Path:
    """Where the server that ``fn start`` starts keeps everything: beside fn's own data."""
    path = Path(os.path.expanduser("~")) / ".fn" / "stoker"
    path.mkdir(parents=True, exist_ok=True)
    return path


def running(name: str) -> int:
    """The pid of the server of this name; 0 when it does not run."""
    try:
        pid = int(_pid_file(name).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    ours = any(word.endswith((b"stokerd", b"daemon.main")) for word in command)
    return pid if ours and state != "Z" and str(home() / "data").encode() in command else 0


def _pid_file(name: str) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise Refused(f"invalid container name {name!r}")
    return home() / f"{name}.pid"


def _stokerd() -> list[str]:
    beside = os.path.join(os.path.dirname(sys.executable), "stokerd")
    if os.access(beside, os.X_OK):
        return [beside]
    found = shutil.which("stokerd")
    return [found] if found else [sys.executable, "-m", "daemon.main"]


def _port(published: list[str]) -> int:
    """The host's port of ``-p 8080:8080``.

    Raises:
      Refused: an address other than loopback.
    """
    if not published:
        return 8080
    *address, host, _ = ["", *published[-1].split(":")][-3:] if ":" in published[-1] else ["", published[-1], ""]
    if address and address[0] not in ("", "127.0.0.1", "localhost"):
        raise Refused(f"-p {published[-1]}: the server listens on this machine only (127.0.0.1)")
    port = host.partition("/")[0]
    if not port.isdigit() or int(port) > 65535:
        raise Refused(f"-p {published[-1]}: must be PORT:PORT")
    return int(port)


def _environment(files: list[str], values: list[str]) -> dict[str, str]:
    """What ``-e`` and ``--env-file`` set, but for what only concerns the container.

    Raises:
      Refused: a file that cannot be read.
    """
    found: dict[str, str] = {}
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                values = [
                    *(line.strip() for line in file if line.strip() and not line.lstrip().startswith("#")),
                    *values,
                ]
        except (OSError, UnicodeDecodeError) as exc:
            raise Refused(f"--env-file {path}: {exc}") from exc
    for value in values:
        name, equals, text = value.partition("=")
        if equals and name not in _CONTAINERS_ONLY:
            found[name] = text
        elif not equals and name in os.environ:
            found[name] = os.environ[name]
    return found
