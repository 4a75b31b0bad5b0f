"""OCI's Functions API, both versions: what its operations take and give (reference oci-api section 1)."""

from __future__ import annotations

from daemon.http.oci_bodies import GROUPS_MAX, LINE_FORMATS, MEMORY_SIZES_MIB, SHAPES, SUBNETS_MAX, TIMEOUT_S_MAX
from daemon.http.oci_fields import TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX, TAGS_MAX, TEXT_CHARS_MAX
from daemon.http.oci_lists import APP_STATES, LIMIT_MAX
from daemon.http.openapi.words import (
    ANY_MAP,
    FLAG,
    NUMBER,
    TEXT,
    TEXTS,
    TIME,
    Op,
    Parameter,
    Schema,
    given,
    header,
    many,
    maybe,
    one_of,
    ref,
    taken,
    text,
    whole,
)

CLASSIC, NEWER = "20181201", "20260325"
WORK_STATES = (
    "ACCEPTED", "IN_PROGRESS", "WAITING", "NEEDS_ATTENTION", "FAILED", "SUCCEEDED", "CANCELING", "CANCELED",
)  # fmt: skip
_OCID = text(pattern="^ocid1\\.")
_FREEFORM: Schema = {
    "type": "object", "maxProperties": TAGS_MAX,
    "propertyNames": text(shortest=1, longest=TAG_KEY_CHARS_MAX),
    "additionalProperties": text(longest=TAG_VALUE_CHARS_MAX),
}  # fmt: skip
_DEFINED: Schema = {"type": "object", "additionalProperties": ANY_MAP}
_CONFIG: Schema = {
    "type": "object",
    "propertyNames": text(pattern="^[A-Za-z_][A-Za-z0-9_]*$"),
    "additionalProperties": TEXT,
    "description": "all keys and values: at most 4 KB of UTF-8 (oci.config_bytes_max)",
}
_TAGS = {"freeformTags": TEXTS, "definedTags": _DEFINED}
_ALL_TAGS = {**_TAGS, "systemTags": ANY_MAP}
_TIMES = {"timeCreated": TIME, "timeUpdated": TIME}
_NAME = text(shortest=1, longest=TEXT_CHARS_MAX)


def _kind(member: str, **kinds: Schema) -> Schema:
    """One of several objects, told apart by a member."""
    return {"oneOf": list(kinds.values()), "discriminator": {"propertyName": member}}


_TRACE = taken({"isEnabled?": FLAG, "domainId?": text(longest=TEXT_CHARS_MAX)})
_IMAGE_POLICY = taken({"isPolicyEnabled": FLAG, "keyDetails?": many(taken({"kmsKeyId": TEXT}))})
_CONSTANT = given({"strategy": one_of("CONSTANT"), "count": whole(1, 10**6)})
_PCU = {"oneOf": [_CONSTANT, given({"strategy": one_of("NONE")})], "discriminator": {"propertyName": "strategy"}}
_TARGET = text(shortest=1, longest=200)


def _destinations(target: Schema) -> Schema:
    return _kind(
        "kind",
        stream=given({"kind": one_of("STREAM"), "streamId": target}),
        queue=given({"kind": one_of("QUEUE"), "queueId": target, "channelId?": target}),
        topic=given({"kind": one_of("NOTIFICATION"), "topicId": target}),
        none=given({"kind": one_of("NONE")}),
    )


_PREBUILT = given({"sourceType": one_of("PRE_BUILT_FUNCTIONS"), "pbfListingId": TEXT})
_RUNTIME_CONFIGS = ("FUNCTION_UPDATE", "MANUAL")
_SOURCE_SHOWN = _kind(
    "sourceType",
    prebuilt=_PREBUILT,
    image=given({"sourceType": one_of("CONTAINER_IMAGE"), "image": TEXT, "imageDigest": maybe(TEXT)}),
    archive=given(
        {
            "sourceType": one_of("ARCHIVE"),
            "archiveSourceDetails": given({"archiveSourceType": one_of("DIRECT_ARCHIVE")}),
            "handler": maybe(TEXT),
            "runtimeConfig": given(
                {
                    "runtimeConfigType": one_of(*_RUNTIME_CONFIGS), "functionsRuntimeName": maybe(TEXT),
                    "functionsRuntimeVersionId": maybe(TEXT),
                }
            ),
            "sourceCodeSha256": maybe(TEXT),
        }
    ),
)  # fmt: skip


