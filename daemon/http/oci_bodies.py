"""Bodies of the OCI API as changes for the registry: every field of both versions, checked by OCI's rules.

Memory sizes, configuration and timeouts have OCI's narrower limits here (reference oci-api 1.4 to 1.6, 2.1, 2.3).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from daemon.core import detached_settings
from daemon.errors import BadRequest, PayloadTooLarge
from daemon.http.oci_fields import Fields, parse
from daemon.oci.sources import ARCHIVE, FUNCTION_UPDATE, IMAGE, MANUAL, PREBUILT, Source
from daemon.registry import AppChange, FunctionChange
from daemon.registry.rules import PCU_STRATEGY

MEMORY_SIZES_MIB = (128, 256, 512, 1024, 2048, 3072)
TIMEOUT_S_MAX = 300
SUBNETS_MAX = 3
GROUPS_MAX = 5
SHAPES = ("GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM")
LINE_FORMATS = ("JSON", "PLAIN_TEXT")
SYSLOG = re.compile(r"(tcp|udp|tcp\+tls)://[^/\s]+:\d{1,5}/?")
TARGET_CHARS_MAX = 200
PCU_COUNT_MAX = 10**6


def new_application(body: bytes, config_bytes_max: int) -> tuple[AppChange, str]:
    """What CreateApplication asks for, and the compartment's OCID.

    Raises:
      BadRequest, CannotParse: the text names the field.
    """
    fields = parse(body)
    compartment_id = fields.text("compartmentId", required=True)
    name = fields.text("displayName", required=True)
    fields.require("subnetIds")
    shape = fields.one_of("shape", SHAPES)
    cloud = {**_cloud(fields), "subnetIds": fields.ocids("subnetIds", most=SUBNETS_MAX)}
    return AppChange(name=name, shape=shape, **_application(fields, config_bytes_max, cloud)), compartment_id


def application_change(body: bytes, config_bytes_max: int) -> AppChange:
    """What UpdateApplication asks for. Name, subnets and shape are not looked at: they never change."""
    fields = parse(body)
    return AppChange(replaces_config=True, **_application(fields, config_bytes_max, _cloud(fields)))


def _application(fields: Fields, config_bytes_max: int, cloud: dict[str, Any]) -> dict[str, Any]:
    logging, trace = fields.object("logging"), fields.object("traceConfig")
    return {
        "config": fields.config("config", config_bytes_max),
        "syslog_url": _syslog(fields),
        "log_format": logging.one_of("lineFormat", LINE_FORMATS) if logging else None,
        "annotations": _trace(trace) if trace else None,
        "cloud": cloud,
        "freeform_tags": fields.freeform_tags(),
        "defined_tags": fields.defined_tags(),
    }


def _cloud(fields: Fields) -> dict[str, Any]:
    """What only a cloud could act on; it is checked, kept and shown."""
    kept: dict[str, Any] = {}
    if (groups := fields.ocids("networkSecurityGroupIds", most=GROUPS_MAX)) is not None:
        kept["networkSecurityGroupIds"] = groups
    if (policy := fields.object("imagePolicyConfig")) is not None:
        if policy.flag("isPolicyEnabled") is None:
            raise BadRequest("imagePolicyConfig.isPolicyEnabled is required.")
        kept["imagePolicyConfig"] = fields.any_map("imagePolicyConfig")
    if (attributes := fields.any_map("securityAttributes")) is not None:
        if not all(isinstance(value, dict) for value in attributes.values()):
            raise BadRequest("securityAttributes must be an object of objects")
        kept["securityAttributes"] = attributes
    return kept


def _syslog(fields: Fields) -> str | None:
    url = fields.text_or_none("syslogUrl", chars_max=2000)
    if url and not SYSLOG.fullmatch(url):
        raise BadRequest(
            f"syslogUrl must be tcp://HOST:PORT, udp://HOST:PORT or tcp+tls://HOST:PORT, not {url[:200]!r}"
        )
    return url


def _trace(trace: Fields) -> dict[str, Any]:
    """``traceConfig`` as the annotation that the Fn API shows; "" takes it away."""
    domain = trace.text("domainId")
    enabled = bool(trace.flag("isEnabled"))
    form = {"isEnabled": enabled, "domainId": domain} if domain else {"isEnabled": enabled}
    return {detached_settings.TRACING: form if enabled or domain else ""}


def new_function(body: bytes, version: str, *, config_bytes_max: int, archive_bytes_max: int) -> tuple[Fields, Source]:
    """The checked body of CreateFunction and its source; `function_change` makes the change of the former.

    Raises:
      BadRequest, CannotParse, PayloadTooLarge: the text names the field.
    """
    fields = parse(body)
    fields.text("displayName", required=True)
    fields.text("applicationId", required=True)
    source = _source(fields, version, archive_bytes_max, anew=True)
    if source is None:
        raise BadRequest("image is required." if version == "20181201" else "sourceDetails is required.")
    fields.require("memoryInMBs")
    return fields, source


def function_update(body: bytes, version: str, *, archive_bytes_max: int) -> tuple[Fields, Source | None]:
    """The same of UpdateFunction; None: no source is mentioned."""
    fields = parse(body)
    return fields, _source(fields, version, archive_bytes_max, anew=False)


def function_change(fields: Fields, config_bytes_max: int, **more: Any) -> FunctionChange:
    """The change that the fields ask for; what they do not mention is not changed."""
    memory_mib = fields.whole("memoryInMBs", 0, 10**9)
    if memory_mib is not None and memory_mib not in MEMORY_SIZES_MIB:
        sizes = ", ".join(map(str, MEMORY_SIZES_MIB))
        raise BadRequest(f"memoryInMBs must be one of {sizes}, not {memory_mib}")
    timeout_s = fields.whole("timeoutInSeconds", 1, TIMEOUT_S_MAX)
    low, high = detached_settings.TIMEOUT_S_MIN, detached_settings.TIMEOUT_S_MAX
    annotations = detached_settings.oci_annotations(
        detached_timeout_s=fields.whole("detachedModeTimeoutInSeconds", low, high),
        success=_destination(fields, "successDestination"),
        failure=_destination(fields, "failureDestination"),
    )
    if (trace := fields.object("traceConfig")) is not None:
        annotations |= _trace(trace)
    if (pcu_count := _pcu(fields)) == 0:
        annotations[PCU_STRATEGY] = "NONE"  # said in so many words, it is shown again (Terraform compares)
    return FunctionChange(
        memory_mib=memory_mib or 0,
        timeout_s=timeout_s or 0,
        config=fields.config("config", config_bytes_max),
        annotations=annotations,
        pcu_count=pcu_count,
        freeform_tags=fields.freeform_tags(),
        defined_tags=fields.defined_tags(),
        replaces_config=True,
        **more,
    )


def _destination(fields: Fields, name: str) -> dict[str, str] | None:
    given = fields.object(name)
    if given is None:
        return None
    kind = given.one_of("kind", ("NONE", *detached_settings.OCI_KINDS), required=True)
    if kind == "NONE":
        return {"kind": kind}
    member = detached_settings.MEMBERS[kind]
    made = {"kind": kind, member: given.text(member, chars_max=TARGET_CHARS_MAX, required=True)}
    if kind == "QUEUE" and (channel := given.text("channelId", chars_max=TARGET_CHARS_MAX)):
        made["channelId"] = channel
    return made


def _pcu(fields: Fields) -> int | None:
    given = fields.object("provisionedConcurrencyConfig")
    if given is None:
        return None
    if given.one_of("strategy", ("CONSTANT", "NONE"), required=True) == "NONE":
        return 0
    given.require("count")
    return given.whole("count", 1, PCU_COUNT_MAX)


def _source(fields: Fields, version: str, archive_bytes_max: int, *, anew: bool) -> Source | None:
    details = fields.object("sourceDetails")
    if version == "20181201":
        if details is not None:
            details.one_of("sourceType", (PREBUILT,), required=True)
            return Source(kind=PREBUILT, listing_id=details.text("pbfListingId", required=True))
        image, digest = fields.text("image", chars_max=1024), fields.text("imageDigest")
        return Source(kind=IMAGE, image=image, image_digest=digest) if image or digest else None
    if details is None:
        return None
    kind = details.one_of("sourceType", (IMAGE, ARCHIVE, PREBUILT), required=True)
    if kind == IMAGE:
        image = details.text("image", chars_max=1024, required=anew)
        return Source(kind=IMAGE, image=image, image_digest=details.text("imageDigest"))
    if kind == PREBUILT:
        return Source(kind=PREBUILT, listing_id=details.text("pbfListingId", required=anew))
    return _archive_source(details, archive_bytes_max, anew=anew)


def _archive_source(details: Fields, archive_bytes_max: int, *, anew: bool) -> Source:
    handler = details.text("handler", required=anew)
    runtime = details.object("runtimeConfig")
    if runtime is None and anew:
        raise BadRequest("sourceDetails.runtimeConfig is required.")
    config = name = pinned = ""
    if runtime is not None:
        config = runtime.one_of("runtimeConfigType", (FUNCTION_UPDATE, MANUAL), required=True)
        name = runtime.text("functionsRuntimeName", required=anew)
        pinned = runtime.text("functionsRuntimeVersionId", required=config == MANUAL)
    archive = b""
    where = details.object("archiveSourceDetails")
    if where is None and anew:
        raise BadRequest("sourceDetails.archiveSourceDetails is required.")
    if where is not None:
        if (
            where.one_of("archiveSourceType", ("DIRECT_ARCHIVE", "OBJECT_STORAGE_ARCHIVE"), required=True)
            != "DIRECT_ARCHIVE"
        ):
            raise BadRequest(
                "sourceDetails.archiveSourceDetails: this node has no Object Storage; send the archive in the request"
                " (archiveSourceType DIRECT_ARCHIVE, in the CLI direct-archive --archive-file)"
            )
        archive = _archive(where, archive_bytes_max, required=anew)
    return Source(
        kind=ARCHIVE, archive=archive, handler=handler, runtime_config=config, runtime_name=name,
        runtime_version_id=pinned,
    )  # fmt: skip


def _archive(where: Fields, bytes_max: int, *, required: bool) -> bytes:
    text = where.text("archiveFile", chars_max=10**9, required=required)
    if len(text) // 4 * 3 > bytes_max + 3:
        raise PayloadTooLarge(f"archiveFile: about {len(text) // 4 * 3} bytes, at most {bytes_max} are allowed")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(f"{where.path}archiveFile must be a ZIP in base64: {exc}") from None
