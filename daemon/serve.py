"""The composition root: builds every part, nests their lifetimes, drains. The only module that knows everyone.

What it builds it hands down; nothing looks anything up. Order of life: store, launcher, supervisor, invoker, deployer,
front door; the end runs the other way round, so that nothing outlives what it stands on.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trio

from daemon import VERSION, systemd
from daemon.bundles.interpreters import Interpreters
from daemon.bundles.store import BundleStore
from daemon.catalog import Catalog
from daemon.config.settings import Config, ConfigError, Limits
from daemon.console import pages as console
from daemon.console.desk import Desk
from daemon.console.sessions import Sessions
from daemon.core.scheduler import Scheduler
from daemon.deployer import Deployer
from daemon.descriptors import within
from daemon.detached.destinations import make_outbox, may_call_of
from daemon.detached.metrics import DetachedMetrics
from daemon.detached.service import Detached
from daemon.http import (
    calls_api,
    debug_api,
    detached_api,
    doctor_api,
    fn_api,
    iam_api,
    logs_api,
    oci_api,
    openapi_api,
    ops,
    series_api,
)
from daemon.http.app import make_app
from daemon.http.authorise import CallGate, Gate
from daemon.http.calls_api import CallsService
from daemon.http.detached_api import DetachedService
from daemon.http.frontdoor import FrontDoor
from daemon.http.invoke import make_route
from daemon.iam import open_iam
from daemon.iam.principals import ResourcePrincipals
from daemon.invoker import Invoker
from daemon.janitor import Janitor
from daemon.listeners import CannotServe, Listeners, open_listeners, reload_on_hangup
from daemon.logs.book import LogBook
from daemon.logs.sinks import LAST_WORDS_S, LogSinks
from daemon.logsetup import setup_logging
from daemon.model import Ids
from daemon.node import Node
from daemon.oci.compose import make_oci
from daemon.registry import Registry
from daemon.sandbox.doctor import cgroup_fact, check, diagnose, egress_fact
from daemon.sandbox.placement import Placement, open_placement
from daemon.sandbox.walls import Sandbox
from daemon.store import records
from daemon.store.database import Database, DatabaseError
from daemon.supervisor import Supervisor
from daemon.telemetry.advice import Advisor
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.record_metrics import OciMetrics, RecordMetrics
from daemon.telemetry.recorder import Recorder
from daemon.telemetry.series import Series
from daemon.telemetry.tracing import Tracer
from daemon.workers.debugging import Debugging
from daemon.workers.freezer import start_freezer
from daemon.workers.launcher import Launcher

DATA_LOCK = "stokerd.lock"
LOCK_S = 5.0
"""How long to wait for a former daemon that is just leaving; then the data directory counts as in use."""
LOCK_POLL_S = 0.02
"""How often that is tried."""
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
      CannotServe: the data directory, the database or a listener cannot be used.
    """
    log = setup_logging(config.logs)
    become_subreaper()
    config = with_descriptors(replace(config, limits=with_budget(config.limits)), raise_descriptor_limit(), log)
    async with data_directory(config.data), open_database(config.data / "stoker.db", log) as database:
        with (
            open_listeners(config) as listeners,
            open_placement(config.data, with_cgroups(config), config.network, log) as placement,
        ):
            ports = [sock.getsockname()[1] for sock in listeners.tcp]
            await _serve(config, listeners, database, placement, open_sandbox(config, placement, ports, log), log)
    log.info("stopped")