def _source_taken(required: bool) -> Schema:
    mark = "" if required else "?"
    return _kind(
        "sourceType",
        prebuilt=taken({"sourceType": one_of("PRE_BUILT_FUNCTIONS"), f"pbfListingId{mark}": _NAME}),
        image=taken(
            {"sourceType": one_of("CONTAINER_IMAGE"), f"image{mark}": text(longest=1024), "imageDigest?": TEXT}
        ),
        archive=taken(
            {
                "sourceType": one_of("ARCHIVE"),
                f"archiveSourceDetails{mark}": taken(
                    {
                        "archiveSourceType": one_of("DIRECT_ARCHIVE"),
                        f"archiveFile{mark}": {**TEXT, "contentEncoding": "base64"},
                    }
                ),
                f"handler{mark}": _NAME,
                f"runtimeConfig{mark}": taken(
                    {
                        "runtimeConfigType": one_of(*_RUNTIME_CONFIGS), f"functionsRuntimeName{mark}": _NAME,
                        "functionsRuntimeVersionId?": TEXT,
                    }
                ),
            }
        ),
    )  # fmt: skip


_APPLICATION_SUMMARY: dict[str, Schema] = {
    "id": _OCID, "compartmentId": TEXT, "displayName": TEXT, "lifecycleState": one_of(*APP_STATES),
    "subnetIds": many(TEXT), "shape": one_of(*SHAPES), "networkSecurityGroupIds": many(TEXT),
    "traceConfig": given({"isEnabled": FLAG, "domainId": maybe(TEXT)}),
    "logging": maybe(given({"lineFormat": one_of(*LINE_FORMATS)})),
    "imagePolicyConfig": maybe(given({"isPolicyEnabled": FLAG}, open_=True)),
    "securityAttributes": {"type": "object", "additionalProperties": ANY_MAP}, **_TAGS, **_TIMES,
}  # fmt: skip
_APPLICATION_FIELDS: dict[str, Schema] = {
    "config?": _CONFIG, "networkSecurityGroupIds?": {"type": "array", "items": _OCID, "maxItems": GROUPS_MAX},
    "syslogUrl?": text(longest=2000, pattern=r"^((tcp|udp|tcp\+tls)://[^/\s]+:\d{1,5}/?)?$"), "traceConfig?": _TRACE,
    "logging?": taken({"lineFormat?": one_of(*LINE_FORMATS)}), "imagePolicyConfig?": _IMAGE_POLICY,
    "securityAttributes?": {"type": "object", "additionalProperties": ANY_MAP}, "freeformTags?": _FREEFORM,
    "definedTags?": _DEFINED,
}  # fmt: skip
_FUNCTION_FIELDS: dict[str, Schema] = {
    "timeoutInSeconds?": whole(1, TIMEOUT_S_MAX), "detachedModeTimeoutInSeconds?": whole(5, 3600),
    "config?": _CONFIG, "provisionedConcurrencyConfig?": _PCU, "successDestination?": _destinations(_TARGET),
    "failureDestination?": _destinations(_TARGET), "traceConfig?": taken({"isEnabled?": FLAG}),
    "freeformTags?": _FREEFORM, "definedTags?": _DEFINED,
}  # fmt: skip
_WORK_REQUEST = given(
    {
        "id": _OCID, "operationType": TEXT, "status": one_of(*WORK_STATES), "compartmentId": TEXT,
        "resources": many(
            given(
                {
                    "entityType": one_of("application", "function"),
                    "actionType": one_of("CREATED", "UPDATED", "DELETED", "IN_PROGRESS", "FAILED"),
                    "identifier": TEXT, "entityUri": TEXT, "metadata": ANY_MAP,
                }
            )
        ),
        "percentComplete": NUMBER, "timeAccepted": TIME, "timeStarted": maybe(TIME), "timeFinished": maybe(TIME),
        "timeUpdated": TIME,
    }
)  # fmt: skip
_NAMED_TRIGGERS = many(given({"name": TEXT}))
_LISTING_STATES = one_of("ACTIVE", "INACTIVE", "DELETED")
_RUNTIME_STATES = one_of("ACTIVE", "INACTIVE")


