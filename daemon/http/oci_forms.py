"""What the OCI API answers: the model in the names and shapes of both versions (reference oci-api 1.4, 1.5, 1.7).

Every member is there, null or empty where nothing is set: the SDKs read them by name, and die without discriminators.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from daemon import ocid
from daemon.core import detached_settings
from daemon.http.views import rfc3339
from daemon.model import App, Function
from daemon.oci.prebuilt import Listing
from daemon.oci.runtimes import Runtime
from daemon.oci.sources import ARCHIVE, FUNCTION_UPDATE, IMAGE, PREBUILT, kind_of
from daemon.registry.rules import PCU_STRATEGY
from daemon.store.work_records import Entry, WorkRequest

CLASSIC = "20181201"
NOT_IN_ETAG = ("state", "state_error", "error", "updated_at")
"""What changes by itself while something is created: a client's etag must outlive that."""

Form = dict[str, Any]


def etag(thing: App | Function) -> str:
    """A digest of all that a client can change."""
    values = asdict(thing)
    for part in (values, values.get("live", {})):
        for name in NOT_IN_ETAG:
            part.pop(name, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def application(app: App, compartment_id: str) -> Form:
    """Application."""
    return {
        **application_summary(app, compartment_id),
        "config": dict(app.config),
        "syslogUrl": app.syslog_url or None,
    }


def application_summary(app: App, compartment_id: str) -> Form:
    """ApplicationSummary: without config and syslogUrl."""
    cloud = app.cloud
    return {
        "id": ocid.application_ocid(app.id),
        "compartmentId": compartment_id,
        "displayName": app.name,
        "lifecycleState": "ACTIVE",
        "subnetIds": cloud.get("subnetIds", []),
        "shape": app.shape or "GENERIC_X86",
        "networkSecurityGroupIds": cloud.get("networkSecurityGroupIds", []),
        "traceConfig": {"domainId": None, **_trace(app)},
        "logging": {"lineFormat": app.log_format} if app.log_format else None,
        "imagePolicyConfig": cloud.get("imagePolicyConfig"),
        "securityAttributes": cloud.get("securityAttributes", {}),
        "freeformTags": dict(app.freeform_tags),
        "definedTags": dict(app.defined_tags),
        "timeCreated": rfc3339(app.created_at),
        "timeUpdated": rfc3339(app.updated_at),
    }


def function(made: Function, version: str, **where: str) -> Form:
    """Function."""
    return {**function_summary(made, version, **where), "config": dict(made.live.config)}


def function_summary(made: Function, version: str, *, state: str, compartment_id: str, base_url: str) -> Form:
    """FunctionSummary: without config."""
    live, pcu = made.live, made.pcu_count
    annotations = made.annotations
    return {
        "id": ocid.function_ocid(made.id),
        "displayName": made.name,
        "applicationId": ocid.application_ocid(made.app_id),
        "compartmentId": compartment_id,
        "lifecycleState": state,
        **_source(made, version),
        "shape": made.shape or "GENERIC_X86",
        "memoryInMBs": live.memory_mib,
        "timeoutInSeconds": live.timeout_s,
        "detachedModeTimeoutInSeconds": detached_settings.parse(annotations).timeout_s,
        "provisionedConcurrencyConfig": {"strategy": "CONSTANT", "count": pcu} if pcu else _no_pcu(made),
        "successDestination": _destination(annotations.get(detached_settings.ON_SUCCESS)),
        "failureDestination": _destination(annotations.get(detached_settings.ON_FAILURE)),
        "traceConfig": {"isEnabled": _trace(made)["isEnabled"]},
        "invokeEndpoint": base_url,
        "freeformTags": dict(made.freeform_tags),
        "definedTags": dict(made.defined_tags),
        "timeCreated": rfc3339(made.created_at),
        "timeUpdated": rfc3339(made.updated_at),
    }


def _no_pcu(made: Function) -> Form | None:
    """Null where nothing was ever said, as OCI has it; what was said is shown."""
    return {"strategy": "NONE"} if made.annotations.get(PCU_STRATEGY) == "NONE" else None


def _trace(thing: App | Function) -> Form:
    value = thing.annotations.get(detached_settings.TRACING)
    if isinstance(value, dict):
        return {"isEnabled": False, **value}
    return {"isEnabled": value is True}


def _destination(value: Any) -> Form:
    """As it is, if OCI's clients know the kind; ours (HTTP, FUNCTION) they do not."""
    known = isinstance(value, dict) and value.get("kind") in detached_settings.OCI_KINDS
    return dict(value) if known else {"kind": "NONE"}


def _source(made: Function, version: str) -> Form:
    live, source, kind = made.live, made.live.source, kind_of(made.live)
    prebuilt: Form = {"sourceType": PREBUILT, "pbfListingId": source.get("pbfListingId")}
    if version == CLASSIC:
        if kind != IMAGE:  # what has no image shows none: Terraform would send it back as a change of the source
            return {"image": None, "imageDigest": None, "sourceDetails": prebuilt if kind == PREBUILT else None}
        return {"image": live.image, "imageDigest": live.digest or None, "sourceDetails": None}
    if kind == PREBUILT:
        return {"sourceDetails": prebuilt}
    if kind == IMAGE:
        return {"sourceDetails": {"sourceType": IMAGE, "image": live.image, "imageDigest": live.digest or None}}
    runtime: Form = {
        "runtimeConfigType": source.get("runtimeConfigType", FUNCTION_UPDATE),
        "functionsRuntimeName": source.get("functionsRuntimeName"),
        "functionsRuntimeVersionId": source.get("functionsRuntimeVersionId"),
    }
    archive: Form = {
        "sourceType": ARCHIVE,
        "archiveSourceDetails": {"archiveSourceType": "DIRECT_ARCHIVE"},
        "handler": source.get("handler"),
        "runtimeConfig": runtime,
        "sourceCodeSha256": source.get("sha256"),
    }
    return {"sourceDetails": archive}


def work_request(work: WorkRequest) -> Form:
    """WorkRequest and WorkRequestSummary: they are equal."""
    kind, done = work.resource_type, work.finished_at != 0
    actions = {"CREATE": "CREATED", "UPDATE": "UPDATED", "DELETE": "DELETED"}
    action = actions[work.operation.partition("_")[0]] if work.status == "SUCCEEDED" else "FAILED"
    identifier = ocid.function_ocid(work.resource_id) if kind == "function" else ocid.application_ocid(work.resource_id)
    return {
        "id": ocid.make(ocid.WORK_REQUEST, work.id),
        "operationType": work.operation,
        "status": work.status,
        "compartmentId": work.compartment_id,
        "resources": [
            {
                "entityType": kind,
                "actionType": action if done else "IN_PROGRESS",
                "identifier": identifier,
                "entityUri": f"/20260325/{kind}s/{identifier}",
                "metadata": {},
            }
        ],
        "percentComplete": 100.0 if done else 0.0,
        "timeAccepted": rfc3339(work.accepted_at),
        "timeStarted": rfc3339(work.started_at) if work.started_at else None,
        "timeFinished": rfc3339(work.finished_at) if done else None,
        "timeUpdated": rfc3339(work.finished_at or work.started_at or work.accepted_at),
    }


def work_request_error(entry: Entry) -> Form:
    """WorkRequestError."""
    return {"code": entry.code, "message": entry.message, "timestamp": rfc3339(entry.at)}


def work_request_log(entry: Entry) -> Form:
    """WorkRequestLogEntry."""
    return {"message": entry.message, "timestamp": rfc3339(entry.at)}


_TAGS: Form = {"freeformTags": {}, "definedTags": {}, "systemTags": {}}


def runtime(found: Runtime) -> Form:
    """FunctionsRuntime and its summary."""
    return {
        "id": found.id,
        "name": found.name,
        "os": found.os,
        "language": found.language,
        "timeDeprecated": rfc3339(found.deprecated_at) if found.deprecated_at else None,
        "timeDecommissioned": None,
        "metadata": {},
        "lifecycleState": "ACTIVE",
        "currentFunctionsRuntimeVersionId": found.version_id,
        "timeCreated": rfc3339(found.created_at),
        "timeUpdated": rfc3339(found.created_at),
        **_TAGS,
    }


def runtime_version(found: Runtime) -> Form:
    """FunctionsRuntimeVersion and its summary."""
    return {
        "id": found.version_id,
        "functionsRuntimeId": found.id,
        "displayName": found.version_name,
        "osVersion": found.os_version,
        "languageVersion": found.language_version,
        "supportedArchitectures": [found.architecture],
        "metadata": {},
        "lifecycleState": "ACTIVE",
        "timeCreated": rfc3339(found.created_at),
        "timeUpdated": rfc3339(found.created_at),
        **_TAGS,
    }


def listing(found: Listing) -> Form:
    """PbfListing and its summary."""
    return {
        "id": found.id,
        "name": found.name,
        "description": found.description,
        "publisherDetails": {"name": found.publisher},
        "triggers": [{"name": name} for name in found.triggers],
        "timeCreated": rfc3339(found.created_at),
        "timeUpdated": rfc3339(found.created_at),
        "lifecycleState": "ACTIVE",
        **_TAGS,
    }


def listing_version(found: Listing) -> Form:
    """PbfListingVersion and its summary."""
    return {
        "id": found.version_id,
        "pbfListingId": found.id,
        "name": found.version,
        "config": [{"key": c.key, "description": c.description, "isOptional": c.is_optional} for c in found.config],
        "requirements": {"minMemoryRequiredInMBs": found.memory_mib, "policies": []},
        "changeSummary": found.changes,
        "triggers": [{"name": name} for name in found.triggers],
        "timeCreated": rfc3339(found.created_at),
        "timeUpdated": rfc3339(found.created_at),
        "lifecycleState": "ACTIVE",
        **_TAGS,
    }