async def _serve(
    config: Config, listeners: Listeners, database: Database, placement: Placement, sandbox: Sandbox, log: Any
) -> None:
    limits = config.limits
    catalog = Catalog()
    await database.write(records.sweep_building)
    await database.read(lambda conn: records.fill_catalog(conn, catalog))
    bundles = BundleStore(config.data / "bundles", config.bundles, run_dir=config.data / "run")
    await trio.to_thread.run_sync(bundles.sweep_partial)
    ids, metrics = Ids(), Metrics()
    iam = await open_iam(config, database, catalog, ids, log=log)
    enforce = config.auth.mode == "iam"
    scheduler = Scheduler(limits, jitter=random.random)
    interpreters = Interpreters()
    recorder = Recorder(config.records, log=log)
    async with (
        recorder.opened(config.data / "records.db"),
        LogBook(config.data / "logs", config.logs, log=log) as log_book,
    ):
        launcher = Launcher(limits, run_dir=config.data / "run", log=log, placement=placement, sandbox=sandbox)
        # A daemon that died between a function's deletion and its logs' leaves those behind.
        await trio.to_thread.run_sync(log_book.sweep, set(catalog.functions))
        sinks = LogSinks(catalog, log_book, config.logs, outward=enforce and not config.logs.local_syslog, log=log)
        supervisor = Supervisor(scheduler, launcher, limits=limits, log_book=log_book, log=log)
        launcher.on_template_gone = supervisor.template_gone
        placement.on_out_of_memory = supervisor.ran_full
        tracer = Tracer(config.tracing, catalog, log=log) if config.tracing.endpoint else None
        principals = None
        if enforce and config.auth.resource_principals:
            principals = ResourcePrincipals(
                iam.identity, supervisor, ttl_s=config.auth.resource_principal_s, endpoint=listeners.url, log=log,
                clock=time.time,
            )  # fmt: skip
        invoker = Invoker(
            catalog, supervisor, metrics, log=log, recorder=recorder if config.records.enabled else None, tracer=tracer
        )
        janitor = Janitor(database, bundles, log_book, metrics, run_dir=config.data / "run", log=log)
        outbox = await make_outbox(config, database, catalog, ids, log_book, log=log)
        detached = Detached(
            database, catalog, invoker, scheduler, settings=config.detached, limits=limits, outbox=outbox, ids=ids,
            traceparent=tracer.traceparent if tracer else lambda call_id: "", log=log,
        )  # fmt: skip
        outbox.accept = detached.accept
        if enforce:
            outbox.may_call, outbox.outward = may_call_of(iam.identity), True

        def on_forget(function_id: str) -> None:
            janitor.forget(function_id)
            detached.forget(function_id)
            outbox.forget(function_id)

        deployer = Deployer(
            database, catalog, bundles, supervisor, limits=limits, interpreters=interpreters.path_of,
            on_forget=on_forget, tracing=config.tracing, network_mode=config.network.mode, log=log,
        )  # fmt: skip
        registry = Registry(
            database,
            catalog,
            deployer,
            ids=ids,
            pcu=config.pcu,
            counts=config.oci,
            versions_kept=config.bundles.versions_kept,
            log=log,
        )
        node = Node(
            bundle_bytes_max=config.http.bundle_bytes_max, catalog=catalog, registry=registry, database=database,
            bundles=bundles, supervisor=supervisor, launcher=launcher, log_book=log_book, metrics=metrics,
            interpreters=interpreters,
        )  # fmt: skip
        debugging = Debugging(
            config, catalog, launcher, log_book, deployer.live_plan,
            recorder=recorder if config.records.enabled else None, log=log,
        )  # fmt: skip
        invoker.diverted = debugging.sessions
        series = Series(recorder, config.records, node.gauges, log=log)
        advisor = Advisor(recorder, config.pcu, node.instance_bytes)
        oci_metrics = OciMetrics(recorder, catalog, node.pools, lambda: outbox.counts)
        oci = make_oci(config.oci, registry, database, bundles, interpreters, ids, log=log)
        route = make_route(catalog, invoker, ids, detached, CallGate(iam.identity) if enforce else None)
        gate, sessions = Gate(iam, enforce=enforce), Sessions(trio.current_time)
        iam.revoked = sessions.end_all
        gate.sessions = sessions
        desk = Desk(
            node=node, calls=recorder, letters=detached, route=route, sessions=sessions,
            series=series, advisor=advisor, diagnosis=sandbox.diagnosis, floor=config.sandbox.floor,
            pcu_steps=config.pcu.steps,
        )  # fmt: skip
        doctor = doctor_api.Doctor(sandbox.diagnosis, config.sandbox.floor, trouble=sandbox.trouble)
        front_door = FrontDoor(
            config.http,
            route=route,
            control=make_app(
                [
                    (fn_api.ROUTES, registry),
                    (ops.ROUTES, node),
                    (iam_api.ROUTES, iam),
                    (oci_api.ROUTES, oci),
                    (calls_api.ROUTES, CallsService(catalog, recorder, invoker, ids)),
                    (logs_api.ROUTES, logs_api.LogsService(catalog, log_book, sinks)),
                    (series_api.ROUTES, series_api.SeriesService(catalog, series, advisor, oci_metrics)),
                    (detached_api.ROUTES, DetachedService(catalog, database, detached, outbox)),
                    (console.ROUTES, desk),
                    (doctor_api.ROUTES, doctor),
                    (debug_api.ROUTES, debugging),
                    (openapi_api.ROUTES, None),
                ],
                route,
                config.http,
                url=listeners.url,
                log=log,
                gate=gate,
                archive_bytes_max=config.oci.archive_bytes_max,
            ),
            client_watch_s=limits.client_watch_s,
            tls=listeners.tls,
            log=log,
        )
        front_door.on_slow_reply = recorder.wrote
        node.front_door = front_door
        node.sources.append(RecordMetrics(recorder, sinks, oci_metrics).samples)
        node.sources.append(doctor.samples)
        node.sources.append(placement.samples)
        node.sources.append(DetachedMetrics(database, catalog, detached, outbox).samples)
        async with trio.open_nursery() as nursery:
            await nursery.start(sinks.run)
            if config.records.enabled:
                await nursery.start(series.run)
            await nursery.start(launcher.run)
            await nursery.start(supervisor.run)
            if principals is not None:
                await nursery.start(principals.run)
            await nursery.start(janitor.run)
            await nursery.start(debugging.run)
            node.sources.append(start_freezer(nursery, supervisor, limits))
            if tracer is not None:
                recorder.subscribe(tracer.observe)
                node.sources.append(tracer.samples)
                await nursery.start(tracer.run)
            await deployer.restore()
            await nursery.start(detached.run)
            await nursery.start(oci.run)
            await nursery.start(outbox.run)
            await nursery.start(front_door.serve, listeners.tcp + listeners.unix)
            await nursery.start(feed_watchdog)
            await nursery.start(partial(reload_on_hangup, listeners.tls, log=log))
            # What is there now stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            print(f"ready {listeners.url}", flush=True)
            systemd.notify("READY=1", f"STATUS=serving on {listeners.url}")
            log.info("ready", url=listeners.url, version=VERSION, data=str(config.data), pid=os.getpid())
            await until_drained(
                node,
                front_door,
                invoker,
                detached,
                drain_s=limits.drain_s,
                hand_over=listeners.inherited,
                log=log,
            )
            await log_book.flush()
            await sinks.flush(LAST_WORDS_S)
            nursery.cancel_scope.cancel(reason="stopped")