def schemas(version: str) -> dict[str, Schema]:
    """The named schemas of a version."""
    if version == CLASSIC:
        shown = {"image": maybe(TEXT), "imageDigest": maybe(TEXT), "sourceDetails": maybe(_PREBUILT)}
        named = {"image?": text(longest=1024), "imageDigest?": text(longest=TEXT_CHARS_MAX)}
        create = {
            **named,
            "sourceDetails?": taken({"sourceType": one_of("PRE_BUILT_FUNCTIONS"), "pbfListingId": _NAME}),
        }
        update: dict[str, Schema] = named
    else:
        shown = {"sourceDetails": _SOURCE_SHOWN}
        create, update = {"sourceDetails": _source_taken(True)}, {"sourceDetails?": _source_taken(False)}
    memory = {"enum": list(MEMORY_SIZES_MIB)}
    summary: dict[str, Schema] = {
        "id": _OCID, "displayName": TEXT, "applicationId": _OCID, "compartmentId": TEXT,
        "lifecycleState": one_of(*APP_STATES), **shown, "shape": one_of(*SHAPES), "memoryInMBs": whole(1, 8192),
        "timeoutInSeconds": whole(1, TIMEOUT_S_MAX), "detachedModeTimeoutInSeconds": maybe(whole(5, 3600)),
        "provisionedConcurrencyConfig": maybe(_PCU), "successDestination": _destinations(TEXT),
        "failureDestination": _destinations(TEXT), "traceConfig": given({"isEnabled": FLAG}), "invokeEndpoint": TEXT,
        **_TAGS, **_TIMES,
    }  # fmt: skip
    made: dict[str, Schema] = {
        "Application": given({**_APPLICATION_SUMMARY, "config": TEXTS, "syslogUrl": maybe(TEXT)}),
        "ApplicationSummary": given(_APPLICATION_SUMMARY),
        "CreateApplicationDetails": taken(
            {
                "compartmentId": TEXT, "displayName": _NAME,
                "subnetIds": {"type": "array", "items": _OCID, "maxItems": SUBNETS_MAX}, "shape?": one_of(*SHAPES),
                **_APPLICATION_FIELDS,
            }
        ),
        "UpdateApplicationDetails": taken(_APPLICATION_FIELDS),
        "ChangeApplicationCompartmentDetails": taken({"compartmentId": TEXT}),
        "Function": given({**summary, "config": TEXTS}),
        "FunctionSummary": given(summary),
        "CreateFunctionDetails": taken(
            {"displayName": _NAME, "applicationId": _NAME, "memoryInMBs": memory, **create, **_FUNCTION_FIELDS}
        ),
        "UpdateFunctionDetails": taken({"memoryInMBs?": memory, **update, **_FUNCTION_FIELDS}),
        "PbfListing": given(
            {
                "id": _OCID, "name": TEXT, "description": TEXT, "publisherDetails": given({"name": TEXT}),
                "triggers": _NAMED_TRIGGERS, "lifecycleState": _LISTING_STATES, **_TIMES, **_ALL_TAGS,
            }
        ),
        "PbfListingVersion": given(
            {
                "id": _OCID, "pbfListingId": _OCID, "name": TEXT,
                "config": many(given({"key": TEXT, "description": TEXT, "isOptional": FLAG})),
                "requirements": given(
                    {"minMemoryRequiredInMBs": whole(1, 8192), "policies": many(ANY_MAP)}
                ),
                "changeSummary": TEXT, "triggers": _NAMED_TRIGGERS, "lifecycleState": _LISTING_STATES,
                **_TIMES, **_ALL_TAGS,
            }
        ),
    }  # fmt: skip
    if version == CLASSIC:
        return made
    return {
        **made,
        "FunctionsRuntime": given(
            {
                "id": _OCID, "name": TEXT, "os": TEXT, "language": TEXT, "timeDeprecated": maybe(TIME),
                "timeDecommissioned": maybe(TIME), "metadata": ANY_MAP, "lifecycleState": _RUNTIME_STATES,
                "currentFunctionsRuntimeVersionId": TEXT, **_TIMES, **_ALL_TAGS,
            }
        ),
        "FunctionsRuntimeVersion": given(
            {
                "id": _OCID, "functionsRuntimeId": TEXT, "displayName": TEXT, "osVersion": TEXT,
                "languageVersion": TEXT, "supportedArchitectures": many(one_of("ARM", "X86")), "metadata": ANY_MAP,
                "lifecycleState": _RUNTIME_STATES, **_TIMES, **_ALL_TAGS,
            }
        ),
        "WorkRequest": _WORK_REQUEST,
        "WorkRequestError": given({"code": TEXT, "message": TEXT, "timestamp": TIME}),
        "WorkRequestLogEntry": given({"message": TEXT, "timestamp": TIME}),
    }  # fmt: skip


