"""``stoker console``: where the console is, and a way in."""

from __future__ import annotations

import click

from cli.options import Settings, common
from cli.output import structured


@click.command()
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@common
@click.pass_obj
def console(settings: Settings, open_it: bool) -> None:
    """Print a link to the console that signs you in.

    The link works once, for a minute, and signs in as whoever runs the command: over the unix socket that is the
    user of this machine. Where nobody has to sign in, it leads to the console all the same.

    \b
    Examples:
      stoker console
      stoker console --open
      stoker console --output json
    """
    link = settings.api.call("POST", "/stoker/v1/console/links", body={})
    if open_it:
        import webbrowser

        webbrowser.open(str(link["url"]))
    if settings.for_people:
        click.echo(link["url"])
    else:
        structured(link, settings.form)
