"""The recordings of the real Fn server, replayed against the API without a server in between."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.http.views import ApiReply
from tests.control.world import world
from tests.golden import differences
from tests.golden.replay import Answer, Exchange, Session, compare, parse, replay

SHARED = Path(os.environ.get("STOKER_SHARED", Path(__file__).parents[2].parent / "shared"))
RECORDINGS = SHARED / "reference" / "fn-golden"
DOCS = Path(__file__).parents[2] / "docs"

FILES = {  # exchanges in the file, of which run functions (those are replayed against the daemon)
    "01-version-context.txt": (3, 0),
    "02-app.txt": (37, 0),
    "03-function.txt": (61, 0),
    "04-trigger.txt": (73, 0),
    "05-config.txt": (51, 0),
    "06-errors-cli.txt": (77, 0),
    "07-delete-with-children.txt": (54, 0),
    "08-invoke-cli.txt": (40, 28),
    "09-api-raw.txt": (137, 0),
    "10-invoke-contract.txt": (63, 61),
    "12-delete-raw.txt": (11, 1),
    "14-deploy.txt": (47, 1),
}

needs_recordings = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings at {RECORDINGS}")


def answer(method: str, reply: ApiReply) -> Answer:
    """What the app would put on the wire."""
    headers = {name.lower(): value for name, value in reply.headers}
    return Answer(reply.status, reply.type(), b"" if method == "HEAD" else reply.encode(), headers)


@needs_recordings
@pytest.mark.parametrize("name", FILES)
def test_the_parser_finds_every_exchange(name: str) -> None:
    exchanges = parse(RECORDINGS / name)
    assert (len(exchanges), sum(e.invokes for e in exchanges)) == FILES[name]
    markers = (RECORDINGS / name).read_bytes().count(b" REQUEST (")
    assert len(exchanges) == markers


@needs_recordings
async def test_every_recorded_exchange_is_answered_as_by_fn(tmp_path: Path) -> None:
    rules = differences.Rules()
    session = Session(rules=[rules])
    counts = {}
    mismatches = []
    async with world(tmp_path) as w:

        async def send(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
            reply = await w.send(method, target, body, headers=dict(headers))
            return answer(method, reply)

        for name in FILES:  # in the order in which they were recorded, on one server
            before = (session.replayed, session.skipped)
            mismatches += await replay(RECORDINGS / name, send, session=session)
            counts[name] = (session.replayed - before[0], session.skipped - before[1])
        await w.assert_catalog_is_what_is_stored()
    assert [str(m) for m in mismatches] == []
    assert counts == {name: (total - invokes, invokes) for name, (total, invokes) in FILES.items()}
    assert (session.replayed, session.skipped) == (563, 91)
    assert rules.used == {d.name for d in differences.DIFFERENCES}, "a listed difference that nothing shows"
    assert rules.used_cases == {key for d in differences.DIFFERENCES for key in d.cases}


@needs_recordings
async def test_without_the_listed_differences_the_replay_fails(tmp_path: Path) -> None:
    """The comparison bites: each listed difference is seen when it is not allowed for."""
    rules, session = differences.Rules(), Session()
    mismatches = []
    async with world(tmp_path) as w:

        async def send(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
            reply = await w.send(method, target, body)
            return answer(method, reply)

        for name in FILES:
            mismatches += await replay(RECORDINGS / name, send, session=session)
            for exchange in parse(RECORDINGS / name):
                if not exchange.invokes:
                    rules(exchange, Answer(exchange.status, None, exchange.reply_body))
    assert {m.exchange.key for m in mismatches} == rules.changed
    assert len(rules.changed) == 39


EXCHANGE = Exchange(
    "f", "c", 1, 0, "GET", "/v2/apps/x", [], b"", 200, [],
    b'{"id":"01M7XZXX2PR00040J6N8000001","name":"a","created_at":"2026-11-21T02:45:52.342Z"}',
)  # fmt: skip
GOOD = b'{"created_at":"2027-01-01T00:00:00.000Z","name":"a","id":"01M7Y3PACM00P62YW71JDPPTTY"}'


@pytest.mark.parametrize(
    ("status", "content_type", "body", "what"),
    [
        (200, differences.JSON_TYPE, GOOD, []),
        (201, differences.JSON_TYPE, GOOD, ["status"]),
        (200, "application/json", GOOD, ["content type"]),
        (200, differences.JSON_TYPE, GOOD.replace(b'"a"', b'"b"'), ["body"]),
        (200, differences.JSON_TYPE, GOOD.replace(b'"name"', b'"x":1,"name"'), ["body"]),
        (200, differences.JSON_TYPE, GOOD.replace(b".000Z", b"Z"), ["times"]),
        (200, differences.JSON_TYPE, b"", ["body"]),
    ],
)
def test_the_comparison_sees(status: int, content_type: str, body: bytes, what: list[str]) -> None:
    expected = Answer(200, differences.JSON_TYPE, EXCHANGE.reply_body)
    found = compare(EXCHANGE, expected, Answer(status, content_type, body), Session())
    assert [m.what for m in found] == what


def test_the_comparison_sees_headers() -> None:
    expected = Answer(301, None, b"", {"location": "/v2/apps", "date": "x"})
    for headers, what in (
        ({"location": "/v2/apps"}, []),
        ({"location": "/v2/apps", "connection": "close"}, []),
        ({"location": "/v2"}, ["headers"]),
        ({}, ["headers"]),
        ({"location": "/v2/apps", "x-more": "1"}, ["headers"]),
        (None, []),
    ):
        got = Answer(301, None, b"", headers)
        assert [m.what for m in compare(EXCHANGE, expected, got, Session())] == what


def test_the_comparison_remembers_ids_and_times() -> None:
    session = Session()
    expected = Answer(200, differences.JSON_TYPE, EXCHANGE.reply_body)
    assert compare(EXCHANGE, expected, replace(expected, body=GOOD), session) == []
    assert session.ids == {"01M7XZXX2PR00040J6N8000001": "01M7Y3PACM00P62YW71JDPPTTY"}
    assert session.translate("/v2/apps/01M7XZXX2PR00040J6N8000001") == "/v2/apps/01M7Y3PACM00P62YW71JDPPTTY"
    other_id = replace(expected, body=GOOD.replace(b"TTY", b"TTZ"))
    assert [m.what for m in compare(EXCHANGE, expected, other_id, session)] == ["body"]
    other_time = replace(expected, body=GOOD.replace(b"2027", b"2028"))
    assert [m.what for m in compare(EXCHANGE, expected, other_time, session)] == ["times"]


def test_the_reference_lists_every_difference() -> None:
    assert (DOCS / "reference" / "fn-differences.md").read_text() == differences.page()