_IF_MATCH = header("if-match", "the etag that the resource must still have")
_COMPARTMENT = Parameter("compartmentId", TEXT, "an OCID; that of any tenancy means this node's", required=True)
_STATE = Parameter("lifecycleState", one_of(*APP_STATES))


def _page(*sorts: str) -> tuple[Parameter, ...]:
    sort = (Parameter("sortBy", one_of(*sorts)),) if sorts else ()
    return (
        *sort, Parameter("sortOrder", one_of("ASC", "DESC")),
        Parameter("limit", whole(1, LIMIT_MAX), "10 without"),
        Parameter("page", TEXT, "opc-next-page of the answer before"),
    )  # fmt: skip


def _texts(*names: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name) for name in names)


def _wrapped(name: str) -> Schema:
    return given({"items": many(ref(name))})


_NAMES = _texts("name", "nameContains", "nameStartsWith")
_BY_NAME = _page("timeCreated", "id", "displayName")
_NEXT = ("opc-next-page",)
_IS_CURRENT = Parameter("isCurrentVersion", one_of("true", "false"))
_STATES, _LISTED = Parameter("lifecycleState", _RUNTIME_STATES), Parameter("lifecycleState", _LISTING_STATES)
_WORK = "/workRequests/{work_request_id}"


def operations(version: str) -> dict[tuple[str, str], Op]:
    """The operations of a version."""
    classic = version == CLASSIC
    made, gone = (200, 204) if classic else (202, 202)
    work = () if classic else ("opc-work-request-id",)
    changes = (409, 412)

    def update(name: str) -> Op:
        return Op(
            gives=ref(name) if classic else None, status=made, takes=ref(f"Update{name}Details"),
            parameters=(_IF_MATCH,), refuses=(*changes, 422, 503), headers=("etag",) if classic else work,
        )  # fmt: skip

    def create(name: str) -> Op:
        return Op(
            gives=ref(name), status=made, takes=ref(f"Create{name}Details"), refuses=(409, 422, 503),
            headers=("etag", *work),
        )  # fmt: skip

    app, fn = "/applications/{application_id}", "/functions/{function_id}"
    delete = Op(status=gone, parameters=(_IF_MATCH,), refuses=changes, headers=work)
    found: dict[tuple[str, str], Op] = {
        ("POST", "/applications"): create("Application"),
        ("GET", "/applications"): Op(
            gives=many(ref("ApplicationSummary")), headers=_NEXT,
            parameters=(_COMPARTMENT, _STATE, *_texts("displayName", "id"), *_BY_NAME),
        ),
        ("GET", app): Op(gives=ref("Application"), headers=("etag",)),
        ("PUT", app): update("Application"),
        ("DELETE", app): delete,
        ("POST", f"{app}/actions/changeCompartment"): Op(
            status=gone, takes=ref("ChangeApplicationCompartmentDetails"), parameters=(_IF_MATCH,), refuses=changes,
            headers=work,
        ),
        ("POST", "/functions"): create("Function"),
        ("GET", "/functions"): Op(
            gives=many(ref("FunctionSummary")), headers=_NEXT,
            parameters=(
                Parameter("applicationId", TEXT, required=True), _STATE, *_texts("displayName", "id"), *_BY_NAME,
            ),
        ),
        ("GET", fn): Op(gives=ref("Function"), headers=("etag",)),
        ("PUT", fn): update("Function"),
        ("DELETE", fn): delete,
        ("GET", "/pbfListings/triggers"): Op(
            gives=given({"items": _NAMED_TRIGGERS}), parameters=(*_texts("name"), *_page("name")), headers=_NEXT
        ),
        ("GET", "/pbfListings"): Op(
            gives=_wrapped("PbfListing"), headers=_NEXT,
            parameters=(
                *_texts("pbfListingId"), *_NAMES, Parameter("trigger", many(TEXT)), _LISTED,
                *_page("timeCreated", "name"),
            ),
        ),
        ("GET", "/pbfListings/{listing_id}"): Op(gives=ref("PbfListing")),
        ("GET", "/pbfListingVersions"): Op(
            gives=_wrapped("PbfListingVersion"), headers=_NEXT,
            parameters=(
                Parameter("pbfListingId", TEXT, required=True), *_texts("pbfListingVersionId", "name"), _IS_CURRENT,
                _LISTED, *_page("timeCreated", "name"),
            ),
        ),
        ("GET", "/pbfListingVersions/{listing_version_id}"): Op(gives=ref("PbfListingVersion")),
    }  # fmt: skip
    return found if classic else found | _newer()


