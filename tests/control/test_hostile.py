"""Whatever a client sends: a clear answer, never 500, and nothing stored when it is refused."""

from __future__ import annotations

import json
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.errors import BadRequest
from daemon.http import bodies
from tests.control.world import World, world

HOSTILE = settings(deadline=None, max_examples=40)  # each is a list of attacks on one world
OK = {200, 204, 301, 307, 400, 404, 405, 409, 410}


class Target(World):
    """A world with one of each, to be attacked again and again."""

    app_id: str
    fn_id: str
    trigger_id: str

    async def fill(self) -> None:
        self.app_id = (await self.send("POST", "/v2/apps", {"name": "app", "config": {"k": "v"}})).body["id"]
        fn = {"name": "f", "app_id": self.app_id, "image": "f:1"}
        self.fn_id = (await self.send("POST", "/v2/fns", fn)).body["id"]
        trigger = {"name": "t", "app_id": self.app_id, "fn_id": self.fn_id, "type": "http", "source": "/t"}
        self.trigger_id = (await self.send("POST", "/v2/triggers", trigger)).body["id"]

    def valid(self, where: str, name: str) -> dict[str, Any]:
        """The members of something new that is in order."""
        members = {"name": name, "app_id": self.app_id, "fn_id": self.fn_id}
        return members | ({"image": "i"} if where == "fns" else {"type": "http", "source": f"/{name}"})

    async def attack(self, method: str, target: str, body: bytes) -> Any:
        """Send it; check that the answer is a clear one, and that a refusal changed nothing."""
        before = (dict(self.catalog.apps), dict(self.catalog.functions), dict(self.catalog.triggers))
        reply = await self.send(method, target, body)
        assert reply.status in OK
        raw = reply.encode()
        if reply.status not in (200, 204):
            assert before == (self.catalog.apps, self.catalog.functions, self.catalog.triggers)
            if reply.type() and "json" in str(reply.type()):
                error = json.loads(raw)
                assert error["message"]
                assert error["code"]
                assert len(raw) < 8192, "an error need not repeat a megabyte"
        elif raw and method in ("POST", "PUT"):
            json.loads(raw)
            shown = await self.send("GET", target if method == "PUT" else f"{target}/{reply.body['id']}")
            assert {**shown.body, "config": shown.body.get("config") or {}} == {
                **reply.body,
                "config": reply.body.get("config") or {},
            }
        await self.assert_catalog_is_what_is_stored()
        return reply


@asynccontextmanager
async def attacked() -> AsyncIterator[Target]:
    with TemporaryDirectory() as directory:
        async with world(Path(directory)) as w:
            made = Target(w.database, w.catalog, w.deployer, w.registry, w.path, w.clock_ms)
            await made.fill()
            yield made


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with attacked() as made:
        yield made


MEMBERS = [
    "id", "name", "app_id", "fn_id", "config", "annotations", "syslog_url", "shape", "image", "memory", "timeout",
    "idle_timeout", "provisioned_concurrency", "type", "source", "created_at", "updated_at", "fields", "",
]  # fmt: skip
TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=8),  # lone surrogates too: as \\ud800 in JSON
    st.sampled_from(
        ["", "a", "http", "/t2", "f:1", "\0", "é", "a/b", "..", "%2e", "\ud800", "x" * 300, "CONSTANT", "none"]
    ),
)
SCALAR = st.one_of(
    st.none(), st.booleans(), TEXT, st.integers(), st.floats(),
    st.sampled_from([0, -1, 1, 128, 2**31, 2**63, 2**64, 10**100, 1e308, -0.0, float("inf"), float("nan")]),
)  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAME = st.sampled_from(MEMBERS).flatmap(lambda n: st.sampled_from([n, n.upper(), n.title()]))
BODY = st.dictionaries(NAME, VALUE, max_size=8)
VALID_NAME = st.text(string.ascii_letters, min_size=1, max_size=3)


KIND = st.sampled_from(["apps", "fns", "triggers"])
CHANGE = st.sampled_from(["POST", "PUT"])


@HOSTILE
@given(st.lists(st.tuples(KIND, CHANGE, BODY), max_size=8))
async def test_any_members(attacks: list[tuple[str, str, dict[str, Any]]]) -> None:
    async with attacked() as target:
        for where, method, body in attacks:
            await target.attack(method, path_of(target, where, method), json.dumps(body).encode())


