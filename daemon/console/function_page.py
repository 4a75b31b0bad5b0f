"""The page of one function: facts, charts, calls, logs, and the forms that change it."""

from __future__ import annotations

import math
from typing import Any

from daemon.auth import permissions as perm
from daemon.console import charts, forms
from daemon.console.desk import Desk
from daemon.console.history import History, Hour
from daemon.console.view import may, view
from daemon.core.pcu import PcuStatus, pcu_step
from daemon.errors import StokerError
from daemon.http.views import ApiReply, ApiRequest
from daemon.model import Function
from daemon.telemetry.recorder import Question

SPANS: dict[str, tuple[str, float]] = {
    "1h": ("1 hour", 3600.0),
    "24h": ("24 hours", 86_400.0),
    "7d": ("7 days", 604_800.0),
    "5m": ("5 minutes", 300.0),
}
RECENT_CALLS = 15
BODY_SHOWN_CHARS = 20_000


async def show(
    desk: Desk, request: ApiRequest, *, done: str = "", error: StokerError | None = None,
    fields: dict[str, str] | None = None, sent: dict[str, str] | None = None, answer: dict[str, Any] | None = None,
) -> ApiReply:  # fmt: skip
    """The page. After a form was refused it holds what was typed, and says why."""
    f = desk.node.registry.function(request.params["id"])
    app = desk.node.registry.app(f.app_id)
    pool = desk.node.pool(f.id)
    now = desk.now()
    span = request.first("span") if request.first("span") in SPANS else "1h"
    found = await desk.recent(Question(function_id=f.id, since=now - 604_800.0), limit=RECENT_CALLS)
    history = await desk.history(f.id, now - SPANS[span][1], now)
    hour = await desk.hour(f.id)
    logs = await desk.logs(f.id)
    at_once = await desk.is_advised_at_once(f)
    allowed = may(
        request, f.id, change=perm.FUNCTION_UPDATE.of_function(), delete=perm.FUNCTION_DELETE.of_function(),
        invoke=perm.INVOKE.of_function(),
    )  # fmt: skip
    return view(
        request, "function.html", here="Functions", may=allowed,
        may_app=request.access.may(perm.APP_READ.of_app(), app.id),
        done=done, error=error, f=f, app=app, state=desk.state_of(f),
        why=pool.start_error if pool else "",
        instances=_instances(pool.instances if pool else {}),
        pcu=pcu_text(pool.pcu) if pool else "none",
        pcu_rule=pcu_rule(f, desk.pcu_steps),
        hour=hour or _NO_HOUR,
        spans=[(key, label) for key, (label, _) in sorted(SPANS.items(), key=lambda item: item[1][1])],
        span=span,
        charts=history_charts(history) if history is not None else [],
        advice=await _advice(desk, f) if at_once else None, advice_later=not at_once,
        sent=sent or {"body": "", "headers": "Content-Type: application/json", "kind": "sync"},
        answer=answer, logs=logs, live_url=desk.live_logs_url(f.id, logs, now),
        calls=found.records, now=now, fields=fields or fields_of(f), seen=forms.mark(fields_of(f)),
        config_kept=forms.unwritable(f.live.config),
        versions=await desk.node.registry.versions(f.id),
    )  # fmt: skip


async def advice_page(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/functions/{id}/advice: how many instances to keep warm; on a page of its own, because many calls
    take a moment. The function's page puts it where it belongs."""
    f = desk.node.registry.function(request.params["id"])
    app = desk.node.registry.app(f.app_id)
    return view(request, "advice.html", here="Functions", f=f, app=app, advice=await _advice(desk, f))


_NO_HOUR = Hour(calls=0, errors=0, cold=0, per_minute=[], p50_s=None, p99_s=None)


def fields_of(f: Function) -> dict[str, str]:
    """The settings form of a function as it is."""
    return {
        "memory": str(f.live.memory_mib),
        "timeout": str(f.live.timeout_s),
        "idle_timeout": str(f.live.idle_timeout_s),
        "pcu": str(f.pcu_count),
        "config": forms.text_of(f.live.config),
    }


def _instances(by_state: dict[str, int]) -> str:
    there = {state: count for state, count in by_state.items() if count}
    return ", ".join(f"{count} {state}" for state, count in there.items()) or "none"


def pcu_text(pcu: PcuStatus) -> str:
    """A floor in a few words."""
    if not pcu.requested:
        return "none"
    text = f"{pcu.allocated} of {pcu.requested}"
    return text if pcu.state == "ready" else f"{text}, {pcu.state}"


def pcu_rule(f: Function, steps: str) -> str:
    """Which counts of provisioned concurrency are allowed, and what they mean."""
    meaning = "Instances that are always kept started; 0 keeps none."
    if steps != "oci":
        return f"{meaning} Any count is allowed (pcu.steps: any)."
    step = pcu_step(f.live.memory_mib)
    return (
        f"{meaning} With {f.live.memory_mib} MiB: multiples of {step}, as on OCI (128 MB: 40, 256 MB: 20, more: 10); "
        "pcu.steps: any in the daemon's configuration allows every count."
    )


def history_charts(history: History) -> list[tuple[charts.Chart, str]]:
    """The charts of a function from its series (`daemon.console.desk.History`)."""
    t = history.times

    def ms(values: Any) -> list[float | None]:
        return [None if v is None or math.isnan(v) else v * 1e3 for v in values]

    series = charts.Series
    return [
        (
            charts.bars(
                t,
                [
                    series("answered", history.ok, "s1"),
                    series("function's fault", history.function_errors, "bad"),
                    series("others' fault", history.other_errors, "s5"),
                ],
                title="Calls by outcome", unit="",
            ),
            "Calls by outcome",
        ),
        (
            charts.lines(
                t,
                [
                    series("half faster than", ms(history.p50_s), "s1"),
                    series("95 %", ms(history.p95_s), "s5"),
                    series("99 %", ms(history.p99_s), "s2"),
                ],
                title="Latency", unit="ms",
            ),
            "Latency, whole call",
        ),
        (
            charts.lines(
                t,
                [
                    series("queue", ms(history.queue_p95_s), "s6"),
                    series("start", ms(history.start_p95_s), "s2"),
                    series("handler", ms(history.handler_p95_s), "s1"),
                ],
                title="Latency by phase, 95 % are faster", unit="ms",
            ),
            "Latency by phase, 95 % are faster",
        ),
        (charts.bars(t, [series("cold starts", history.cold, "s2")], title="Cold starts", unit=""), "Cold starts"),
        (
            charts.lines(
                t,
                [
                    series("instances", history.instances, "s1"),
                    series("busy", history.busy, "s2"),
                    series("provisioned floor", history.floor, "floor"),
                ],
                title="Instances, mean", unit="",
            ),
            "Instances, and the provisioned floor",
        ),
        (
            charts.lines(t, [series("memory", history.memory_mib, "s4")], title="Memory", unit="MiB"),
            "Memory of all its instances",
        ),
    ]  # fmt: skip


async def _advice(desk: Desk, f: Function) -> dict[str, Any] | None:
    found = await desk.advise(f)
    if found is None:
        return None
    points = [(float(row["count"]), 100 * row["removed"]) for row in found["curve"]]
    chart = None
    if len(points) > 1:
        chart = charts.curve(
            points, title="Cold starts removed by provisioned instances", x_label="provisioned instances",
            y_label="cold starts removed (%)", chosen=float(found["recommended"]["count"]),
        )  # fmt: skip
    return {"text": f"In the last week: {found['text']}", "chart": chart}