def _newer() -> dict[tuple[str, str], Op]:
    sorts = ("timeCreated", "name", "timeDeprecated", "timeDecommissioned")
    entries = _page("timestamp")
    return {
        ("GET", "/functionsRuntimes"): Op(
            gives=_wrapped("FunctionsRuntime"), headers=_NEXT,
            parameters=(*_texts("functionsRuntimeId", "os", "language"), *_NAMES, _STATES, *_page(*sorts)),
        ),
        ("GET", "/functionsRuntimes/{runtime_id}"): Op(gives=ref("FunctionsRuntime")),
        ("GET", "/functionsRuntimeVersions"): Op(
            gives=_wrapped("FunctionsRuntimeVersion"), headers=_NEXT,
            parameters=(
                *_texts(
                    "functionsRuntimeId", "functionsRuntimeName", "functionsRuntimeVersionId", "displayName",
                    "osVersion", "languageVersion",
                ),
                _IS_CURRENT, _STATES, *_page("timeCreated", "name"),
            ),
        ),
        ("GET", "/functionsRuntimeVersions/{runtime_version_id}"): Op(gives=ref("FunctionsRuntimeVersion")),
        ("GET", "/workRequests"): Op(
            gives=_wrapped("WorkRequest"), headers=_NEXT,
            parameters=(
                _COMPARTMENT, *_texts("workRequestId", "resourceId"), Parameter("status", one_of(*WORK_STATES)),
                *_page("timeAccepted"),
            ),
        ),
        ("GET", _WORK): Op(gives=ref("WorkRequest")),
        ("GET", f"{_WORK}/errors"): Op(gives=_wrapped("WorkRequestError"), parameters=entries, headers=_NEXT),
        ("GET", f"{_WORK}/logs"): Op(gives=_wrapped("WorkRequestLogEntry"), parameters=entries, headers=_NEXT),
        ("DELETE", _WORK): Op(status=202, parameters=(_IF_MATCH,), refuses=(409, 412)),
    }  # fmt: skip
