"""The path of a deploy: version row, canary in the real sandbox, one transaction, then the old instances go.

Make before break: calls go to the old version until the new one has answered for itself, and the floor of the new one
is filled before the old one is let go. After a restart every function is configured again and its floor restored.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import trio

from daemon import errors, ocid
from daemon.bundles.store import BundleStore
from daemon.catalog import Catalog
from daemon.config.detached import Tracing
from daemon.config.settings import Limits
from daemon.core.limit_settings import cpu_of, network_of
from daemon.core.scheduler import PoolSpec
from daemon.model import App, Bundle, Function, LaunchPlan, Version, split_handler
from daemon.store import records
from daemon.store.database import Database
from daemon.supervisor import Supervisor
from daemon.telemetry import tracing

DEPLOYS_AT_ONCE = 4
"""Most versions that are made ready at the same time; further deploys wait their turn."""
FLOOR_FILL_S = 60.0
"""Longest wait for the floor of a new version, or of all functions after a restart, beyond the canary's own limit."""
STORE_S = 5.0
"""Longest wait for the store while an interrupted deploy is recorded."""
REGION_METADATA = json.dumps(
    {
        "realmKey": ocid.REALM,
        "realmDomainComponent": "oraclecloud.com",
        "regionKey": ocid.REGION.upper(),
        "regionIdentifier": ocid.REGION,
    },
    separators=(",", ":"),
)
"""Where OCI's SDK thinks that it runs (reference oci-api 2.11): the region in this node's OCIDs."""
SAFE_PATH = "/usr/local/bin:/usr/bin:/bin"


