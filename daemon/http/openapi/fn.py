"""The Fn API version 2: what its operations take and give (reference fn-contract section 1)."""

from __future__ import annotations

from daemon.http.openapi.words import (
    ANY_MAP,
    TEXT,
    TEXTS,
    TIME,
    Op,
    Parameter,
    Schema,
    given,
    items,
    maybe,
    one_of,
    ref,
    taken,
    text,
    whole,
)

_NAME = text(longest=255, pattern=r"^[A-Za-z0-9\-_.~]*$")
_SHAPE = one_of("GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM", "")
_CONSTANT = given({"strategy": one_of("CONSTANT"), "count": whole(1, 10**6)})
_NONE = {"type": "object", "properties": {"strategy": one_of("NONE")}, "required": ["strategy"]}

SCHEMAS: dict[str, Schema] = {
    "App": given(
        {
            "id": TEXT, "name": TEXT, "compartment_id?": TEXT, "config?": TEXTS, "annotations?": ANY_MAP,
            "syslog_url?": TEXT, "shape?": TEXT, "created_at": TIME, "updated_at": TIME,
        }
    ),
    "Fn": given(
        {
            "id": TEXT, "name": TEXT, "app_id": TEXT, "image": TEXT, "memory": whole(1, 8192),
            "timeout": whole(1, 300), "idle_timeout": whole(1, 3600), "config": maybe(TEXTS), "annotations": ANY_MAP,
            "shape?": TEXT, "provisioned_concurrency?": _CONSTANT, "created_at": TIME, "updated_at": TIME,
        }
    ),
    "Trigger": given(
        {
            "id": TEXT, "name": TEXT, "app_id": TEXT, "fn_id": TEXT, "created_at": TIME, "updated_at": TIME,
            "type": one_of("http"), "source": TEXT, "annotations": ANY_MAP,
        }
    ),
    "AppChange": taken(
        {
            "name?": _NAME, "config?": TEXTS, "annotations?": ANY_MAP, "syslog_url?": TEXT, "shape?": _SHAPE,
            "compartment_id?": TEXT,
        }
    ),
    "FnChange": taken(
        {
            "name?": _NAME, "app_id?": TEXT, "image?": text(longest=1024), "memory?": whole(0, 8192),
            "timeout?": whole(0, 300), "idle_timeout?": whole(0, 3600), "config?": TEXTS, "annotations?": ANY_MAP,
            "provisioned_concurrency?": {
                "anyOf": [_CONSTANT, _NONE, text(pattern=r"^([Cc][Oo][Nn][Ss][Tt][Aa][Nn][Tt]:[1-9][0-9]{0,5}|none)$")]
            },
        }
    ),
    "TriggerChange": taken(
        {
            "name?": _NAME, "app_id?": TEXT, "fn_id?": TEXT, "type?": one_of("http"),
            "source?": text(longest=4096, pattern="^/"), "annotations?": ANY_MAP,
        }
    ),
}  # fmt: skip

_PAGE = (
    Parameter("cursor", TEXT, "``next_cursor`` of the page before"),
    Parameter("per_page", TEXT, "1 to 100, 30 without; anything odd counts as not given, as on Fn"),
)
_NAMED = Parameter("name", TEXT, "only the one of this name")
_OF_APP = Parameter("app_id", TEXT, "of which app", required=True)
_DEPLOYS = (409, 422, 503)
_GONE = Op(status=410)

OPERATIONS: dict[tuple[str, str], Op] = {
    ("GET", "/"): Op(gives=given({"goto": TEXT, "hello": TEXT})),
    ("GET", "/version"): Op(gives=given({"version": TEXT, "stoker": TEXT})),
    ("GET", "/v2/apps"): Op(gives=items(ref("App"), cursor=True), parameters=(_NAMED, *_PAGE)),
    ("POST", "/v2/apps"): Op(gives=ref("App"), takes=ref("AppChange"), refuses=(409,)),
    ("GET", "/v2/apps/{app_id}"): Op(gives=ref("App")),
    ("PUT", "/v2/apps/{app_id}"): Op(gives=ref("App"), takes=ref("AppChange"), refuses=_DEPLOYS),
    ("DELETE", "/v2/apps/{app_id}"): Op(status=204, refuses=(409,)),
    ("GET", "/v2/fns"): Op(gives=items(ref("Fn"), cursor=True), parameters=(_OF_APP, _NAMED, *_PAGE)),
    ("POST", "/v2/fns"): Op(gives=ref("Fn"), takes=ref("FnChange"), refuses=_DEPLOYS),
    ("GET", "/v2/fns/{fn_id}"): Op(gives=ref("Fn")),
    ("PUT", "/v2/fns/{fn_id}"): Op(gives=ref("Fn"), takes=ref("FnChange"), refuses=_DEPLOYS),
    ("DELETE", "/v2/fns/{fn_id}"): Op(status=204, refuses=(409,)),
    ("GET", "/v2/fns/{fn_id}/calls"): _GONE,
    ("GET", "/v2/fns/{fn_id}/calls/{call_id}"): _GONE,
    ("GET", "/v2/fns/{fn_id}/calls/{call_id}/log"): _GONE,
    ("GET", "/v2/triggers"): Op(
        gives=items(ref("Trigger"), cursor=True),
        parameters=(_OF_APP, Parameter("fn_id", TEXT, "of which function"), _NAMED, *_PAGE),
    ),
    ("POST", "/v2/triggers"): Op(gives=ref("Trigger"), takes=ref("TriggerChange"), refuses=(409,)),
    ("GET", "/v2/triggers/{trigger_id}"): Op(gives=ref("Trigger")),
    ("PUT", "/v2/triggers/{trigger_id}"): Op(gives=ref("Trigger"), takes=ref("TriggerChange"), refuses=(409,)),
    ("DELETE", "/v2/triggers/{trigger_id}"): Op(status=204),
    ("GET", "/v2/runner/apps/{app_id}/triggerBySource/{type}/{source}"): Op(gives=ref("Trigger")),
}
