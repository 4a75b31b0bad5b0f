"""The architecture, checked: imports point down only, and the core does no I/O (docs/explanation/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("daemon", "runtime", "fdk", "cli")
FLOORS = {
    "fdk": 0,
    "cli": 0,
    "runtime": 1,
    "daemon": 2,  # the bare package
    # 2: pure, or nearly so
    "daemon.core": 2,
    "daemon.config": 2,
    "daemon.auth": 2,
    "daemon.model": 2,
    "daemon.errors": 2,
    "daemon.cures": 2,
    "daemon.ocid": 2,
    "daemon.catalog": 2,
    "daemon.descriptors": 2,
    "daemon.telemetry.calls": 2,
    "daemon.logs.lines": 2,
    # 3: mechanisms, one thing of the operating system each
    "daemon.workers": 3,
    "daemon.sandbox": 3,
    "daemon.bundles": 3,
    "daemon.store": 3,
    "daemon.logs": 3,
    "daemon.telemetry": 3,
    "daemon.auth.identity": 3,
    "daemon.auth.tokens": 3,
    "daemon.detached.contents": 3,
    "daemon.detached.keeper": 3,
    "daemon.detached.queues": 3,
    "daemon.detached.webhooks": 3,
    "daemon.listeners": 3,
    "daemon.logsetup": 3,
    "daemon.outward": 3,
    "daemon.posts": 3,
    "daemon.systemd": 3,
    "daemon.tls": 3,
    # 4: services
    "daemon.supervisor": 4,
    "daemon.invoker": 4,
    "daemon.deployer": 4,
    "daemon.registry": 4,
    "daemon.oci": 4,
    "daemon.iam": 4,
    "daemon.janitor": 4,
    "daemon.detached": 4,
    "daemon.telemetry.advice": 4,
    "daemon.telemetry.record_metrics": 4,
    "daemon.telemetry.tracing": 4,
    "daemon.workers.debugging": 4,
    "daemon.workers.freezer": 4,
    # 5: HTTP in, bytes out
    "daemon.http": 5,
    "daemon.console": 5,
    # 6: who knows everyone
    "daemon.node": 6,
    "daemon.main": 6,
    "daemon.serve": 6,
}
PURE = (
    "daemon.core",
    "daemon.telemetry.calls",
    "daemon.logs.lines",
    "daemon.model",
    "daemon.errors",
    "daemon.cures",
    "daemon.ocid",
    "daemon.catalog",
    "runtime.wire",
)
IMPURE = {
    "trio",
    "logging",
    "random",
    "sqlite3",
    "socket",
    "subprocess",
    "threading",
    "time",
    "os",
    "asyncio",
    "select",
}
ALLOWED_IMPURE = {
    ("daemon.model", "os"),  # model.Ids: random bytes of a new id
    ("daemon.model", "time"),
    ("daemon.model", "threading"),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "build" in path.parts:
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


@cache
def imports() -> list[tuple[str, str]]:
    found = []
    known = {module for module, _ in modules()}
    for name, path in modules():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*parents, *([node.module] if node.module else [])])
                found += [
                    (name, f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base) for alias in node.names
                ]
    return found


def under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def floor_of(name: str) -> int:
    best = max((root for root in FLOORS if name == root or name.startswith(root + ".")), key=len)
    if best == "daemon" and name != "daemon":
        raise AssertionError(f"{name} has no floor: add it to FLOORS")
    return FLOORS[best]


def test_imports_point_down() -> None:
    up = [f"{a} -> {b}" for a, b in imports() if under(b, OURS) and floor_of(b) > floor_of(a)]
    assert up == []


def test_the_cli_is_a_client_like_any_other() -> None:
    assert [f"{a} -> {b}" for a, b in imports() if under(a, ("cli",)) and under(b, ("daemon", "runtime"))] == []


def test_the_fdk_stands_alone() -> None:
    assert [f"{a} -> {b}" for a, b in imports() if under(a, ("fdk",)) and under(b, ("daemon", "runtime", "cli"))] == []


def test_the_worker_side_needs_only_msgpack_and_the_fdk() -> None:
    allowed = {*sys.stdlib_module_names, "msgpack", "fdk", "runtime"}
    # numpy is touched only if the function has already imported it.
    foreign = [
        f"{a} -> {b}" for a, b in imports() if under(a, ("runtime", "fdk")) and b.partition(".")[0] not in allowed
    ]
    assert [line for line in foreign if not line.endswith("numpy")] == []


def test_the_daemon_does_not_load_the_fdk() -> None:
    """Importing it sets the process's logging up for a function."""
    code = "import sys, daemon.serve; print([m for m in sys.modules if m.partition('.')[0] == 'fdk'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_does_no_io() -> None:
    dirty = [
        f"{a} -> {b}"
        for a, b in imports()
        if under(a, PURE) and b.partition(".")[0] in IMPURE and (a, b) not in ALLOWED_IMPURE
    ]
    assert dirty == []


def test_no_file_is_too_long() -> None:
    long = {name: n for name, path in modules() if (n := len(path.read_text().splitlines())) > 480}
    assert long == {}


def test_the_scan_sees_the_project() -> None:
    assert len(imports()) > 50