class Deployer:
    """Makes versions live. One deploy per function at a time."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        bundles: BundleStore,
        supervisor: Supervisor,
        *,
        limits: Limits,
        interpreters: Callable[[str], str],
        on_forget: Callable[[str], None],
        tracing: Tracing | None = None,
        network_mode: str = "egress",
        log: Any,
    ) -> None:
        """``network_mode``: of apps that do not say.

        ``interpreters(runtime)`` gives an interpreter's path, "" for the daemon's own, or raises InvalidFunction."""
        self._database = database
        self._catalog = catalog
        self._bundles = bundles
        self._supervisor = supervisor
        self._limits = limits
        self._interpreters = interpreters
        self._on_forget = on_forget
        self._tracing = tracing or Tracing()
        self._network_mode = network_mode
        self._log = log
        self._turns = trio.CapacityLimiter(DEPLOYS_AT_ONCE)

    async def deploy(self, app: App, new: Function, old: Function | None) -> Function:
        """Make ``new.live`` the version that answers calls; ``old`` is what does now.

        Returns the function as stored and serving.

        Raises:
          TooLargeForNode: there will never be room for it; nothing is stored.
          InvalidFunction: a setting is for handlers, and the bundle starts a program.
          DeployFailed: the canary did not become ready; ``detail`` is its traceback. The old version goes on serving.
        """
        if not new.live.digest:
            return await self._store_without_bundle(new)
        async with self._turns:
            bundle = await self._database.read(lambda conn: records.bundle(conn, new.live.digest))
            if bundle is None:
                raise errors.BundleMissing(detail=f"{new.live.image} ({new.live.digest})")
            check_program(new.live, bundle)
            plan = self.plan(app, new, bundle, await self._interpreter(new, bundle))
            self._supervisor.scheduler.check_room(self._spec(plan, new))
            await self._database.write(lambda conn: records.insert_version(conn, replace(new.live, state="building")))
            try:
                await self._supervisor.prepare(
                    plan, self._spec(plan, new), timeout_s=self._limits.start_s + FLOOR_FILL_S
                )
            except errors.StokerError as exc:
                raise await self._failure(new, exc) from exc
            except BaseException:  # the client left or the daemon stops: the row must not stay `building`
                with trio.move_on_after(STORE_S, shield=True):
                    await self._record_failure(new, "the deploy was interrupted")
                raise
            return await self._flip(app, new, plan, bundle)

    async def _flip(self, app: App, new: Function, plan: LaunchPlan, bundle: Bundle) -> Function:
        """One transaction makes the prepared version the live one; in the same instant calls go to it."""

        def flip(stored: Function) -> None:
            self._catalog.put_function(stored)
            now = self._catalog.apps[app.id]
            # The app's configuration may have changed meanwhile: then its instances are made anew.
            same = (now.config, now.annotations) == (app.config, app.annotations)
            current = plan if same else self.plan(now, stored, bundle, plan.interpreter)
            self._supervisor.configure(current, self._spec(current, stored))
            if current is not plan:
                self._supervisor.abandon(new.id, plan.revision)

        ready = replace(new, live=replace(new.live, state="ready"))
        try:
            with trio.CancelScope(shield=True):  # from here it is done or not done, never half
                stored = await self._database.write(lambda conn: records.save_function(conn, ready), apply=flip)
        except errors.StokerError:
            self._supervisor.abandon(new.id, plan.revision)
            raise
        return stored

    async def _store_without_bundle(self, new: Function) -> Function:
        """As on Fn: a function may name an image that is not there (yet); its calls say so."""

        def apply(stored: Function) -> None:
            self._catalog.put_function(stored)
            self._supervisor.forget(stored.id)

        ready = replace(new, live=replace(new.live, state="ready"))
        return await self._database.write(lambda conn: records.save_function(conn, ready), apply=apply)

    async def _failure(self, new: Function, exc: errors.StokerError) -> errors.DeployFailed:
        await self._record_failure(new, str(exc))
        return errors.DeployFailed(
            f"cannot deploy {new.name} version {new.live.number}: {exc.message}", detail=exc.detail
        )

    async def _record_failure(self, new: Function, text: str) -> None:
        await self._database.write(lambda conn: records.fail_version(conn, new.id, new.live.number, text))
        self._log.warning("deploy failed", function=new.id, version=new.live.number, error=text)

    def check_room(self, function: Function) -> None:
        """Refuse a version of which not even one instance can ever start here; what its template takes is not counted.

        Raises:
          TooLargeForNode
        """
        live = function.live
        self._supervisor.scheduler.check_room(
            PoolSpec(
                function_id=function.id,
                revision="",
                memory_mib=live.memory_mib,
                timeout_s=live.timeout_s,
                idle_timeout_s=live.idle_timeout_s,
                uses_template=False,
            )
        )

    def apply(self, app: App, function: Function) -> None:
        """Settings that need no new version changed and are stored: tell the scheduler."""
        if function.live.digest and (plan := self._live_plan(function)):
            environment = {k: v for k, v in plan.environment.items() if k not in tracing.VARIABLES}
            environment |= tracing.environment(self._tracing, app, function)
            cpu = cpu_of(function.annotations)
            if (environment, cpu) != (plan.environment, plan.cpu):  # instances with the old ones go
                settings = json.dumps([plan.revision, environment, cpu])
                revision = f"{function.id}.{function.live.number}.{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
                plan = replace(plan, environment=environment, cpu=cpu, revision=revision)
            self._supervisor.configure(plan, self._spec(plan, function))

    async def reconfigure(self, app: App) -> None:
        """The app's configuration changed and is stored: its functions go on with new instances."""
        for function in self._catalog.functions_of(app.id):
            await self._try_to_restore(app, function)

    def forget(self, function_id: str) -> None:
        """The function was deleted and that is stored."""
        self._supervisor.forget(function_id)
        self._on_forget(function_id)

    async def restore(self) -> None:
        """After a restart: configure every function and wait, within a limit, until every floor is filled."""
        for function in list(self._catalog.functions.values()):
            await self._try_to_restore(self._catalog.apps[function.app_id], function)
        floors = [f.id for f in self._catalog.functions.values() if f.pcu_count]
        with trio.move_on_after(FLOOR_FILL_S) as scope:
            await self._supervisor.until(lambda: not any(map(self._floor_is_filling, floors)))
        if scope.cancelled_caught:
            self._log.error("not every provisioned floor could be filled in time", seconds=FLOOR_FILL_S)

    def _floor_is_filling(self, function_id: str) -> bool:
        pool = self._supervisor.scheduler.pool(function_id)
        return pool is not None and pool.pcu.state == "filling"

    async def _try_to_restore(self, app: App, function: Function) -> None:
        try:
            await self._restore(app, function)
        except errors.StokerError as exc:  # the others must not suffer from it
            self._log.error("function cannot run", function=function.id, name=function.name, error=str(exc))

    async def _restore(self, app: App, function: Function) -> None:
        if not function.live.digest or function.state != "active":
            return
        bundle = await self._database.read(lambda conn: records.bundle(conn, function.live.digest))
        if bundle is None or not self._bundles.directory(bundle.digest).is_dir():
            raise errors.BundleMissing(detail=f"{function.live.image} ({function.live.digest}) is not on the disk")
        plan = self.plan(app, function, bundle, await self._interpreter(function, bundle))
        self._supervisor.configure(plan, self._spec(plan, function))

    def live_plan(self, function: Function) -> LaunchPlan | None:
        """The plan of the version that answers calls, not of one that is being prepared; None: it cannot be started."""
        mark = f"{function.id}.{function.live.number}."
        plans = [plan for plan in self._supervisor.plans.values() if plan.revision.startswith(mark)]
        return plans[-1] if plans else None

    def _live_plan(self, function: Function) -> LaunchPlan | None:
        plans = [p for p in self._supervisor.plans.values() if p.function_id == function.id]
        return plans[-1] if plans else None

    def _spec(self, plan: LaunchPlan, function: Function) -> PoolSpec:
        return PoolSpec(
            function_id=function.id,
            revision=plan.revision,
            memory_mib=function.live.memory_mib,
            timeout_s=function.live.timeout_s,
            idle_timeout_s=function.live.idle_timeout_s,
            floor=function.pcu_count,
            uses_template=plan.start not in ("boot", "exec"),
        )

    async def _interpreter(self, function: Function, bundle: Bundle) -> str:
        """The interpreter that the version, or else the bundle, asks for.

        Raises:
          InvalidFunction: the machine lacks it.
        """
        runtime = function.live.runtime or bundle.runtime
        if runtime == "python" or not is_python(runtime):
            return ""
        # In a thread: the first question runs every Python of the machine once.
        return await trio.to_thread.run_sync(self._interpreters, runtime)

    def plan(self, app: App, function: Function, bundle: Bundle, interpreter: str) -> LaunchPlan:
        """Everything a worker of this version needs."""
        version = function.live
        handler_file, handler_name = bundle.handler_file, bundle.handler_name
        if version.handler:
            handler_file, handler_name = split_handler(version.handler)
        told = tracing.environment(self._tracing, app, function)
        environment = {**bundle.environment, **environment_of(app, function, version), **told}
        if bundle.command and is_python(bundle.runtime):  # its python3 is the one that its packages were made for
            python = interpreter or getattr(sys, "_base_executable", sys.executable)
            environment["PATH"] = f"{os.path.dirname(os.path.realpath(python))}:{SAFE_PATH}"
        adapter = version.adapter or bundle.adapter
        cpu = cpu_of(function.annotations)
        network = network_of(app.annotations, default=self._network_mode)
        settings = json.dumps(
            [version.number, environment, version.memory_mib, version.start, adapter, bundle.digest, cpu,
             network.describe()]
        )  # fmt: skip
        return LaunchPlan(
            revision=f"{function.id}.{version.number}.{hashlib.sha256(settings.encode()).hexdigest()[:12]}",
            function_id=function.id,
            function_name=function.name,
            app_id=app.id,
            app_name=app.name,
            bundle_dir=str(self._bundles.directory(bundle.digest)),
            handler_file=handler_file,
            handler_name=handler_name,
            interpreter=interpreter,
            environment=environment,
            memory_mib=version.memory_mib,
            timeout_s=version.timeout_s,
            start="exec" if bundle.command else version.start,
            adapter=adapter,
            command=fitted(bundle.command, version.memory_mib, environment),
            cpu=cpu,
            network=network,
        )


