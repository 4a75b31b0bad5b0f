"""Groups, policies, compartments and explanations for ``stoker iam``; ``stoker audit``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from cli.iam import IAM, call, show_list
from cli.options import Settings, common, complete_app
from cli.output import clean, structured


def _done(settings: Settings, text: str, data: Any = None) -> None:
    if settings.for_people:
        click.echo(text)
    elif data is not None:
        structured(data, settings.form)


def _part(name: str) -> str:
    return quote(name, safe="")


# -- groups


def _members(settings: Settings, method: str, name: str, users: tuple[str, ...]) -> None:
    for user in users:
        call(settings, method, f"{IAM}/groups/{_part(name)}/members/{_part(user)}")


@click.group()
@common
def group() -> None:
    """Put users into groups, of which policies speak.

    \b
    Examples:
      stoker iam group add Callers bob eve
      stoker iam group join Callers ada
      stoker iam group leave Callers eve
    """


@group.command("add")
@click.argument("name")
@click.argument("users", nargs=-1)
@click.option("--description", default="", help="A remark.")
@common
@click.pass_obj
def group_add(settings: Settings, name: str, users: tuple[str, ...], description: str) -> None:
    """Make a group, perhaps with its first members.

    \b
    Examples:
      stoker iam group add Callers bob eve
    """
    made = call(settings, "POST", f"{IAM}/groups", body={"name": name, "description": description})
    _members(settings, "PUT", name, users)
    _done(settings, f"group {name} is {made['id']}", made)


@group.command("join")
@click.argument("name", metavar="GROUP")
@click.argument("users", nargs=-1, required=True)
@common
@click.pass_obj
def group_join(settings: Settings, name: str, users: tuple[str, ...]) -> None:
    """Put users into a group.

    \b
    Examples:
      stoker iam group join Callers ada
    """
    _members(settings, "PUT", name, users)
    _done(settings, f"in {name} now: {', '.join(users)}")


@group.command("leave")
@click.argument("name", metavar="GROUP")
@click.argument("users", nargs=-1, required=True)
@common
@click.pass_obj
def group_leave(settings: Settings, name: str, users: tuple[str, ...]) -> None:
    """Take users out of a group.

    \b
    Examples:
      stoker iam group leave Callers eve
    """
    _members(settings, "DELETE", name, users)
    _done(settings, f"no longer in {name}: {', '.join(users)}")


@group.command("ls")
@common
@click.pass_obj
def group_ls(settings: Settings) -> None:
    """List groups and their members.

    \b
    Examples:
      stoker iam group ls
    """
    show_list(
        settings,
        f"{IAM}/groups",
        ["name", "members", "id", "description"],
        lambda found: [(g["name"], ", ".join(g["members"]), g["id"], g["description"]) for g in found],
        empty="No groups.",
    )


@group.command("rm")
@click.argument("name")
@common
@click.pass_obj
def group_rm(settings: Settings, name: str) -> None:
    """Delete a group; statements that name it allow nobody from then on.

    \b
    Examples:
      stoker iam group rm Callers
    """
    call(settings, "DELETE", f"{IAM}/groups/{_part(name)}")
    _done(settings, f"group {name} is gone")


@click.group("dynamic-group")
@common
def dynamic_group() -> None:
    """Name functions by a rule, so that policies can let them do something.

    \b
    Examples:
      stoker iam dynamic-group add Workers "ALL {resource.type = 'fnfunc'}"
      stoker iam policy add workers 'Allow dynamic-group Workers to use fn-invocation in tenancy'
    """


@dynamic_group.command("add")
@click.argument("name")
@click.argument("rule")
@click.option("--description", default="", help="A remark.")
@common
@click.pass_obj
def dynamic_group_add(settings: Settings, name: str, rule: str, description: str) -> None:
    """Make a dynamic group of the functions that RULE matches.

    \b
    Examples:
      stoker iam dynamic-group add Workers "ALL {resource.type = 'fnfunc'}"
    """
    body = {"name": name, "rule": rule, "description": description}
    made = call(settings, "POST", f"{IAM}/dynamic-groups", body=body)
    _done(settings, f"dynamic group {name} is {made['id']}", made)


@dynamic_group.command("ls")
@common
@click.pass_obj
def dynamic_group_ls(settings: Settings) -> None:
    """List dynamic groups.

    \b
    Examples:
      stoker iam dynamic-group ls
    """
    show_list(
        settings,
        f"{IAM}/dynamic-groups",
        ["name", "rule", "description"],
        lambda found: [(g["name"], g["rule"], g["description"]) for g in found],
        empty="No dynamic groups.",
    )


@dynamic_group.command("rm")
@click.argument("name")
@common
@click.pass_obj
def dynamic_group_rm(settings: Settings, name: str) -> None:
    """Delete a dynamic group.

    \b
    Examples:
      stoker iam dynamic-group rm Workers
    """
    call(settings, "DELETE", f"{IAM}/dynamic-groups/{_part(name)}")
    _done(settings, f"dynamic group {name} is gone")


# -- policies


@click.group()
@common
def policy() -> None:
    """Write policies: sentences that allow; what none allows is refused.

    \b
    Examples:
      stoker iam policy add callers 'Allow group Callers to use fn-invocation in tenancy'
      stoker iam policy ls
    """


@policy.command("add")
@click.argument("name")
@click.argument("statements", nargs=-1, required=True)
@click.option("--compartment", "place", default="", metavar="PATH", help="Attach it there.  [default: the root]")
@click.option("--description", default="", help="A remark.")
@common
@click.pass_obj
def policy_add(settings: Settings, name: str, statements: tuple[str, ...], place: str, description: str) -> None:
    """Store a policy.

    \b
    Examples:
      stoker iam policy add devs 'Allow group Devs to manage functions-family in compartment web'
      stoker iam policy add ops 'Allow group Ops to read stoker-node in tenancy'
    """
    body = {"name": name, "statements": statements, "compartment": place, "description": description}
    made = call(settings, "POST", f"{IAM}/policies", body=body)
    _done(settings, f"policy {name} is {made['id']}", made)


@policy.command("set")
@click.argument("name")
@click.argument("statements", nargs=-1, required=True)
@common
@click.pass_obj
def policy_set(settings: Settings, name: str, statements: tuple[str, ...]) -> None:
    """Replace all statements of a policy.

    \b
    Examples:
      stoker iam policy set callers 'Allow group Callers to use fn-invocation in compartment web'
    """
    made = call(settings, "PUT", f"{IAM}/policies/{_part(name)}", body={"statements": statements})
    _done(settings, f"policy {name} has {len(statements)} statements now", made)


@policy.command("ls")
@common
@click.pass_obj
def policy_ls(settings: Settings) -> None:
    """List policies with their statements.

    \b
    Examples:
      stoker iam policy ls
      stoker iam policy ls --output yaml
    """
    show_list(
        settings,
        f"{IAM}/policies",
        ["name", "compartment", "statement"],
        lambda found: [(p["name"], p["compartment"], statement) for p in found for statement in p["statements"]],
        empty="No policies: only the local administrator may do anything.",
    )


@policy.command("rm")
@click.argument("name")
@common
@click.pass_obj
def policy_rm(settings: Settings, name: str) -> None:
    """Delete a policy.

    \b
    Examples:
      stoker iam policy rm callers
    """
    call(settings, "DELETE", f"{IAM}/policies/{_part(name)}")
    _done(settings, f"policy {name} is gone")


# -- compartments


@click.group()
@common
def compartment() -> None:
    """Divide the tenancy into compartments, of which policies speak.

    \b
    Examples:
      stoker iam compartment add web
      stoker iam compartment add staging --parent web
      stoker iam compartment ls
    """


@compartment.command("add")
@click.argument("name")
@click.option("--parent", default="", metavar="PATH", help="Inside this one: NAME or NAME:NAME.  [default: the root]")
@click.option("--description", default="", help="A remark.")
@common
@click.pass_obj
def compartment_add(settings: Settings, name: str, parent: str, description: str) -> None:
    """Make a compartment and print its OCID, for --compartment-id of Oracle's clients.

    \b
    Examples:
      stoker iam compartment add web
    """
    body = {"name": name, "parent": parent, "description": description}
    made = call(settings, "POST", f"{IAM}/compartments", body=body)
    _done(settings, made["id"], made)


@compartment.command("ls")
@common
@click.pass_obj
def compartment_ls(settings: Settings) -> None:
    """List compartments; the root is the tenancy.

    \b
    Examples:
      stoker iam compartment ls
    """
    show_list(
        settings,
        f"{IAM}/compartments",
        ["path", "id", "description"],
        lambda found: [(c["path"], c["id"], c["description"]) for c in found],
    )


@compartment.command("rm")
@click.argument("name", metavar="PATH")
@common
@click.pass_obj
def compartment_rm(settings: Settings, name: str) -> None:
    """Delete an empty compartment, by OCID.

    \b
    Examples:
      stoker iam compartment rm web:staging
    """
    call(settings, "DELETE", f"{IAM}/compartments/{_part(name)}")
    _done(settings, f"compartment {name} is gone")


# -- why


@click.command()
@click.argument("who", metavar="USER|APP/FUNCTION")
@click.argument("what", nargs=-1, required=True, metavar="VERB TYPE|PERMISSION")
@click.option("--app", metavar="APP", shell_complete=complete_app, help="About this app.")
@click.option("--function", metavar="FUNCTION", help="About this function of the app.")
@click.option("--compartment", "place", metavar="PATH", help="About this compartment.  [default: the root]")
@common
@click.pass_obj
def explain(
    settings: Settings, who: str, what: tuple[str, ...], app: str | None, function: str | None, place: str | None
) -> None:
    """Say which statement allows something, or why none does.

    Exit code 0: allowed, 1: not.

    \b
    Examples:
      stoker iam explain bob use fn-invocation --app demo --function hello
      stoker iam explain bob FN_APP_CREATE --compartment web
      stoker iam explain demo/hello use fn-invocation --app other
    """
    if len(what) > 2:
        raise click.UsageError("expected VERB TYPE, for example: use fn-invocation; or a PERMISSION")
    if function and not app:
        raise click.UsageError("--function needs --app")
    body: dict[str, str] = {"permission": what[0]} if len(what) == 1 else {"verb": what[0], "resource": what[1]}
    if "/" in who:
        of_app, _, of_function = who.partition("/")
        body["function"] = settings.api.function(of_app, of_function)["id"]
    else:
        body["user"] = who
    if app and function:
        body["of_function"] = settings.api.function(app, function)["id"]
    elif app:
        body["of_app"] = settings.api.app(app)["id"]
    elif place:
        body["compartment"] = place
    data = call(settings, "POST", f"{IAM}/explain", body=body)
    refused = [answer for answer in data["items"] if not answer["allowed"]]
    if not settings.for_people:
        structured(data, settings.form)
    else:
        for answer in data["items"]:
            _show_answer(data["principal"], answer)
    if refused:
        raise click.exceptions.Exit(1)


def _show_answer(who: str, answer: dict[str, Any]) -> None:
    if answer["allowed"]:
        click.echo(f"{click.style('allowed', fg='green')}: {who} has {answer['permission']}: {answer['why']}")
        if answer["statement"]:
            click.echo(f"  {answer['policy']}: {clean(answer['statement'])}")
        return
    click.echo(f"{click.style('refused', fg='red')}: {who} lacks {answer['permission']}: {answer['why']}")
    for other in answer["others"]:
        click.echo(f"  {other['policy']}: {clean(other['statement'])}\n    {clean(other['why'])}")


@click.command()
@click.option("--principal", metavar="NAME|OCID", help="Only what this one did.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="The newest so many.")
@common
@click.pass_obj
def audit(settings: Settings, principal: str | None, limit: int) -> None:
    """Show who changed what, or tried to; oldest first.

    Management requests that change something are in it, with the status that they got; calls are in 'stoker calls'.

    \b
    Examples:
      stoker audit
      stoker audit --principal ada --limit 20
      stoker audit --output json
    """
    query = [("limit", str(limit))] + ([("principal", principal)] if principal else [])
    show_list(
        settings,
        "/stoker/v1/audit",
        ["at", "who", "status", "method", "target", "from", "detail"],
        lambda found: [
            (e["at"], e["name"], e["outcome"], e["action"].split()[0], e["target"], e["source"], e["detail"])
            for e in found
        ],
        empty="Nothing was changed yet.",
        query=query,
    )
