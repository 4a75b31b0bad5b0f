"""``stoker advise``."""

from __future__ import annotations

from typing import Any

import click

from cli.options import APP, FUNCTION, Settings, common
from cli.output import structured, table

BAR_COLUMNS = 30
ROWS_MAX = 24


@click.command()
@APP
@FUNCTION
@click.option("--since", metavar="TIME", default="7d", show_default=True, help="Look at calls after TIME.")
@click.option(
    "--goal",
    type=click.FloatRange(0, 100, min_open=True),
    default=95,
    show_default=True,
    metavar="PERCENT",
    help="How much of the cold starts is to be removed.",
)
@common
@click.pass_obj
def advise(settings: Settings, app: str, function: str, since: str, goal: float) -> None:
    """Say how many instances of a function to keep warm, from the calls that came.

    For each count N of provisioned concurrency: how many of the cold starts it would have removed, and the memory that
    N idle instances hold. The mark > is at what is recommended, by the counts that may be set (pcu.steps).

    \b
    Examples:
      stoker advise demo hello
      stoker advise demo hello --since 24h --goal 99
      stoker advise demo hello --output json
    """
    found = settings.api.function(app, function)
    query = [("since", since), ("goal", f"{goal / 100:g}")]
    data = settings.api.call("GET", f"/stoker/v1/functions/{found['id']}/advice", query=query)
    if not settings.for_people:
        structured(data, settings.form)
        return
    click.echo(data["text"])
    if not data["calls"] or not data["cold_without_floor"]:
        return
    click.echo(
        f"{data['calls']} calls, at most {data['peak']} at once; {data['cold_recorded']} waited for a start"
        + (f", {data['cold_start_s'] * 1000:.1f} ms on average" if data["cold_start_s"] else "")
        + f"; idle timeout {data['idle_timeout_s']} s.\n"
    )
    chosen = data["recommended"]["count"]
    table(
        ["", "N", "cold starts", "removed", "", "memory"],
        [
            (
                ">" if row["count"] == chosen else " ",
                row["count"],
                row["cold"],
                f"{row['removed']:.0%}",
                "█" * round(BAR_COLUMNS * row["removed"]),
                f"{row['bytes'] / 2**20:.0f} MiB",
            )
            for row in _thinned(data["curve"], {chosen, data["best"]["count"]})
        ],
    )
    if chosen:
        click.echo(f"\nstoker update function {app} {function} --provisioned-concurrency constant:{chosen}")


def _thinned(rows: list[dict[str, Any]], keep: set[int]) -> list[dict[str, Any]]:
    """No more rows than fit on a screen, the first, the last and the marked ones among them."""
    step = max(1, -(-len(rows) // ROWS_MAX))
    return [row for i, row in enumerate(rows) if i % step == 0 or i == len(rows) - 1 or row["count"] in keep]