def check_program(version: Version, bundle: Bundle) -> None:
    """Raise InvalidFunction if the bundle starts a program of its own and a setting is for handlers in Python only."""
    what = f"{version.image} starts a program ({bundle.command[0]})" if bundle.command else ""
    if what and version.start not in ("auto", "exec"):
        raise errors.InvalidFunction(
            f"annotation stoker.dev/start is {version.start!r}, and {what}: that can only be exec, for there is no"
            " Python module to be imported and forked"
        )
    if what and version.adapter:
        raise errors.InvalidFunction(
            f"annotation stoker.dev/adapter is {version.adapter!r}, and {what}: adapters are for handlers in Python"
        )


def fitted(command: tuple[str, ...], memory_mib: int, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The command as it is started: a JVM and a Node are told how much memory the instance has.

    In a container they would read that from their control group, which functions do not see here; they would plan for
    all of the machine's memory, and be killed before they think of collecting garbage. The author's own options win.
    """
    words = [*command, *environment.get("NODE_OPTIONS", "").split(), *environment.get("JDK_JAVA_OPTIONS", "").split()]
    known: tuple[str, ...]
    match os.path.basename(command[0]) if command else "":
        case "java":
            known, option = ("-Xmx", "-XX:MaxRAM", "-XX:MaxHeapSize"), f"-XX:MaxRAM={memory_mib}m"
        case "node":
            # POLICY: half; V8 itself would take a quarter, and needs some beside its heap.
            known, option = ("--max-old-space-size", "--max_old_space_size"), f"--max-old-space-size={memory_mib // 2}"
        case _:
            return command
    return command if any(word.startswith(known) for word in words) else (command[0], option, *command[1:])


def is_python(runtime: str) -> bool:
    """Whether a bundle's runtime is a Python, not another language's."""
    return runtime.startswith("python")


def environment_of(app: App, function: Function, version: Version) -> Mapping[str, str]:
    """A worker's whole environment: configuration (the function's wins) and FN_*, which it cannot change."""
    return {
        "PATH": SAFE_PATH,
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # isolation.md 0.2: thread pools of BLAS at import time make a template unfit for forking.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        **app.config,
        **version.config,
        "FN_APP_ID": app.id,
        "FN_APP_NAME": app.name,
        "FN_FN_ID": function.id,
        "FN_FN_NAME": function.name,
        "FN_MEMORY": str(version.memory_mib),
        "FN_TYPE": "sync",
        "FN_FORMAT": "http-stream",
        "FN_LISTENER": "unix:/tmp/iofs/lsnr.sock",
        "OCI_REGION_METADATA": REGION_METADATA,
    }