def open_sandbox(config: Config, placement: Placement, ports: list[int], log: Any) -> Sandbox:
    """What separates functions on this machine; the first line of the log says so. ``ports``: the daemon's, for TCP.

    Raises:
      CannotServe: it is less than the floor, and nobody said ``--insecure``.
    """
    groups, networks = placement.cgroups, placement.networks
    assert networks is not None
    try:
        facts = [cgroup_fact(groups.active, groups.site.reason), egress_fact(networks.method, networks.reason)]
        diagnosis = diagnose(config.sandbox, facts)
        check(diagnosis, config.sandbox, insecure=config.http.insecure)
    except ConfigError as exc:
        raise CannotServe(str(exc)) from exc
    note = log.warning if diagnosis.level == "D" or config.sandbox.switch_off or diagnosis.undecided else log.info
    note("sandbox", level=diagnosis.level, floor=config.sandbox.floor, missing=", ".join(diagnosis.missing()))
    sandbox = Sandbox(diagnosis, config.sandbox, config.limits)
    sandbox.join(networks, ports, host_calls=config.auth.mode == "iam")
    return sandbox


async def until_drained(
    node: Node, front_door: FrontDoor, invoker: Invoker, detached: Detached, *,
    drain_s: float, hand_over: bool, log: Any,
) -> None:  # fmt: skip
    """Wait for the first signal, let running calls finish; a second signal does not wait.

    With ``hand_over`` the listening sockets outlive this process: what is in their backlog is left to the next one,
    and requests on open connections are still served, each with ``Connection: close``.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        name = signal.Signals(await anext(signals)).name
        log.info("draining", signal=name, open_calls=invoker.open_calls, seconds=drain_s)
        systemd.notify("STOPPING=1", "STATUS=draining")
        node.draining = True
        node.log_book.end_followers()
        detached.drain()
        front_door.drain(hand_over=hand_over)
        if not hand_over:
            invoker.drain()
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await anext(signals)
                log.warning("second signal: not waiting", open_calls=invoker.open_calls)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hurry)
            with trio.move_on_after(drain_s) as limit:
                await front_door.drained()
                invoker.drain()
                await invoker.quiet()
            if limit.cancelled_caught:
                log.warning("drain took too long: calls are cut", open_calls=invoker.open_calls, seconds=drain_s)
            nursery.cancel_scope.cancel()


async def feed_watchdog(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Tell systemd that the event loop runs, twice per watchdog period; returns at once without a watchdog."""
    task_status.started()
    period_s = systemd.watchdog_s()
    while period_s is not None:
        systemd.notify("WATCHDOG=1")
        await trio.sleep(period_s / 2)


