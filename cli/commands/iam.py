"""``stoker iam``: users, their keys and tokens. Groups, policies and the rest are in `cli.commands.iam_policies`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cli import oci_profile
from cli.commands.iam_policies import compartment, dynamic_group, explain, group, policy
from cli.errors import CliError
from cli.iam import IAM, call, show_list
from cli.options import Settings, common
from cli.output import pairs, structured, table

CONFIG_FILE = click.option(
    "--config-file", metavar="FILE", help="The clients' configuration.  [default: ~/.oci/config]"
)


@click.group()
@common
def iam() -> None:
    """Say who may do what: users, keys, tokens, groups, policies, compartments.

    It counts when the daemon runs with 'auth.mode: iam'; it can be prepared before.

    \b
    Examples:
      stoker iam user add ada --admin
      stoker iam user add bob
      stoker iam group add Callers bob
      stoker iam policy add callers 'Allow group Callers to use fn-invocation in tenancy'
      stoker iam explain bob use fn-invocation --app demo
    """


iam.add_command(group)
iam.add_command(dynamic_group)
iam.add_command(policy)
iam.add_command(compartment)
iam.add_command(explain)


@iam.command()
@common
@click.pass_obj
def whoami(settings: Settings) -> None:
    """Show who the daemon takes you for, and the tenancy.

    \b
    Examples:
      stoker iam whoami
      stoker iam whoami --output json
    """
    data = call(settings, "GET", IAM)
    if not settings.for_people:
        structured(data, settings.form)
        return
    principal = data["principal"]
    pairs(
        [
            ("name", principal["name"]),
            ("kind", principal["kind"]),
            ("id", principal["id"]),
            ("groups", ", ".join(principal["groups"])),
            ("tenancy", data["tenancy_id"]),
            ("endpoint", data["endpoint"]),
        ]
    )


# -- users


@iam.group()
@common
def user() -> None:
    """Add, list and remove users.

    \b
    Examples:
      stoker iam user add ada --admin
      stoker iam user ls
      stoker iam user rm ada
    """


@user.command("add")
@click.argument("name")
@click.option("--admin", is_flag=True, help="Into the group Administrators, who may do everything.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="Into this group; may be repeated.")
@click.option("--public-key", metavar="FILE", help="Use this public key (PEM) and write nothing here.")
@click.option("--profile", metavar="NAME", help="Name of the profile.  [default: DEFAULT if free, else NAME]")
@CONFIG_FILE
@click.option("--description", default="", help="A remark.")
@common
@click.pass_obj
def user_add(
    settings: Settings,
    name: str,
    admin: bool,
    groups: tuple[str, ...],
    public_key: str | None,
    profile: str | None,
    config_file: str | None,
    description: str,
) -> None:
    """Add a user with a new key and a profile for Oracle's clients.

    The private key is made here and stays here; the daemon gets the public half. Prints what to type next.

    \b
    Examples:
      stoker iam user add ada --admin
      stoker iam user add bob --group Callers --profile BOB
      stoker iam user add eve --public-key eve_public.pem
    """
    wanted = {"name": name, "description": description, "administrator": admin}
    if public_key:
        made = call(settings, "POST", f"{IAM}/users", body={**wanted, "public_key": _read_key(public_key)})
        _join(settings, name, groups)
        _show_user(settings, made, None)
        return
    place = oci_profile.find(config_file, profile, user=name)
    private, public = oci_profile.new_key()
    oci_profile.write_private(place.key_file, private)
    try:
        made = call(settings, "POST", f"{IAM}/users", body={**wanted, "public_key": public})
    except BaseException:
        place.key_file.unlink(missing_ok=True)
        raise
    _join(settings, name, groups)
    oci_profile.add(place, _settings_of(made["keys"][0]["key_id"], place.key_file))
    _show_user(settings, made, place)


def _settings_of(key_id: str, key_file: Path) -> dict[str, str]:
    tenancy, user_id, fingerprint = key_id.split("/")
    return {
        "user": user_id,
        "fingerprint": fingerprint,
        "tenancy": tenancy,
        "region": oci_profile.REGION,
        "key_file": str(key_file),
    }


def _join(settings: Settings, name: str, groups: tuple[str, ...]) -> None:
    for group_name in groups:
        call(settings, "PUT", f"{IAM}/groups/{quote(group_name, safe='')}/members/{quote(name, safe='')}")


def _read_key(path: str) -> str:
    try:
        return str(click.open_file(path).read(65536))
    except OSError as exc:
        raise CliError(f"cannot read {path}: {exc.strerror}") from exc


def _show_user(settings: Settings, made: dict[str, Any], place: oci_profile.Profile | None) -> None:
    if not settings.for_people:
        structured({**made, "profile": place.name if place else None}, settings.form)
        return
    click.echo(f"user {made['name']} is {made['id']}")
    if place is None:
        click.echo(f"its keyId is {made['keys'][0]['key_id']}")
        return
    who = call(settings, "GET", IAM)
    option = "" if place.name == "DEFAULT" else f" --profile {place.name}"
    click.echo(f"profile {place.name} is in {place.config}, its key in {place.key_file}")
    click.echo("\nOCI CLI:\n")
    click.echo(f"  export OCI_CLI_ENDPOINT={who['endpoint']}")
    click.echo(f"  oci{option} fn application list --compartment-id {who['tenancy_id']}")
    click.echo("\nPython SDK:\n")
    click.echo(f"  config = oci.config.from_file({str(place.config)!r}, {place.name!r})")
    click.echo(f"  oci.functions.FunctionsManagementClient(config, service_endpoint={who['endpoint']!r})")
    click.echo("\nfn CLI:\n")
    click.echo(f"  export FN_API_URL={who['endpoint']} FN_TOKEN=$(stoker iam token {made['name']})")


@user.command("ls")
@common
@click.pass_obj
def user_ls(settings: Settings) -> None:
    """List users with their groups and keys.

    \b
    Examples:
      stoker iam user ls
      stoker iam user ls --output json
    """
    show_list(
        settings,
        f"{IAM}/users",
        ["name", "groups", "keys", "tokens", "id", "description"],
        lambda found: [
            (u["name"], ", ".join(u["groups"]), len(u["keys"]), len(u["tokens"]), u["id"], u["description"])
            for u in found
        ],
        empty="No users. 'stoker iam user add NAME --admin' makes the first one.",
    )


@user.command("rm")
@click.argument("name")
@common
@click.pass_obj
def user_rm(settings: Settings, name: str) -> None:
    """Remove a user with keys and tokens; the next request signed with one of them is refused.

    \b
    Examples:
      stoker iam user rm bob
    """
    call(settings, "DELETE", f"{IAM}/users/{quote(name, safe='')}")
    if settings.for_people:
        click.echo(f"user {name} is gone; profiles in ~/.oci stay where they are")


# -- keys


@iam.group()
@common
def key() -> None:
    """Add, list, replace and revoke the API keys of a user.

    \b
    Examples:
      stoker iam key ls ada
      stoker iam key rotate ada
      stoker iam key revoke ada 7e:c8:61:...
    """


@key.command("add")
@click.argument("user_name", metavar="USER")
@click.option("--public-key", metavar="FILE", required=True, help="The public half (PEM).")
@common
@click.pass_obj
def key_add(settings: Settings, user_name: str, public_key: str) -> None:
    """Give a user one more key.

    \b
    Examples:
      stoker iam key add ada --public-key laptop_public.pem
    """
    body = {"public_key": _read_key(public_key)}
    made = call(settings, "POST", f"{IAM}/users/{quote(user_name, safe='')}/keys", body=body)
    if settings.for_people:
        click.echo(made["key_id"])
    else:
        structured(made, settings.form)


@key.command("ls")
@click.argument("user_name", metavar="USER")
@common
@click.pass_obj
def key_ls(settings: Settings, user_name: str) -> None:
    """List the keys of a user.

    \b
    Examples:
      stoker iam key ls ada
    """
    found = call(settings, "GET", f"{IAM}/users/{quote(user_name, safe='')}")["keys"]
    if not settings.for_people:
        structured(found, settings.form)
        return
    table(["fingerprint", "created"], [(k["fingerprint"], k["created_at"]) for k in found], empty="No keys.")


@key.command("revoke")
@click.argument("user_name", metavar="USER")
@click.argument("fingerprint")
@common
@click.pass_obj
def key_revoke(settings: Settings, user_name: str, fingerprint: str) -> None:
    """Revoke a key: the next request signed with it is refused.

    \b
    Examples:
      stoker iam key revoke ada 7e:c8:61:6c:8f:27:2e:7d:c4:7e:99:6e:43:1d:ba:2a
    """
    call(settings, "DELETE", f"{IAM}/users/{quote(user_name, safe='')}/keys/{quote(fingerprint, safe='')}")
    if settings.for_people:
        click.echo(f"key {fingerprint} is revoked")


@key.command("rotate")
@click.argument("user_name", metavar="USER")
@click.option("--profile", metavar="NAME", default="DEFAULT", show_default=True, help="The profile to change.")
@CONFIG_FILE
@common
@click.pass_obj
def key_rotate(settings: Settings, user_name: str, profile: str, config_file: str | None) -> None:
    """Replace the key of a profile: a new one is made and used, then the old one is revoked.

    \b
    Examples:
      stoker iam key rotate ada
      stoker iam key rotate bob --profile BOB
    """
    place, old = oci_profile.read(config_file, profile)
    path = f"{IAM}/users/{quote(user_name, safe='')}"
    known = call(settings, "GET", path)
    if known["id"] != old.get("user") or not old.get("fingerprint") or not old.get("key_file"):
        raise CliError(f"profile {profile} of {place.config} is not one of {user_name}'s", hint="see --profile")
    private, public = oci_profile.new_key()
    made = call(settings, "POST", f"{path}/keys", body={"public_key": public})
    key_file = Path(old["key_file"]).expanduser()
    try:
        oci_profile.write_private(key_file, private, replace=True)
        oci_profile.change(place, {"fingerprint": made["fingerprint"]})
    except CliError as exc:
        exc.hint = (
            f"the old key is still good; revoke the new one: stoker iam key revoke {user_name} {made['fingerprint']}"
        )
        raise
    call(settings, "DELETE", f"{path}/keys/{quote(old['fingerprint'], safe='')}")
    if settings.for_people:
        click.echo(f"{key_file} has a new key, {made['fingerprint']}; {old['fingerprint']} is revoked")
    else:
        structured(made, settings.form)


# -- tokens


@iam.command()
@click.argument("user_name", metavar="USER")
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True, help="For how long it is good.")
@click.option("--description", default="", help="What it is for.")
@click.option("--list", "list_", is_flag=True, help="List the user's tokens instead (not what they are).")
@click.option("--revoke", metavar="ID", help="Revoke this one instead.")
@common
@click.pass_obj
def token(settings: Settings, user_name: str, days: int, description: str, list_: bool, revoke: str | None) -> None:
    """Issue a bearer token for a user and print it: this once, it is not kept.

    For clients that cannot sign: the fn command sends the token in FN_TOKEN to the management API, 'stoker' itself too,
    and 'curl -H "Authorization: Bearer $TOKEN"' works everywhere. Who sees it can use it: use TLS beyond this machine.

    \b
    Examples:
      export FN_TOKEN=$(stoker iam token ada --days 7 --description laptop)
      stoker iam token ada --list
      stoker iam token ada --revoke 01M7YEGRJA03Z812W1TQ6CN9Y8
    """
    path = f"{IAM}/users/{quote(user_name, safe='')}"
    if revoke:
        call(settings, "DELETE", f"{path}/tokens/{quote(revoke, safe='')}")
        if settings.for_people:
            click.echo(f"token {revoke} is revoked")
        return
    if list_:
        found = call(settings, "GET", path)["tokens"]
        if settings.for_people:
            rows = [(t["id"], t["expires_at"], t["description"]) for t in found]
            table(["id", "expires", "description"], rows, empty="No tokens.")
        else:
            structured(found, settings.form)
        return
    made = call(settings, "POST", f"{path}/tokens", body={"ttl_s": days * 86400, "description": description})
    if settings.for_people:
        click.echo(made["token"])
    else:
        structured(made, settings.form)


@iam.command()
@click.argument("user_name", metavar="USER")
@click.option("--hours", type=click.IntRange(1, 24), default=1, show_default=True, help="For how long it is good.")
@click.option("--profile", metavar="NAME", help="Name of the profile.  [default: DEFAULT if free, else USER]")
@CONFIG_FILE
@common
@click.pass_obj
def session(settings: Settings, user_name: str, hours: int, profile: str | None, config_file: str | None) -> None:
    """Open a session: a key and a token that end by themselves, for 'oci --auth security_token'.

    \b
    Examples:
      stoker iam session ada --profile SESSION
    """
    place = oci_profile.find(config_file, profile, user=user_name)
    private, public = oci_profile.new_key()
    path = f"{IAM}/users/{quote(user_name, safe='')}"
    made = call(settings, "POST", f"{path}/sessions", body={"public_key": public, "ttl_s": hours * 3600})
    who = call(settings, "GET", IAM)
    oci_profile.write_private(place.key_file, private)
    oci_profile.write_private(place.token_file, made["token"], replace=True)
    oci_profile.add(
        place,
        {
            "fingerprint": "00:" * 15 + "00",  # the clients want one; the token says what counts
            "tenancy": who["tenancy_id"],
            "region": oci_profile.REGION,
            "key_file": str(place.key_file),
            "security_token_file": str(place.token_file),
        },
    )
    if not settings.for_people:
        structured({"profile": place.name, "config_file": str(place.config), **made}, settings.form)
        return
    click.echo(f"profile {place.name} is in {place.config}; it ends in {hours} h")
    click.echo(
        f"\n  oci --auth security_token --profile {place.name} --endpoint {who['endpoint']}"
        f" fn application list --compartment-id {who['tenancy_id']}"
    )
