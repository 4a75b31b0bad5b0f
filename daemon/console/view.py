"""A page for somebody: what every page has, and what he may see and do. In open mode that is everything."""

from __future__ import annotations

from typing import Any

from daemon.auth import permissions as perm
from daemon.auth.permissions import Permission
from daemon.console import forms
from daemon.console.render import page
from daemon.errors import StokerError
from daemon.http.views import ApiReply, ApiRequest

PAGES = (
    ("/console/", "Functions"), ("/console/calls", "Calls"), ("/console/instances", "Instances"),
    ("/console/deadletters", "Dead letters"), ("/console/node", "Node"),
)  # fmt: skip


def view(
    request: ApiRequest, template: str, *, here: str, done: str = "", error: StokerError | None = None, **values: Any
) -> ApiReply:
    """The page ``template``. ``here``: which of `PAGES` it belongs to; ``error``: why a form was refused."""
    token, headers = forms.token_of(request)
    nav = [(path, name) for path, name in PAGES if name != "Node" or request.access.may(perm.NODE_READ)]
    person = request.principal.name if request.principal.kind in ("user", "local") else ""
    return page(
        template, status=error.status if error else 200, headers=headers, here=here, done=done, error=error,
        token=token, nav=nav, person=person, **values,
    )  # fmt: skip


def readable(request: ApiRequest, function_id: str) -> bool:
    """Whether he may see a function, its calls, instances and logs."""
    return request.access.may(perm.FUNCTION_READ.of_function(), function_id)


def may(request: ApiRequest, value: str, **wanted: Permission) -> dict[str, bool]:
    """Which of these he may do with one thing; for a page to leave out the forms that would be refused."""
    return {name: request.access.may(permission, value) for name, permission in wanted.items()}
