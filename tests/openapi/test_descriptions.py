"""The descriptions are complete, and valid by the rules of OpenAPI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from daemon.http.openapi import build

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", build.NAMES)
def test_the_reference_has_what_the_code_says(name: str) -> None:
    assert json.loads((REFERENCE / f"openapi-{name}.json").read_text()) == build.document(name)


@pytest.mark.parametrize("name", build.NAMES)
def test_a_description_hangs_together(name: str) -> None:
    document = build.document(name)
    ids = [operation["operationId"] for there in document["paths"].values() for operation in there.values()]
    assert len(ids) == len(set(ids))
    for reference in _references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    for path, there in document["paths"].items():
        for operation in there.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for item in value.values() for one in _references(item)]
    return [one for item in value for one in _references(item)] if isinstance(value, list) else []