@HOSTILE
@given(st.lists(st.tuples(KIND, VALID_NAME, BODY), max_size=8))
async def test_any_member_beside_valid_ones(attacks: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Most random bodies fail at the first rule; these get further in."""
    async with attacked() as target:
        for where, name, extra in attacks:
            one = dict(list(extra.items())[:1])
            await target.attack("POST", f"/v2/{where}", json.dumps({**target.valid(where, name), **one}).encode())


@HOSTILE
@given(st.lists(st.tuples(KIND, CHANGE, st.binary()), max_size=8))
async def test_any_bytes(attacks: list[tuple[str, str, bytes]]) -> None:
    async with attacked() as target:
        for where, method, body in attacks:
            reply = await target.attack(method, path_of(target, where, method), body)
            assert reply.status in (200, 400)


QUERIED = st.sampled_from(["/v2/apps", "/v2/fns?app_id=APP", "/v2/triggers?app_id=APP", "/v2/triggers"])
QUERY = st.sampled_from(["cursor", "per_page", "name", "app_id", "fn_id"])


@HOSTILE
@given(st.lists(st.tuples(QUERIED, QUERY, st.text(max_size=20) | st.integers().map(str)), max_size=8))
async def test_any_query(attacks: list[tuple[str, str, str]]) -> None:
    async with attacked() as target:
        for path, name, value in attacks:
            path = path.replace("APP", target.app_id)
            quoted = quote(value.encode(errors="replace"))
            await target.attack("GET", f"{path}{'&' if '?' in path else '?'}{name}={quoted}", b"")


METHOD = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "BREW"])


@HOSTILE
@given(st.lists(st.tuples(METHOD, st.text(max_size=40)), max_size=8))
async def test_any_path(attacks: list[tuple[str, str]]) -> None:
    async with attacked() as target:
        for method, path in attacks:
            await target.attack(method, "/v2/apps/" + quote(path.encode(errors="replace")), b"{}")


def path_of(target: Target, where: str, method: str) -> str:
    ids = {"apps": target.app_id, "fns": target.fn_id, "triggers": target.trigger_id}
    return f"/v2/{where}" + (f"/{ids[where]}" if method == "PUT" else "")


INVALID = [
    b"", b" ", b"{", b"[]", b"5", b'"x"', b"true", b"{}{}", b"{} x", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    b'{"name":"\xff"}', b'{"name":"\\ud800"}', b'{"name":"a\nb"}', b"{'name':'x'}", b'{"name":NaN}',
    b'{"annotations":{"a":Infinity}}', b'{"annotations":{"a":1e999}}', b'{"annotations":{"a":-1e999}}',
    b'{"annotations":{"a":' + b"9" * 5000 + b"}}", b'{"annotations":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'{"x":' * 50_000 + b"1" + b"}" * 50_000, b"[" * 1_000_000,
    b'{"annotations":[]}', b'{"annotations":"x"}', b'{"name":{}}',
    b'{"name":["x"]}', b'{"name":true}', b'{"id":5}', b'{"created_at":5}', b'{"created_at":"yesterday"}',
    b'{"created_at":"2026-13-45T99:99:99Z"}', b'{"a":' + b'"' * 3 + b"}",
]  # fmt: skip


INVALID_SETTINGS = [
    b'{"config":[]}', b'{"config":{"a":{}}}', b'{"config":{"a":1}}', b'{"config":"x"}', b'{"shape":1}',
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "body"),
    [(where, body) for where in ("apps", "fns", "triggers") for body in INVALID]
    + [(where, body) for where in ("apps", "fns") for body in INVALID_SETTINGS],
    ids=lambda value: repr(value[:40]),
)
async def test_invalid_json(target: Target, where: str, body: bytes) -> None:
    for method in ("POST", "PUT"):
        reply = await target.attack(method, path_of(target, where, method), body)
        assert (reply.status, reply.body["message"]) == (400, "Invalid JSON")
        assert reply.body["detail"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("memory", -1), ("memory", 1.0), ("memory", 1.5), ("memory", 2**64), ("memory", "128"), ("memory", True),
        ("timeout", 2**31), ("timeout", -(2**31) - 1), ("timeout", 0.5), ("timeout", "30"), ("idle_timeout", [1]),
        ("image", 5), ("app_id", {}), ("name", 8),
    ],
)  # fmt: skip
async def test_wrong_types_of_a_functions_members(target: Target, member: str, value: Any) -> None:
    body = {"name": "g", "app_id": target.app_id, "image": "i", member: value}
    reply = await target.attack("POST", "/v2/fns", json.dumps(body).encode())
    assert (reply.status, reply.body["message"]) == (400, "Invalid JSON")
    assert member in reply.body["detail"]


MEGABYTE = "x" * 2**20


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("apps", {"name": MEGABYTE}, "App name must be 255 characters or less"),
        ("apps", {"name": "é" * 128}, "App name must be 255 characters or less"),
        ("apps", {"name": "a\0b"}, "Invalid app name"),
        ("apps", {"name": "a\n"}, "Invalid app name"),
        ("apps", {"syslog_url": MEGABYTE}, "invalid syslog url"),
        ("apps", {"syslog_url": "udp://" + MEGABYTE}, "syslog_url must be 2048 bytes or less"),
        ("apps", {"config": {"k": MEGABYTE}}, "Invalid config: 'k' has 1048578 bytes"),
        ("apps", {"config": {MEGABYTE: "v"}}, "Invalid config"),
        ("apps", {"config": {f"k{n}": "x" * 60_000 for n in range(9)}}, "Invalid config: 540036 bytes in all"),
        ("apps", {"config": {"": "v"}}, "Invalid config key or value: ''"),
        ("apps", {"config": {"a=b": "v"}}, "Invalid config key or value: 'a=b'"),
        ("apps", {"config": {"a": "v\0"}}, "Invalid config key or value: 'a'"),
        ("apps", {"config": {"a\0": "v"}}, "Invalid config key or value: 'a\\x00'"),
        ("apps", {"annotations": {"a": None}}, "Invalid annotation value"),
        ("apps", {"annotations": {"": 1}}, "Invalid annotation key"),
        ("apps", {"annotations": {"a\n": 1}}, "Invalid annotation key"),
        ("apps", {"annotations": {"a": MEGABYTE}}, "Invalid annotation value length"),
        ("apps", {"annotations": {MEGABYTE: 1}}, "Invalid annotation key length"),
        ("apps", {"annotations": {str(n): 1 for n in range(101)}}, "Invalid annotation change"),
        ("fns", {"name": MEGABYTE}, "Fn name must be 255 characters or less"),
        ("fns", {"name": "f\n"}, "name must be a valid string"),
        ("fns", {"image": MEGABYTE}, "image must be 1024 bytes or less"),
        ("fns", {"image": "a\0"}, "image must not hold a NUL"),
        ("fns", {"annotations": {"stoker.dev/start": 5}}, "annotation stoker.dev/start must be one of"),
        ("fns", {"provisioned_concurrency": MEGABYTE}, "provisioned_concurrency must be"),
        ("fns", {"provisioned_concurrency": {"strategy": "CONSTANT", "count": 1e3}}, "provisioned_concurrency must"),
        ("fns", {"provisioned_concurrency": {"strategy": "CONSTANT", "count": 10**9}}, "provisioned_concurrency must"),
        ("triggers", {"name": MEGABYTE}, "Trigger name must be 255 characters or less"),
        ("triggers", {"source": "/" + MEGABYTE}, "source must be 4096 bytes or less"),
        ("triggers", {"source": "/\0"}, "source must not hold a NUL"),
        ("triggers", {"created_at": "2026-01-01T00:00:00Z"}, "Trigger Created At Provided for Create"),
        ("triggers", {"updated_at": "2026-01-01T00:00:00Z"}, "Trigger ID Provided for Create"),
    ],
)
async def test_what_breaks_a_rule_is_told_so(target: Target, where: str, change: dict[str, Any], message: str) -> None:
    reply = await target.attack("POST", f"/v2/{where}", json.dumps({**target.valid(where, "new"), **change}).encode())
    assert reply.status == 400
    assert reply.body["message"].startswith(message)
    assert reply.body["code"] == "bad-request"


async def test_the_largest_that_is_allowed(target: Target) -> None:
    nested: Any = 1
    for _ in range(250):
        nested = [nested]
    body = {
        "name": "é" * 127 + "a",
        "config": {"k": "x" * (128 * 1024 - 3), "a b\n": "é\n"},
        "annotations": {"k" * 128: "v" * 510, "deep": nested, **{str(n): 1 for n in range(98)}},
    }
    assert (await target.attack("POST", "/v2/apps", json.dumps(body).encode())).status == 200


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (None, None), ("none", 0), ("NONE", 0), ({"strategy": "NONE"}, 0), ({"strategy": "NONE", "count": 0}, 0),
        ("constant:40", 40), ("CONSTANT:3", 3), ({"strategy": "CONSTANT", "count": 40}, 40),
        ({"Strategy": "constant", "COUNT": 1}, 1),
    ],
)  # fmt: skip
def test_forms_of_provisioned_concurrency(value: Any, count: int | None) -> None:
    assert bodies.provisioned_concurrency(value) == count


@pytest.mark.parametrize(
    "value",
    [
        40, 0, True, [], {}, "", "40", "constant", "constant:", "constant:0", "constant:-1", "constant:4.0",
        "constant:٤", "none:4", "some:4", {"strategy": "CONSTANT"}, {"strategy": "CONSTANT", "count": "40"},
        {"strategy": "CONSTANT", "count": True}, {"strategy": "CONSTANT", "count": 0}, {"count": 40},
        {"strategy": "NONE", "count": 40}, {"strategy": None}, {"strategy": 5, "count": 5},
    ],
)  # fmt: skip
def test_not_forms_of_provisioned_concurrency(value: Any) -> None:
    with pytest.raises(BadRequest, match="provisioned_concurrency must be"):
        bodies.provisioned_concurrency(value)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (None, 0), ("", 0), ("0001-01-01T00:00:00.000Z", 0), ("0001-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01Z", 1000), ("1970-01-01T01:00:01.5+01:00", 1500), ("1970-01-01T00:00:00Z", 1),
    ],
)  # fmt: skip
def test_times(text: str | None, at: int) -> None:
    assert bodies.Members({"at": text}).time("at") == at


async def test_member_names_match_in_any_case(target: Target) -> None:
    """Go's decoder does so (reference fn-contract 1.1)."""
    made = await target.attack("POST", "/v2/apps", b'{"NAME":"upper","Config":{"K":"v","k":"w"},"bogus":1}')
    assert (made.body["name"], made.body["config"]) == ("upper", {"K": "v", "k": "w"})
