"""Where Stoker deliberately answers otherwise than the Fn server, each with its reason. The only list of them.

`python -m tests.golden.differences` prints ``docs/reference/fn-differences.md``; a test keeps the two equal. A `Change`
alters what the replay expects, so what Stoker does instead is checked as exactly as everything else; a change that no
recorded exchange needs is a defect, and so is a difference that is not listed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daemon import VERSION
from tests.golden.replay import RECORDED_HOST, Answer, Exchange

JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Difference:
    """What Fn does, what Stoker does, and why."""

    name: str
    fn: str
    stoker: str
    reason: str
    cases: Mapping[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    """Recorded exchange (file, connection) -> our status and message."""
    change: Callable[[Exchange, Answer, Mapping[str, str]], Answer] | None = None
    """Alters what is expected of any exchange; the mapping is recorded app id -> name."""


def _version(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
    if exchange.target != "/version":
        return expected
    return replace(expected, body=json.dumps({**json.loads(expected.body), "stoker": VERSION}).encode())


def _invalid_json(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
    if expected.body.strip() != b'{"message":"Invalid JSON"}':
        return expected
    return replace(expected, content_type=JSON_TYPE)


def _allow(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
    if expected.status != 405:
        return expected
    return replace(expected, headers={**(expected.headers or {}), "allow": ""})


def _one_document(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
    lines = expected.body.splitlines()
    if expected.status != 400 or len(lines) != 2:
        return expected
    return replace(expected, body=lines[0])


def _endpoints(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
    kind = exchange.target.partition("?")[0].split("/")[2:3]
    if exchange.method != "PUT" or expected.status != 200 or kind not in (["fns"], ["triggers"]):
        return expected
    body = json.loads(expected.body)
    key, url = "fnproject.io/fn/invokeEndpoint", f"http://{RECORDED_HOST}/invoke/{body['id']}"
    if kind == ["triggers"]:
        key, url = (
            "fnproject.io/trigger/httpEndpoint",
            f"http://{RECORDED_HOST}/t/{names[body['app_id']]}{body['source']}",
        )
    body["annotations"] = {**body.get("annotations", {}), key: url}
    return replace(expected, body=json.dumps(body).encode())


DIFFERENCES = [
    Difference(
        "The version has a second member",
        "`GET /version` answers `version` alone",
        "`stoker`, our own version, is there too",
        "Clients of Fn read `version` and ignore what they do not know",
        change=_version,
    ),
    Difference(
        "Replies to PUT show the endpoints",
        "The replies to PUT of a function or trigger lack the endpoint annotation, or show what the client sent",
        "Every reply has the endpoint as this server would serve it",
        "A client that reads the reply to its update would lose, or believe, the wrong URL",
        change=_endpoints,
    ),
    Difference(
        "`Invalid JSON` is JSON",
        "That error's Content-Type is `text/plain`",
        "`application/json`, as for all other errors; `detail` says where and why",
        "It is JSON; in Fn a slip of the order of two calls",
        change=_invalid_json,
    ),
    Difference(
        "405 names what is allowed",
        "`Method not allowed` has no `Allow` header",
        "It has one, as HTTP demands",
        "RFC 9110, section 15.5.6",
        change=_allow,
    ),
    Difference(
        "One error, once",
        "A list of triggers without `app_id`, and a PUT whose ids differ, answer two JSON documents",
        "The first of them; and the object that the body names is not changed",
        "In Fn a missing return: the request is refused and carried out all the same",
        change=_one_document,
    ),
    Difference(
        "An annotation may not be null",
        "500, and in a PUT the server hangs until it is started again",
        "400 with the text for annotation values",
        "A client's mistake, not the server's",
        cases={
            ("09-api-raw.txt", 232): (
                400,
                "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects,"
                " or arrays",
            )
        },
    ),
    Difference(
        "A bad cursor is a bad request",
        "500",
        "400 `Invalid cursor`",
        "A client's mistake, not the server's",
        cases={("09-api-raw.txt", 254): (400, "Invalid cursor")},
    ),
    Difference(
        "A trigger's source stays unique",
        "A PUT may give a trigger a source that another trigger of the app has",
        "409, as for a new trigger",
        "Two triggers at one path: which function runs would be left to chance",
        cases={("09-api-raw.txt", 344): (409, "Trigger with the same type and source exists on this app")},
    ),
]


def _of_call(number: int, change: Callable[[Answer], Answer], file: str = "10-invoke-contract.txt") -> Any:
    """A change of the one recorded call on this connection."""

    def apply(exchange: Exchange, expected: Answer, names: Mapping[str, str]) -> Answer:
        return change(expected) if exchange.key == (file, number) else expected

    return apply


def _message(text: str) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, body=json.dumps({"message": text}).encode())


CALLS = [
    Difference(
        "Out of memory is told",
        "502 `error receiving function response`; only the server's log knows why",
        "502 `function out of memory`; `detail` has limit and peak",
        "The caller is the one who can raise the limit",
        change=_of_call(378, _message("function out of memory")),
    ),
    Difference(
        "A detached call is not waited for",
        "The single-node server answers 200 when the function has ended",
        "202 at once, as OCI and Fn's load balancer do",
        "That is what detached means",
        change=_of_call(
            379, lambda a: Answer(202, None, b"", {k: v for k, v in (a.headers or {}).items() if k == "fn-call-id"})
        ),
    ),
    Difference(
        "A missing image names no registry",
        "`Failed to pull image 'X': ` and what the registry's client said",
        "`Failed to pull image 'X'`; `detail` says how to push the bundle",
        "There is no registry",
        change=_of_call(412, _message("Failed to pull image 'tst/nosuchimage:9'")),
    ),
    Difference(
        "An update acts at once",
        "A call just after an update of the image still runs the old one",
        "It runs the new one, which here was never pushed",
        "Fn's invoke path reads through a cache of 5 seconds",
        change=_of_call(414, _message("Failed to pull image 'tst/raw:0.0.1'")),
    ),
    Difference(
        "A deletion acts at once",
        "A call just after the function's deletion still runs it",
        "404 `Fn not found`",
        "The same cache",
        change=_of_call(428, lambda a: Answer(404, JSON_TYPE, b'{"message":"Fn not found"}', {}), "12-delete-raw.txt"),
    ),
]
"""Seen in recorded calls of functions, which are replayed against a running daemon (`test_live.py`)."""

NOTES = [
    (
        "Errors say more",
        "Besides `message`, which is Fn's text, errors have `code` (stable, for programs), and where it is known "
        "`detail` (what happened here) and `call_id`",
    ),
    (
        "Deploys are checked",
        "POST and PUT of a function answer when an instance of the new version is ready; if it does not become ready "
        "they answer 422 `deploy-failed` with the traceback and the old version goes on serving. Fn finds out at the "
        "next call",
    ),
    (
        "Provisioned concurrency",
        "The member `provisioned_concurrency` of a function, and the annotations "
        "`oracle.com/oci/provisionedConcurrencyStrategy` and `...Count`, mean something here, so that a count outside "
        "OCI's table or the node's limit is refused with 400. The member is shown only when it is set",
    ),
    (
        "Required configuration",
        "A function whose bundle's func.yaml names a required key under `expects.config` is refused with 400 until "
        "the key is set on the function or its app; nor can the key be taken away. Fn keeps `expects` and does nothing",
    ),
    (
        "Endpoint annotations are not stored",
        "`fnproject.io/fn/invokeEndpoint` and `fnproject.io/trigger/httpEndpoint` are dropped when they are written "
        "and made anew when they are read. Fn stores what a client sends back",
    ),
    (
        "Configuration must fit into an environment",
        "Names may not be empty nor hold `=` or NUL, values may not hold NUL, an entry has at most 131,071 bytes and "
        "all of an app or function 524,288. Fn takes anything and fails at the call",
    ),
    (
        "Other lengths",
        "An image name has at most 1,024 bytes, a trigger's source 4,096, a syslog URL 2,048, and none may hold a NUL. "
        "Fn has no limit",
    ),
    (
        "JSON is taken strictly",
        "NaN, numbers beyond a double, lone surrogates, bytes that are not UTF-8, nesting beyond about 900 levels and "
        "anything after the document are `Invalid JSON`. Fn takes some of them and answers something else than it got. "
        "Numbers in annotations come back in shortest form (`1e2` as `100.0`)",
    ),
    (
        "Cursors of triggers",
        "Two functions of an app may have triggers of one name, so the cursor holds name and id; with Fn's, by name "
        "alone, the second of them can be missed at the end of a page",
    ),
    (
        "Deletes and updates act at once",
        "Fn's invoke path reads through a cache of 5 seconds: a deleted function still answers",
    ),
    (
        "Headers that speak for the whole origin",
        "A function's `Clear-Site-Data`, `Cross-Origin-Opener-Policy` and `Service-Worker-Allowed` are dropped, and it"
        " neither gets nor sets the console's two cookies: its pages have the origin of the console and of all other"
        " functions",
    ),
]
"""Differences that no recorded exchange shows, or that the comparison allows for by itself."""


def _parsed(answer: Answer) -> tuple[Any, ...]:
    body: Any = answer.body
    with contextlib.suppress(ValueError):
        body = json.loads(answer.body)
    return (answer.status, answer.content_type, sorted(answer.headers or {}), body)


class Rules:
    """All differences as one rule for a replay; remembers which were needed."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.used_cases: set[tuple[str, int]] = set()
        self.changed: set[tuple[str, int]] = set()
        """Exchanges of which something else than recorded is expected."""
        self._names: dict[str, str] = {}

    def __call__(self, exchange: Exchange, expected: Answer) -> Answer:
        self._learn(exchange, expected)
        recorded = expected
        for difference in DIFFERENCES:
            if difference.change is not None:
                changed = difference.change(exchange, expected, self._names)
                if changed != expected:
                    self.used.add(difference.name)
                expected = changed
            if exchange.key in difference.cases:
                status, message = difference.cases[exchange.key]
                expected = Answer(status, JSON_TYPE, json.dumps({"message": message}).encode())
                self.used.add(difference.name)
                self.used_cases.add(exchange.key)
        if _parsed(expected) != _parsed(recorded):
            self.changed.add(exchange.key)
        return expected

    def _learn(self, exchange: Exchange, expected: Answer) -> None:
        """Names of recorded apps, from what Fn said about them."""
        if exchange.target.startswith("/v2/apps") and expected.status == 200:
            body: Any = json.loads(expected.body)
            for app in body.get("items", [body]):
                self._names[app["id"]] = app["name"]


def page() -> str:
    """The reference page."""
    lines = [
        "# Differences from the Fn server",
        "",
        "Stoker speaks the API of the Fn server 0.3.753. Everything that was recorded from the real server (`fn` CLI"
        " 0.6.63 and raw",
        "requests) is replayed as a test, and must be answered alike: status, content type, body. These are the"
        " deliberate differences;",
        "the page is printed from `tests/golden/differences.py` by `python -m tests.golden.differences`.",
        "",
        "## Seen in recorded exchanges",
        "",
        "| Difference | Fn | Stoker | Why |",
        "|---|---|---|---|",
    ]
    lines += [f"| {d.name} | {d.fn} | {d.stoker} | {d.reason} |" for d in DIFFERENCES]
    lines += ["", "## Seen in recorded calls", "", "| Difference | Fn | Stoker | Why |", "|---|---|---|---|"]
    lines += [f"| {d.name} | {d.fn} | {d.stoker} | {d.reason} |" for d in CALLS]
    lines += ["", "## Others", ""]
    lines += [f"* **{title}.** {text}." for title, text in NOTES]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
