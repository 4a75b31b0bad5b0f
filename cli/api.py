"""The Fn API v2 and Stoker's own API as the commands use them: names in, objects out, errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cli import explanations
from cli.errors import ApiError, CliError
from cli.transport import REPLY_S, Reply, Transport

PER_PAGE = 100
"""Fn's largest page."""

Json = dict[str, Any]


class Api:
    """One daemon. Looks apps, functions and triggers up by their names."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Iterable[tuple[str, str]] = (),
        body: Any = None,
        timeout_s: float = REPLY_S,
    ) -> Any:
        """One JSON request; the decoded reply, or None when it is empty.

        Raises:
          ApiError: the status is 400 or above.
        """
        headers = [("Accept", "application/json")]
        data = b""
        if body is not None:
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            headers.append(("Content-Type", "application/json"))
        reply = self.transport.request(method, path, query=query, headers=headers, body=data, timeout_s=timeout_s)
        return decode(reply, f"{method} {path}")

    def pages(self, path: str, query: Iterable[tuple[str, str]] = ()) -> Iterator[Json]:
        """Every item of a list, page after page."""
        cursor = ""
        while True:
            more = [("cursor", cursor)] if cursor else []
            page = self.call("GET", path, query=[*query, *more, ("per_page", str(PER_PAGE))])
            yield from page.get("items") or []
            following = page.get("next_cursor") or ""
            if not following or following == cursor:
                return
            cursor = following

    def find_app(self, name: str) -> Json | None:
        """The app of this name, or None."""
        items = self.call("GET", "/v2/apps", query=[("name", name)]).get("items") or []
        return items[0] if items else None

    def app(self, name: str) -> Json:
        """The app of this name.

        Raises:
          CliError: there is none; lists similar names.
        """
        found = self.find_app(name)
        if found is None:
            hint = f"create it with 'stoker create app {name}'"
            raise CliError(f"app {name} not found", hint=self._similar(name, "/v2/apps", [], hint, "stoker ls apps"))
        return found

    def find_function(self, app: Json, name: str) -> Json | None:
        """The function of this name in the app, or None."""
        items = self.call("GET", "/v2/fns", query=[("app_id", app["id"]), ("name", name)]).get("items") or []
        return items[0] if items else None

    def function(self, app_name: str, name: str) -> Json:
        """The function of this name in the app of that name.

        Raises:
          CliError: there is none; lists similar names.
        """
        app = self.app(app_name)
        found = self.find_function(app, name)
        if found is None:
            hint = f"deploy it with 'stoker deploy --app {app_name}'"
            listing = f"stoker ls functions {app_name}"
            raise CliError(
                f"function {name} not found in app {app_name}",
                hint=self._similar(name, "/v2/fns", [("app_id", app["id"])], hint, listing),
            )
        return found

    def find_trigger(self, function: Json, name: str) -> Json | None:
        """The trigger of this name of the function, or None."""
        query = [("app_id", function["app_id"]), ("fn_id", function["id"]), ("name", name)]
        items = self.call("GET", "/v2/triggers", query=query).get("items") or []
        return items[0] if items else None

    def trigger(self, app_name: str, function_name: str, name: str) -> Json:
        """The trigger of this name.

        Raises:
          CliError: there is none.
        """
        found = self.find_trigger(self.function(app_name, function_name), name)
        if found is None:
            raise CliError(
                f"trigger {name} not found in function {function_name} of app {app_name}",
                hint=f"'stoker ls triggers {app_name} {function_name}' lists them",
            )
        return found

    def _similar(self, name: str, path: str, query: list[tuple[str, str]], otherwise: str, listing: str) -> str:
        import difflib

        names = [item["name"] for item in self.pages(path, query)]
        close = difflib.get_close_matches(name, names, n=3)
        if close:
            return f"did you mean {' or '.join(close)}? '{listing}' lists all"
        return f"{otherwise}; '{listing}' lists what there is" if names else otherwise


def decode(reply: Reply, what: str) -> Any:
    """The reply's JSON, or None when its body is empty.

    Raises:
      ApiError: the status is 400 or above.
      CliError: the body is not JSON: this is not the daemon.
    """
    if reply.status >= 400:
        raise api_error(reply)
    if not reply.body:
        return None
    try:
        return json.loads(reply.body)
    except ValueError as exc:
        raise CliError(
            f"the reply to {what} is not JSON: {reply.body[:60]!r}",
            hint="check the address (--url, STOKER_URL, FN_API_URL)",
        ) from exc


def api_error(reply: Reply, prefix: str = "", *, about: bool = False) -> ApiError:
    """The error that the daemon's reply describes; ``prefix`` is put before its message, ``about`` adds its status."""
    try:
        body = json.loads(reply.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        text = reply.body[:200].decode("utf-8", "replace").strip()
        body = {"message": text or f"HTTP status {reply.status}"}
    code = str(body.get("code") or "")
    message = str(body.get("message") or f"HTTP status {reply.status}")
    if about:
        message += f" ({', '.join(part for part in (f'status {reply.status}', code) if part)})"
    retry = reply.header("retry-after")
    hint = f"the node is busy; try again in {retry} s. {explanations.cure(code)}".rstrip() if retry else ""
    if code == "not-authenticated":
        hint = "the daemon wants to know who you are: use its unix socket as root or in group stoker, or a token: "
        hint += "export STOKER_TOKEN=$(stoker iam token USER)"
    return ApiError(
        prefix + message,
        status=reply.status,
        code=code,
        detail=str(body.get("detail") or ""),
        call_id=str(body.get("call_id") or reply.header("fn-call-id")),
        hint=hint,
    )
