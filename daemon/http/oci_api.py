"""OCI's Functions API, versions 20181201 and 20260325, as a table of routes (reference oci-api section 1).

One store and one registry with the Fn API: what is made through one is seen through all. Invocations are the data
plane's (`daemon.http.invoke`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from daemon import ocid
from daemon.auth import permissions as perm
from daemon.auth.permissions import Permission
from daemon.errors import Conflict, NameTaken, NotFound, StaleEtag
from daemon.http import oci_bodies as bodies
from daemon.http import oci_forms as forms
from daemon.http import oci_lists as lists
from daemon.http.oci_fields import parse
from daemon.http.oci_forms import CLASSIC, Form
from daemon.http.oci_replies import VERSIONS
from daemon.http.views import ApiReply, ApiRequest, Handler, Route
from daemon.model import App, Function
from daemon.oci.service import Oci
from daemon.registry import AppChange
from daemon.store import records
from daemon.store.work_records import WorkRequest

WORK_REQUEST = "opc-work-request-id"
NEWER = VERSIONS[1]
BY_NAME = {"timeCreated": "timeCreated", "id": "id", "displayName": "displayName"}


def version_of(request: ApiRequest) -> str:
    """The API's version: the path's first segment."""
    return request.path.strip("/").partition("/")[0]


# ---- applications


async def create_application(oci: Oci, request: ApiRequest) -> ApiReply:
    """CreateApplication"""
    change, compartment_id = bodies.new_application(request.body, oci.config_bytes_max)
    given = {key: value for key, value in (change.annotations or {}).items() if value != ""}
    change = replace(change, compartment_id=_compartment(oci, compartment_id), annotations=given)
    try:
        app = await oci.registry.create_app(change)
    except Conflict as exc:
        if exc.message == records.APP_EXISTS:
            raise NameTaken(f"an application named {change.name!r} exists already on this node") from None
        raise
    return await _changed(oci, request, "CREATE_APPLICATION", "application", app.id, _application(oci, app))


async def list_applications(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListApplications"""
    compartment_id = _compartment(oci, lists.required(request, "compartmentId"))
    lists.one_of(request, "lifecycleState", lists.APP_STATES)
    apps = [app for app in oci.catalog.apps.values() if oci.catalog.compartment_of(app) == compartment_id]
    items = [forms.application_summary(app, compartment_id) for app in apps]
    names = {"lifecycleState": "lifecycleState", "displayName": "displayName", "id": "id"}
    return lists.page(request, lists.equal(request, items, names), BY_NAME, "displayName", wrapped=False)


