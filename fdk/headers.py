"""Headers of gateway mode: on their way in they lose the ``fn-http-h-`` prefix, on their way out they get it."""

from __future__ import annotations

from fdk import constants

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_NEVER_PREFIXED = (constants.CONTENT_TYPE, constants.FN_FDK_VERSION, constants.FN_FDK_RUNTIME)


def decap_headers(hdsr: Mapping[str, Any] | None, merge: bool = True) -> dict[str, Any]:
    """The client's own headers, without prefix and in lower case.

    With ``merge`` the rest of the headers is there too, where no header of the client came before it.
    """
    found: dict[str, Any] = {}
    prefix = constants.FN_HTTP_PREFIX
    for name, value in (hdsr or {}).items():
        name = name.lower()
        if name.startswith(prefix):
            push_header(found, name[len(prefix) :], value)
        elif merge and name not in found:
            found[name] = value
    return found


def push_header(input_map: dict[str, Any], key: str, value: Any) -> None:
    """Add a value to a header: the second one makes a list. Lists that came from outside are not changed in place."""
    if key not in input_map:
        input_map[key] = value
        return
    present = input_map[key]
    before = present if isinstance(present, list) else [present]
    after = value if isinstance(value, list) else [value]
    input_map[key] = before + after


def encap_headers(headers: Mapping[str, Any] | None, status: object = None) -> dict[str, Any]:
    """Response headers as gateway mode wants them: prefixed, and the status as ``fn-http-status``.

    A header that has the prefix already is sent under its own name and, once more, with a second prefix. That is
    what the official FDK does; the server drops the odd one.
    """
    found: dict[str, Any] = {}
    for name, value in (headers or {}).items():
        name = name.lower()
        if name.startswith(constants.FN_HTTP_PREFIX):
            push_header(found, name, value)
        if name in _NEVER_PREFIXED:
            found[name] = value
        else:
            push_header(found, constants.FN_HTTP_PREFIX + name, value)
    if status is not None:
        found[constants.FN_HTTP_STATUS] = str(status)
    return found
