"""Typed access to the JSON bodies of the OCI API: names in exact case, unknown members ignored, null is "not given".

Every refusal names the member and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from daemon import ocid
from daemon.errors import BadRequest, CannotParse
from daemon.http import bodies

TEXT_CHARS_MAX = 255
TAGS_MAX = 64
TAG_KEY_CHARS_MAX = 100
TAG_VALUE_CHARS_MAX = 256
"""OCI: Tagging, limits on tags; values of defined tags too."""
CONFIG_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(body: bytes) -> Fields:
    """The body, which must be an object.

    Raises:
      CannotParse
    """
    try:
        value = bodies.parse_value(body)
    except BadRequest as exc:
        raise CannotParse(detail=exc.detail) from None
    if not isinstance(value, dict):
        raise CannotParse(detail="the body must be a JSON object")
    return Fields(value)


class Fields:
    """The members of an object. ``path`` is where it is, for texts: ``sourceDetails.``."""

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        self._members = members
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def _wrong(self, name: str, must: str) -> BadRequest:
        value = repr(self._members.get(name))
        return BadRequest(f"{self.path}{name} must be {must}, not {value if len(value) < 200 else value[:200] + '...'}")

    def require(self, name: str) -> None:
        """Raises BadRequest when it is not given."""
        if self._members.get(name) in (None, ""):
            raise BadRequest(f"{self.path}{name} is required.")

    def text(self, name: str, *, chars_max: int = TEXT_CHARS_MAX, required: bool = False) -> str:
        """A string, "" when it is not given."""
        if required:
            self.require(name)
        value = self._members.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > chars_max:
            raise self._wrong(name, f"a string of at most {chars_max} characters")
        return value

    def text_or_none(self, name: str, *, chars_max: int = TEXT_CHARS_MAX) -> str | None:
        """The same, None when it is not given."""
        return self.text(name, chars_max=chars_max) if name in self else None

    def one_of(self, name: str, allowed: Sequence[str], *, required: bool = False) -> str:
        """One of a few words, "" when it is not given."""
        if required:
            self.require(name)
        value = self._members.get(name)
        if value is None:
            return ""
        if value not in allowed:
            raise self._wrong(name, f"one of {', '.join(allowed)}")
        return str(value)

    def whole(self, name: str, lowest: int, highest: int) -> int | None:
        """A whole number, None when it is not given."""
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self._wrong(name, f"a whole number from {lowest} to {highest}")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, None when it is not given."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def object(self, name: str) -> Fields | None:
        """An object, None when it is not given."""
        value = self._members.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(value, f"{self.path}{name}.")

    def any_map(self, name: str) -> dict[str, Any] | None:
        """An object as it is, None when it is not given."""
        self.object(name)
        return self._members.get(name)

    def ocids(self, name: str, *, most: int) -> list[str] | None:
        """A list of OCIDs, None when it is not given."""
        value = self._members.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > most or not all(_is_ocid(item) for item in value):
            raise self._wrong(name, f"a list of at most {most} OCIDs")
        return value

    def config(self, name: str, bytes_max: int) -> dict[str, str] | None:
        """A configuration by OCI's rules (reference oci-api 1.6), None when it is not given."""
        value = self.any_map(name)
        if value is None:
            return None
        total = 0
        for key, item in value.items():
            if not CONFIG_KEY.fullmatch(key):
                raise BadRequest(
                    f"{self.path}{name}: the key {key[:100]!r} must be made of ASCII letters, digits and '_', and must"
                    " not start with a digit"
                )
            if not isinstance(item, str) or not item.isprintable():
                raise BadRequest(
                    f"{self.path}{name}: the value of {key[:100]!r} must be a string of printable characters"
                )
            total += len(key.encode()) + len(item.encode())
        if total > bytes_max:
            raise BadRequest(
                f"{self.path}{name}: keys and values have {total} bytes in UTF-8, at most {bytes_max} are allowed"
            )
        return value

    def freeform_tags(self) -> dict[str, str] | None:
        """``freeformTags``, None when they are not given."""
        value = self.any_map("freeformTags")
        _check_tags("freeformTags", value or {}, texts_only=True)
        return value

    def defined_tags(self) -> dict[str, dict[str, Any]] | None:
        """``definedTags``: values by key by namespace, None when they are not given."""
        value = self.any_map("definedTags")
        if value is None:
            return None
        for namespace, tags in value.items():
            if not isinstance(tags, dict):
                raise BadRequest(f"definedTags: the value of {namespace[:100]!r} must be an object of tags")
            _check_tags(f"definedTags.{namespace[:100]}", tags, texts_only=False)
        if (count := sum(map(len, value.values()))) > TAGS_MAX:
            raise BadRequest(f"definedTags: {count} tags, at most {TAGS_MAX} are allowed")
        return value


def _is_ocid(value: Any) -> bool:
    return isinstance(value, str) and bool(ocid.kind_of(value))


def _check_tags(name: str, tags: Mapping[str, Any], *, texts_only: bool) -> None:
    if len(tags) > TAGS_MAX:
        raise BadRequest(f"{name}: {len(tags)} tags, at most {TAGS_MAX} are allowed")
    for key, value in tags.items():
        if not 0 < len(key) <= TAG_KEY_CHARS_MAX:
            raise BadRequest(f"{name}: a key must have 1 to {TAG_KEY_CHARS_MAX} characters, not {key[:120]!r}")
        if isinstance(value, str) and len(value) <= TAG_VALUE_CHARS_MAX:
            continue
        if texts_only or isinstance(value, (dict, list, str)) or value is None:
            raise BadRequest(
                f"{name}: the value of {key!r} must be a string of at most {TAG_VALUE_CHARS_MAX} characters"
            )