def become_subreaper() -> None:
    """Orphans of a killed spawner come to us instead of to init, so that they can be found and killed."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def raise_descriptor_limit() -> int:
    """The usual soft limit of 1,024 is for programs that use select(); connections and pipes of workers need more.
    Returns what there may be now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def with_descriptors(config: Config, descriptors: int, log: Any) -> Config:
    """The configuration, lowered to what the limit of open files carries; the log says so."""
    limits, http = within(config.limits, config.http, descriptors)
    if (limits, http) != (config.limits, config.http):
        log.warning(
            "the limit of open files is low: limits are lowered", open_files=descriptors,
            instances_max=limits.instances_max, templates_max=limits.templates_max,
            connections_max=http.connections_max, what_now="raise it: ulimit -n, or LimitNOFILE= of the systemd unit",
        )  # fmt: skip
    return replace(config, limits=limits, http=http)


def with_cgroups(config: Config) -> Limits:
    """A test of the sandbox may switch control groups off like any other mechanism."""
    return replace(config.limits, cgroups="off") if "cgroup" in config.sandbox.switch_off else config.limits


def with_budget(limits: Limits) -> Limits:
    """POLICY: without a number, three quarters of the machine's memory are for functions."""
    if limits.memory_mib:
        return limits
    return replace(limits, memory_mib=max(256, psutil.virtual_memory().total * 3 // 4 // 2**20))


@asynccontextmanager
async def data_directory(path: Path) -> AsyncIterator[None]:
    """Make the data directory and hold its lock: two daemons on one directory would ruin each other's state.

    Raises:
      CannotServe: it cannot be made or written, or another daemon has it.
    """
    fd = _make_data_directory(path)
    try:
        with trio.move_on_after(LOCK_S):
            while not _locked(fd):  # noqa: ASYNC110 - flock has no other way to wait that can be given up
                await trio.sleep(LOCK_POLL_S)
        if not _locked(fd):
            raise CannotServe(
                f"cannot use data directory {path}: another stokerd is using it; stop that one, or choose another "
                "with --data"
            )
        yield
    finally:
        os.close(fd)


def _make_data_directory(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / "run").mkdir(exist_ok=True, mode=0o700)
        return os.open(path / DATA_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CannotServe(f"cannot use data directory {path}: {exc.strerror}; choose another with --data") from exc


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@asynccontextmanager
async def open_database(path: Path, log: Any) -> AsyncIterator[Database]:
    """The open database, until the block ends.

    Raises:
      CannotServe: it is damaged, newer than this version, not readable...
    """
    try:
        database = await Database.open(path, log=log)
    except DatabaseError as exc:
        raise CannotServe(str(exc)) from exc
    try:
        yield database
    finally:
        await database.close()
