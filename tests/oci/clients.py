"""Oracle's own clients in virtual environments of their own, made once and kept beside the project."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KINDS = {"new": ["oci", "oci-cli"], "classic": ["oci==2.186.0", "oci-cli==3.93.0"]}
"""``classic``: the last clients of API version 20181201; ``new``: what pip gives today."""
INSTALL_S = 900.0
CALL_S = 180.0


@cache
def oci_python(kind: str) -> Path:
    """The Python of the virtual environment with these clients; skips the test if the registry cannot be reached."""
    where = ROOT / f".venv-oci-{kind}"
    python, done = where / "bin" / "python", where / "complete"
    with (ROOT / f".venv-oci-{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", where], check=True, timeout=INSTALL_S)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *KINDS[kind]]
            made = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S)
            if made.returncode:
                if "connection" in made.stderr.lower() or "no matching distribution" in made.stderr.lower():
                    pytest.skip(f"the package index cannot be reached: {made.stderr[-300:]}")
                raise AssertionError(made.stderr)
            done.touch()
    return python


@dataclass
class Profile:
    """A throw-away key and a configuration file with it; open mode takes any signature."""

    directory: Path
    config: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = self.directory / "key.pem"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        key.write_text(key.read_text() + "OCI_API_KEY\n")
        key.chmod(0o600)
        self.config = {
            "user": "ocid1.user.oc1..throwaway",
            "tenancy": "ocid1.tenancy.oc1..throwaway",
            "fingerprint": ":".join(["aa"] * 16),
            "key_file": str(key),
            "region": "local-1",
        }
        lines = ["[DEFAULT]", *(f"{name}={value}" for name, value in self.config.items())]
        self.file.write_text("\n".join(lines) + "\n")
        self.file.chmod(0o600)

    @property
    def file(self) -> Path:
        return self.directory / "config"


@dataclass
class Refused(Exception):
    """A ServiceError of the SDK."""

    status: int
    code: str
    message: str
    id: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    data: Any
    next_page: str | None

    def header(self, name: str) -> str:
        return {key.lower(): value for key, value in self.headers.items()}.get(name, "")


class Sdk:
    """The SDK in its own process: ``sdk.manage("get_function", id)``."""

    def __init__(self, process: subprocess.Popen[str], kind: str, endpoint: str) -> None:
        self._process = process
        self.kind, self.endpoint = kind, endpoint

    @property
    def classic(self) -> bool:
        return self.kind == "classic"

    def manage(self, method: str, *args: Any, **kwargs: Any) -> Answer:
        return self.call("FunctionsManagementClient", method, *args, **kwargs)

    def work(self, method: str, *args: Any, **kwargs: Any) -> Answer:
        return self.call("WorkRequestManagementClient", method, *args, **kwargs)

    def invoke(self, function_id: str, body: str = "", **kwargs: Any) -> Answer:
        return self.call("FunctionsInvokeClient", "invoke_function", function_id, invoke_function_body=body, **kwargs)

    def call(self, client: str, method: str, *args: Any, endpoint: str = "", **kwargs: Any) -> Answer:
        """One call; raises Refused for a ServiceError."""
        request = {
            "client": client, "endpoint": endpoint or self.endpoint, "method": method, "args": args, "kwargs": kwargs,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        if "error" in reply:
            raise Refused(**reply["error"])
        assert "broken" not in reply, reply["broken"]
        return Answer(**reply)

    def settled(self, answer: Answer) -> dict[str, Any]:
        """Wait for the work request of an answer; its last state."""
        work_id = answer.header("opc-work-request-id")
        assert work_id, answer.headers
        end_s = time.monotonic() + CALL_S
        while time.monotonic() < end_s:
            found: dict[str, Any] = self.work("get_work_request", work_id).data
            if found["status"] not in ("ACCEPTED", "IN_PROGRESS"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{work_id} is still {found['status']}")

    # What the two versions spell differently

    def source(self, image: str) -> dict[str, Any]:
        if self.classic:
            return {"image": image}
        return {"source_details": {"$model": "CreateContainerImageFunctionSourceDetails", "image": image}}

    def app(self, name: str, **fields: Any) -> dict[str, Any]:
        details = {
            "$model": "CreateApplicationDetails", "compartment_id": "ocid1.tenancy.oc1..throwaway",
            "display_name": name, "subnet_ids": [], **fields,
        }  # fmt: skip
        data: dict[str, Any] = self.manage("create_application", details).data
        return data

    def create(self, app_id: str, name: str, image: str = "hello:1", **fields: Any) -> Answer:
        details = {
            "$model": "CreateFunctionDetails", "display_name": name, "application_id": app_id, "memory_in_mbs": 128,
            **(self.source(image) if image else {}), **fields,
        }  # fmt: skip
        return self.manage("create_function", details)

    def function(self, app_id: str, name: str, image: str = "hello:1", **fields: Any) -> dict[str, Any]:
        """A function that is ready."""
        made = self.create(app_id, name, image, **fields)
        if not self.classic:
            work = self.settled(made)
            assert work["status"] == "SUCCEEDED", self.work("list_work_request_errors", work["id"]).data
        data: dict[str, Any] = self.manage("get_function", made.data["id"]).data
        assert data["lifecycle_state"] == "ACTIVE"
        return data

    def update(self, function_id: str, **fields: Any) -> dict[str, Any]:
        """The function after an update that is done; fails when its work request does."""
        kwargs = {"if_match": fields.pop("if_match")} if "if_match" in fields else {}
        details = {"$model": "UpdateFunctionDetails", **fields}
        answer = self.manage("update_function", function_id, details, **kwargs)
        if not self.classic:
            assert self.settled(answer)["status"] == "SUCCEEDED"
        data: dict[str, Any] = self.manage("get_function", function_id).data
        return data


@contextmanager
def sdk(kind: str, profile: Profile, endpoint: str) -> Iterator[Sdk]:
    """The SDK of that kind, ready for calls."""
    command = [
        str(oci_python(kind)),
        "-W",
        "ignore",
        str(Path(__file__).with_name("driver.py")),
        json.dumps(profile.config),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Sdk(process, kind, endpoint)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@dataclass
class Cli:
    """The ``oci`` command of a kind of client."""

    kind: str
    profile: Profile
    endpoint: str

    def run(self, *words: str, fails: bool = False) -> Any:
        """Run ``oci ...``; its JSON, or for a command that must fail the service's error."""
        done = subprocess.run(
            [oci_python(self.kind).with_name("oci"), *words, "--endpoint", self.endpoint],
            capture_output=True, text=True, timeout=CALL_S, cwd=self.profile.directory,
            input="y\n",  # updates ask whether one is sure
            env={**os.environ, "OCI_CLI_CONFIG_FILE": str(self.profile.file), "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        if fails:
            assert done.returncode, f"should have failed: {words}\n{done.stdout}"
            return json.loads(done.stderr[done.stderr.index("{") :])
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        answer = done.stdout.partition("[y/N]: ")[2] or done.stdout
        return json.loads(answer) if answer.strip().startswith("{") else answer