async def get_application(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetApplication"""
    return _application(oci, _app(oci, request))


async def update_application(oci: Oci, request: ApiRequest) -> ApiReply:
    """UpdateApplication"""
    change = bodies.application_change(request.body, oci.config_bytes_max)
    app = await oci.registry.update_app(_app(oci, request).id, replace(change, expect=_if_match(request)))
    if version_of(request) == CLASSIC:
        return _application(oci, app)
    return await _changed(oci, request, "UPDATE_APPLICATION", "application", app.id, ApiReply())


async def delete_application(oci: Oci, request: ApiRequest) -> ApiReply:
    """DeleteApplication: only an empty one"""
    app = _app(oci, request)
    compartment_id = oci.catalog.compartment_of(app)
    await oci.registry.delete_app(app.id, only_empty=True, expect=_if_match(request))
    return await _gone(oci, request, "DELETE_APPLICATION", "application", app.id, compartment_id)


async def change_compartment(oci: Oci, request: ApiRequest) -> ApiReply:
    """ChangeApplicationCompartment"""
    app = _app(oci, request)
    fields = parse(request.body)
    compartment_id = _compartment(oci, fields.text("compartmentId", required=True))
    request.access.require(perm.APP_UPDATE.in_compartment(), compartment_id)
    change = AppChange(compartment_id=compartment_id, expect=_if_match(request))
    await oci.registry.update_app(app.id, change)
    return await _gone(oci, request, "UPDATE_APPLICATION", "application", app.id, compartment_id)


# ---- functions


async def create_function(oci: Oci, request: ApiRequest) -> ApiReply:
    """CreateFunction"""
    version = version_of(request)
    fields, source = bodies.new_function(
        request.body, version, config_bytes_max=oci.config_bytes_max, archive_bytes_max=oci.archive_bytes_max
    )
    app_id = ocid.id_of(fields.text("applicationId"), ocid.APPLICATION)
    if oci.catalog.app(app_id) is None:
        raise NotFound(f"applicationId: application {fields.text('applicationId')} not found")
    change = bodies.function_change(
        fields, oci.config_bytes_max, name=fields.text("displayName"), app_id=app_id
    )  # fmt: skip
    given = {key: value for key, value in (change.annotations or {}).items() if value != ""}
    made, work_id = await oci.create_function(
        replace(change, annotations=given), source, wait=version == CLASSIC
    )  # fmt: skip
    reply = _function(oci, request, made)
    return _accepted(reply, work_id) if work_id else reply


async def list_functions(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListFunctions"""
    app_id = ocid.id_of(lists.required(request, "applicationId"), ocid.APPLICATION)
    app = oci.catalog.app(app_id)
    if app is None:
        raise NotFound("applicationId: application not found")
    lists.one_of(request, "lifecycleState", lists.APP_STATES)
    version = version_of(request)
    items = [
        forms.function_summary(made, version, **_where(oci, request, made)) for made in oci.catalog.functions_of(app_id)
    ]
    names = {"lifecycleState": "lifecycleState", "displayName": "displayName", "id": "id"}
    return lists.page(request, lists.equal(request, items, names), BY_NAME, "displayName", wrapped=False)


async def get_function(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetFunction"""
    return _function(oci, request, _fn(oci, request))


async def update_function(oci: Oci, request: ApiRequest) -> ApiReply:
    """UpdateFunction: what is not mentioned stays, sourceDetails is merged, maps are replaced"""
    version, function_id = version_of(request), _fn(oci, request).id
    fields, source = bodies.function_update(request.body, version, archive_bytes_max=oci.archive_bytes_max)
    change = bodies.function_change(fields, oci.config_bytes_max, expect=_if_match(request))
    made, work_id = await oci.update_function(function_id, change, source, wait=version == CLASSIC)
    return _accepted(ApiReply(), work_id) if work_id else _function(oci, request, made)


async def delete_function(oci: Oci, request: ApiRequest) -> ApiReply:
    """DeleteFunction"""
    made = _fn(oci, request)
    oci.check_settled(made)
    compartment_id = _where(oci, request, made)["compartment_id"]
    await oci.registry.delete_function(made.id, expect=_if_match(request))
    return await _gone(oci, request, "DELETE_FUNCTION", "function", made.id, compartment_id)


# ---- work requests


async def list_work_requests(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListWorkRequests"""
    compartment_id = _compartment(oci, lists.required(request, "compartmentId"))
    if not request.access.may(perm.APP_LIST.in_compartment(), compartment_id):
        request.access.require(perm.FUNCTION_LIST.in_compartment(), compartment_id)
    lists.one_of(request, "status", WORK_STATES)
    works = [work for work in await oci.work_requests() if work.compartment_id == compartment_id]
    inspect = (perm.APP_LIST, perm.FUNCTION_LIST)
    items = [forms.work_request(work) for work in works if _may(oci, request, work, *inspect)]
    found = lists.equal(request, items, {"workRequestId": "id", "status": "status"})
    if wanted := request.first("resourceId"):
        found = [item for item in found if any(part["identifier"] == wanted for part in item["resources"])]
    return lists.page(request, found, {"timeAccepted": "timeAccepted"}, "timeAccepted", wrapped=True)


WORK_STATES = (
    "ACCEPTED", "IN_PROGRESS", "WAITING", "NEEDS_ATTENTION", "FAILED", "SUCCEEDED", "CANCELING", "CANCELED",
)  # fmt: skip


async def get_work_request(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetWorkRequest"""
    return ApiReply(body=forms.work_request(await _work(oci, request)))


async def list_work_request_errors(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListWorkRequestErrors: what went wrong, with the traceback"""
    work = await _work(oci, request)
    return _entries(request, [forms.work_request_error(entry) for entry in work.errors])


async def list_work_request_logs(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListWorkRequestLogs"""
    work = await _work(oci, request)
    return _entries(request, [forms.work_request_log(entry) for entry in work.logs])


async def cancel_work_request(oci: Oci, request: ApiRequest) -> ApiReply:
    """CancelWorkRequest: a deploy cannot be stopped half-way, so this is always refused"""
    work = await _work(oci, request)
    raise Conflict(f"work request {request.params['work_request_id']} cannot be cancelled: it is {work.status}")


async def _work(oci: Oci, request: ApiRequest) -> WorkRequest:
    work = await oci.work_request(ocid.id_of(request.params["work_request_id"], ocid.WORK_REQUEST))
    if not _may(oci, request, work, perm.APP_READ, perm.FUNCTION_READ):
        raise NotFound("work request not found")
    return work


def _may(oci: Oci, request: ApiRequest, work: WorkRequest, of_app: Permission, of_function: Permission) -> bool:
    """Who may see what a work request is about may see it; when that is gone, who may see such things where it was."""
    access, id_ = request.access, work.resource_id
    if work.resource_type == "function":
        if oci.catalog.function(id_) is not None:
            return access.may(of_function.of_function(), id_)
        return access.may(of_function.in_compartment(), work.compartment_id)
    if oci.catalog.app(id_) is not None:
        return access.may(of_app.of_app(), id_)
    return access.may(of_app.in_compartment(), work.compartment_id)


def _entries(request: ApiRequest, items: list[Form]) -> ApiReply:
    sorts = {"timestamp": "timestamp"}
    return lists.page(request, lists.numbered(items), sorts, "timestamp", wrapped=True, identity=lists.NUMBER)


# ---- runtimes


async def list_runtimes(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListFunctionsRuntimes: the interpreters of this machine"""
    lists.one_of(request, "lifecycleState", ("ACTIVE", "INACTIVE"))
    items = lists.named(request, [forms.runtime(found) for found in await oci.runtimes.all()])
    names = {"functionsRuntimeId": "id", "os": "os", "language": "language", "lifecycleState": "lifecycleState"}
    sorts = {name: name for name in ("timeCreated", "name", "timeDeprecated", "timeDecommissioned")}
    return lists.page(request, lists.equal(request, items, names), sorts, "timeCreated", wrapped=True)


async def get_runtime(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetFunctionsRuntime"""
    return _only([forms.runtime(found) for found in await oci.runtimes.all()], request.params["runtime_id"])


async def list_runtime_versions(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListFunctionsRuntimeVersions"""
    lists.one_of(request, "lifecycleState", ("ACTIVE", "INACTIVE"))
    name = request.first("functionsRuntimeName")
    found = [r for r in await oci.runtimes.all() if not name or r.name == name]
    names = {
        "functionsRuntimeId": "functionsRuntimeId", "functionsRuntimeVersionId": "id", "displayName": "displayName",
        "osVersion": "osVersion", "languageVersion": "languageVersion", "lifecycleState": "lifecycleState",
    }  # fmt: skip
    # Each is the current version: the interpreter that is installed.
    items = [] if lists.flag(request, "isCurrentVersion") is False else [forms.runtime_version(r) for r in found]
    sorts = {"timeCreated": "timeCreated", "name": "displayName"}
    return lists.page(request, lists.equal(request, items, names), sorts, "timeCreated", wrapped=True)


async def get_runtime_version(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetFunctionsRuntimeVersion"""
    items = [forms.runtime_version(found) for found in await oci.runtimes.all()]
    return _only(items, request.params["runtime_version_id"])


# ---- pre-built functions


async def list_listings(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListPbfListings: the node's catalogue of pre-built functions"""
    lists.one_of(request, "lifecycleState", ("ACTIVE", "INACTIVE", "DELETED"))
    items = lists.named(request, [forms.listing(found) for found in await oci.prebuilt.listings()])
    items = lists.equal(request, items, {"pbfListingId": "id", "lifecycleState": "lifecycleState"})
    if wanted := set(request.query.get("trigger", [])):
        items = [item for item in items if wanted & {trigger["name"] for trigger in item["triggers"]}]
    return lists.page(request, items, {"timeCreated": "timeCreated", "name": "name"}, "name", wrapped=True)


async def get_listing(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetPbfListing"""
    return _only([forms.listing(found) for found in await oci.prebuilt.listings()], request.params["listing_id"])


async def list_listing_versions(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListPbfListingVersions"""
    lists.required(request, "pbfListingId")
    lists.one_of(request, "lifecycleState", ("ACTIVE", "INACTIVE", "DELETED"))
    found = [] if lists.flag(request, "isCurrentVersion") is False else await oci.prebuilt.listings()
    names = {"pbfListingVersionId": "id"} | {name: name for name in ("pbfListingId", "name", "lifecycleState")}
    items = lists.equal(request, [forms.listing_version(one) for one in found], names)
    return lists.page(request, items, {"timeCreated": "timeCreated", "name": "name"}, "timeCreated", wrapped=True)


async def get_listing_version(oci: Oci, request: ApiRequest) -> ApiReply:
    """GetPbfListingVersion"""
    items = [forms.listing_version(found) for found in await oci.prebuilt.listings()]
    return _only(items, request.params["listing_version_id"])


async def list_triggers(oci: Oci, request: ApiRequest) -> ApiReply:
    """ListTriggers: what the functions of the catalogue are made to be called by"""
    found = {name for listing in await oci.prebuilt.listings() for name in listing.triggers}
    items: list[Form] = [{"name": name} for name in found]
    items = lists.equal(request, items, {"name": "name"})
    return lists.page(request, items, {"name": "name"}, "name", wrapped=True, identity="name")


# ---- helpers


def _compartment(oci: Oci, given: str) -> str:
    """The compartment's id; whatever tenancy a client's profile names is this node's.

    Raises:
      NotFound: there is no such compartment.
    """
    if given in oci.catalog.compartments:
        return given
    if ocid.kind_of(given) == "tenancy":
        return oci.catalog.tenancy_id
    raise NotFound(
        f"compartment {given[:200]!r} not found; the root compartment is the tenancy, {oci.catalog.tenancy_id}"
    )


def _app(oci: Oci, request: ApiRequest) -> App:
    given = request.params["application_id"]
    app = oci.catalog.app(ocid.id_of(given, ocid.APPLICATION))
    if app is None:
        raise NotFound(f"application {given[:200]} not found")
    return app


def _fn(oci: Oci, request: ApiRequest) -> Function:
    given = request.params["function_id"]
    made = oci.catalog.function(ocid.id_of(given, ocid.FUNCTION))
    if made is None:
        raise NotFound(f"function {given[:200]} not found")
    return made


def _only(items: list[Form], id_: str) -> ApiReply:
    for item in items:
        if item["id"] == id_:
            return ApiReply(body=item)
    raise NotFound(f"{id_[:200]} not found")


def _application(oci: Oci, app: App) -> ApiReply:
    return ApiReply(body=forms.application(app, oci.catalog.compartment_of(app)), headers=[("etag", forms.etag(app))])


def _where(oci: Oci, request: ApiRequest, made: Function) -> dict[str, str]:
    app = oci.catalog.app(made.app_id)
    compartment_id = oci.catalog.compartment_of(app) if app else ""
    return {"state": oci.state_of(made), "compartment_id": compartment_id, "base_url": request.base_url}


def _function(oci: Oci, request: ApiRequest, made: Function) -> ApiReply:
    form = forms.function(made, version_of(request), **_where(oci, request, made))
    return ApiReply(body=form, headers=[("etag", forms.etag(made))])


def _if_match(request: ApiRequest) -> Callable[[Any], None] | None:
    """A check of ``if-match`` for the moment of the change; None without one."""
    wanted = request.headers.get("if-match", "").strip()
    if wanted in ("", "*"):
        return None
    allowed = {part.strip().removeprefix("W/").strip('"').removesuffix("--gzip") for part in wanted.split(",")}

    def check(thing: App | Function) -> None:
        if forms.etag(thing) not in allowed:
            raise StaleEtag("if-match does not match the resource's etag: it was changed since; read it again")

    return check


def _accepted(reply: ApiReply, work_id: str) -> ApiReply:
    reply.status = 202
    reply.headers.append((WORK_REQUEST, ocid.make(ocid.WORK_REQUEST, work_id)))
    return reply


async def _changed(
    oci: Oci, request: ApiRequest, operation: str, kind: str, id_: str, reply: ApiReply, compartment_id: str = ""
) -> ApiReply:
    """The reply as it is, or with the work request that the newer version has for it; it is finished already."""
    if version_of(request) == CLASSIC:
        return reply
    return _accepted(reply, await oci.done(operation, kind, id_, compartment_id))


async def _gone(
    oci: Oci, request: ApiRequest, operation: str, kind: str, id_: str, compartment_id: str
) -> ApiReply:  # fmt: skip
    return await _changed(oci, request, operation, kind, id_, ApiReply(status=204), compartment_id)


def _both(method: str, path: str, handler: Handler, permission: Permission, **more: Any) -> list[Route]:
    return [Route(method, f"/{version}{path}", handler, permission, **more) for version in VERSIONS]


def _new(method: str, path: str, handler: Handler, permission: Permission) -> Route:
    return Route(method, f"/{NEWER}{path}", handler, permission)


_ANYWHERE = perm.FUNCTION_LIST.somewhere()
_APP, _FN = "/applications/{application_id}", "/functions/{function_id}"
_WORK = "/workRequests/{work_request_id}"

ROUTES = [
    *_both("POST", "/applications", create_application, perm.APP_CREATE.in_compartment("compartmentId")),
    *_both("GET", "/applications", list_applications, perm.APP_LIST.in_compartment("compartmentId")),
    *_both("GET", _APP, get_application, perm.APP_READ.of_app("application_id")),
    *_both("PUT", _APP, update_application, perm.APP_UPDATE.of_app("application_id")),
    *_both("DELETE", _APP, delete_application, perm.APP_DELETE.of_app("application_id")),
    *_both("POST", f"{_APP}/actions/changeCompartment", change_compartment, perm.APP_UPDATE.of_app("application_id")),
    *_both("POST", "/functions", create_function, perm.FUNCTION_CREATE.of_app("applicationId"), carries_bundle=True),
    *_both("GET", "/functions", list_functions, perm.FUNCTION_LIST.of_app("applicationId")),
    *_both("GET", _FN, get_function, perm.FUNCTION_READ.of_function("function_id")),
    *_both("PUT", _FN, update_function, perm.FUNCTION_UPDATE.of_function("function_id"), carries_bundle=True),
    *_both("DELETE", _FN, delete_function, perm.FUNCTION_DELETE.of_function("function_id")),
    *_both("GET", "/pbfListings/triggers", list_triggers, _ANYWHERE),
    *_both("GET", "/pbfListings", list_listings, _ANYWHERE),
    *_both("GET", "/pbfListings/{listing_id}", get_listing, _ANYWHERE),
    *_both("GET", "/pbfListingVersions", list_listing_versions, _ANYWHERE),
    *_both("GET", "/pbfListingVersions/{listing_version_id}", get_listing_version, _ANYWHERE),
    _new("GET", "/functionsRuntimes", list_runtimes, _ANYWHERE),
    _new("GET", "/functionsRuntimes/{runtime_id}", get_runtime, _ANYWHERE),
    _new("GET", "/functionsRuntimeVersions", list_runtime_versions, _ANYWHERE),
    _new("GET", "/functionsRuntimeVersions/{runtime_version_id}", get_runtime_version, _ANYWHERE),
    # Of applications and of functions: the handlers ask for the right to see what each is about.
    _new("GET", "/workRequests", list_work_requests, perm.AUTHENTICATED),
    _new("GET", _WORK, get_work_request, perm.AUTHENTICATED),
    _new("GET", f"{_WORK}/errors", list_work_request_errors, perm.AUTHENTICATED),
    _new("GET", f"{_WORK}/logs", list_work_request_logs, perm.AUTHENTICATED),
    _new("DELETE", _WORK, cancel_work_request, perm.AUTHENTICATED),
]
"""Method, path, handler, and the permission that the caller needs."""
