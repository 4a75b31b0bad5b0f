"""The mapping between client and function, held against what the real Fn server did (reference/fn-golden 10 and 11).

Each recorded request goes through the real parser, router and endpoints; the invoker plays the function that was
recorded. What the function gets, and what the client gets back, must be what was recorded.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from daemon.catalog import Catalog
from daemon.config.settings import Http
from daemon.errors import BundleMissing, FunctionCrashed, FunctionFailed, FunctionTimeout, QueueFull, StokerError
from daemon.http import gateway
from daemon.http.invoke import make_route
from daemon.http.messages import Headers, Peer, Reply, Request, error_reply
from daemon.http.parser import RequestParser
from daemon.model import Answer, App, Function, Ids, Trigger, Version
from tests.http.golden import Case, cases

FN_ID = "01M7XZZ2SZR00040J6N800002T"
DATA_PLANE = [case for case in cases("10-invoke-contract.txt") if not case.request.first.startswith("PUT /v2/")]
WIRE = cases("11-server-to-container-wire.txt")
FRONT_DOORS_OWN = {"date", "connection", "content-length"}
"""Headers that the front door sets, not the mapping."""
HOSTILE: Headers = [
    ("content-length", "9999"),
    ("Transfer-Encoding", "chunked"),
    ("connection", "keep-alive"),
    ("keep-alive", "timeout=75"),
    ("trailer", "X-A"),
    ("upgrade", "h2c"),
    ("fn-call-id", "forged"),
    ("date", "yesterday"),
    ("bad name", "x"),
    ("x-split", "a\r\nSet-Cookie: evil=1"),
    ("x-nul", "a\x00b"),
]
"""What a function's headers must not do to the client's connection."""


def catalog() -> Catalog:
    found = Catalog()
    app = App(id="01M7XZYWMYR00040J6N800002H", name="raw1")
    live = Version(function_id=FN_ID, number=1, image="tst/echo:0.0.1", digest="sha256:0")
    triggers = [
        Trigger(id=f"t{at}", name=f"t{at}", app_id=app.id, fn_id=FN_ID, source=source)
        for at, source in enumerate(["/t1", "/a/b/c", "/"])
    ]
    found.load([app], [Function(id=FN_ID, app_id=app.id, name="f1", live=live)], triggers)
    return found


class RecordedFunction:
    """Answers as the function did when it was recorded, and keeps what it was given."""

    def __init__(self, answer: Answer | StokerError) -> None:
        self._answer = answer
        self.given: list[tuple[str, Headers, bytes]] = []
        self.detached = 0

    async def invoke(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, kind: str = "sync", caller: Any = None
    ) -> Answer:
        await trio.lowlevel.checkpoint()
        assert dict(headers)["fn-call-id"] == call_id
        self.given.append((function_id, headers, body))
        if isinstance(self._answer, StokerError):
            raise self._answer
        return self._answer

    async def accept(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, caller: Any = None
    ) -> None:
        self.detached += 1
        if isinstance(self._answer, StokerError):
            raise self._answer


async def ask(raw: bytes, function: RecordedFunction) -> Reply:
    """Send raw bytes through parser, router and endpoint."""
    parser = RequestParser(Http())
    parser.receive(raw)
    head = parser.head()
    assert head is not None
    body = parser.body()
    assert body is not None
    endpoint = make_route(catalog(), function, Ids(), function)(head.method, head.target)
    assert endpoint is not None, "the data plane must answer this"
    try:
        return await endpoint(Request(head.method, head.target, head.headers, body, head.host or "", Peer(unix=False)))
    except StokerError as error:  # as the front door does
        return error_reply(error)


def fdk_view(headers: Headers) -> dict[str, Any]:
    """What the official FDK makes of a call's headers (fn-contract section 5), without our FDK's help."""
    plain: dict[str, str] = {}
    http: dict[str, str] = {}
    for name, value in headers:
        if name.startswith("fn-http-h-"):
            plain[name[10:]] = http[name[10:]] = value
        else:
            plain[name] = value
    method, url = plain.get("fn-http-method"), plain.get("fn-http-request-url")
    return {"headers": plain, "http_headers": http, "method": method, "request_url": url}


def played(case: Case) -> Answer | StokerError:
    """What the recorded function said, derived from what the client got."""
    body = case.request.body
    mode = json.loads(body).get("mode") if body.startswith(b"{") else None
    message = json.loads(case.response.body).get("message") if case.status >= 500 and mode != "status" else ""
    if mode == "raise":
        return FunctionFailed()
    if mode in ("exit", "oom"):
        return FunctionCrashed()
    if mode == "sleep":
        return FunctionTimeout()
    if message:
        return BundleMissing(message)
    own = {"fn-call-id", "content-type", *FRONT_DOORS_OWN}
    sent = [(name, value) for name, value in case.response.headers.items() if name not in own]
    typed = [("content-type", case.response.headers.get("content-type", ""))]
    if " /invoke/" in case.request.first:
        return Answer(status=200, headers=typed + sent + HOSTILE, body=case.response.body)
    headers = [(f"fn-http-h-{name}", value) for name, value in sent + HOSTILE]
    dropped = [("fn-fdk-version", "fdk-python/0.1.128"), ("x-plain", "not for the client"), *HOSTILE]
    status = [("fn-http-status", str(case.status))]
    return Answer(status=200, headers=typed + headers + dropped + status, body=case.response.body)


def named(headers: Headers) -> dict[str, str]:
    found = {name.lower(): value for name, value in headers}
    assert len(found) == len(headers), f"a header came twice: {headers}"
    return found


@pytest.mark.parametrize("case", DATA_PLANE, ids=[f"{at}-{case.name}" for at, case in enumerate(DATA_PLANE)])
async def test_the_client_gets_what_fn_gave(case: Case) -> None:
    function = RecordedFunction(played(case))
    reply = await ask(case.request.raw(), function)
    if case.request.headers.get("fn-invoke-type") == "detached":
        # A deliberate difference: Fn's single node runs it while the client waits and says 200 (fn-contract 2.2).
        assert (reply.status, reply.body, function.detached, function.given) == (202, b"", 1, [])
        assert set(named(reply.headers)) == {"fn-call-id"}
        return
    assert reply.status == case.status
    wanted = {name: value for name, value in case.response.headers.items() if name not in FRONT_DOORS_OWN}
    got = named(reply.headers)
    if reply.status == 405:
        assert got.pop("allow") == "POST"  # a deliberate difference: RFC 9110 15.5.6 wants it, Fn has it not
    assert set(got) == set(wanted)
    for name in set(wanted) - {"fn-call-id"}:
        assert got[name] == wanted[name]
    if case.status >= 400 and "charset" in wanted["content-type"]:
        assert json.loads(reply.body)["message"] == json.loads(case.response.body)["message"]
        assert reply.body.endswith(b"}\n")
    else:
        assert reply.body == case.response.body


ECHOES = [case for case in DATA_PLANE if case.response.body.startswith(b'{\n "app_id"')]


@pytest.mark.parametrize("case", ECHOES, ids=[f"{at}-{case.name}" for at, case in enumerate(ECHOES)])
async def test_the_function_gets_what_fn_gave(case: Case) -> None:
    recorded = json.loads(case.response.body)
    function = RecordedFunction(played(case))
    reply = await ask(case.request.raw(), function)
    ((function_id, headers, body),) = function.given
    view = fdk_view(headers)
    assert view["headers"].pop("fn-call-id") == named(reply.headers)["fn-call-id"]
    for name in ("fn-call-id", "fn-deadline"):  # ids differ; the deadline is added when an instance is won
        del recorded["headers"][name]
    assert view == {name: recorded[name] for name in view}
    assert (function_id, len(body), body.decode("latin-1")) == (FN_ID, recorded["body_len"], recorded["body"])


@pytest.mark.parametrize("case", WIRE, ids=[f"{at}-{case.name}" for at, case in enumerate(WIRE)])
async def test_every_header_on_the_functions_wire_is_fns(case: Case) -> None:
    answer = Answer(
        status=200,
        headers=[("content-type", "text/plain"), ("content-length", "1"), ("fn-http-status", "200"),
                 ("fn-http-h-x-via-h", "one"), ("x-plain", "two")],
        body=case.response.body,
    )  # fmt: skip
    function = RecordedFunction(answer)
    reply = await ask(case.request.raw(), function)
    ((_, headers, body),) = function.given
    _, line, *fields = case.response.body.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n").split(b"\n")
    if b"" in fields:
        fields = fields[: fields.index(b"")]
    wanted = [tuple(field.decode().split(": ", 1)) for field in fields]
    wanted = [(name.lower(), value) for name, value in wanted if name not in ("Fn-Call-Id", "Fn-Deadline")]
    assert line == b"POST /call HTTP/1.1"
    assert sorted(pair for pair in headers if pair[0] != "fn-call-id") == sorted(wanted)
    assert body == case.request.body
    recorded = {name for name in case.response.headers if name not in FRONT_DOORS_OWN}
    assert set(named(reply.headers)) == recorded


def test_the_recordings_are_all_there() -> None:
    assert (len(DATA_PLANE), len(ECHOES), len(WIRE)) == (61, 19, 8)


# -- what was not recorded ---------------------------------------------------------------------------------------------


def invoke(headers: Headers) -> Headers:
    return gateway.invoke_headers(headers, call_id="C", body=b"x")


def test_hop_by_hop_headers_do_not_reach_the_function() -> None:
    hop = [(name, "hop") for name in sorted(gateway.HOP_BY_HOP)]
    kept = [("te", "trailers"), ("x-a", "1"), ("x-a", "2")]
    for prefix, got in (
        ("", invoke([*hop, ("te", "gzip"), *kept])),
        (
            "fn-http-h-",
            gateway.trigger_headers(
                [*hop, ("te", "gzip"), *kept], call_id="C", method="GET", url="http://x/", body=b""
            ),
        ),
    ):
        assert "hop" not in dict(got).values()
        assert [pair for pair in got if pair[0] in (f"{prefix}te", f"{prefix}x-a")] == [
            (prefix + name, value) for name, value in kept
        ]


def test_the_clients_agent_and_encoding_pass_and_go_speaks_only_for_the_silent() -> None:
    given = [("user-agent", "curl"), ("accept-encoding", "br")]
    assert [pair for pair in invoke(given) if pair[0] in ("user-agent", "accept-encoding")] == given
    silent = dict(invoke([]))
    assert (silent["user-agent"], silent["accept-encoding"]) == ("Go-http-client/1.1", "gzip")


def answer(*headers: tuple[str, str], status: int = 200, body: bytes = b"x") -> Answer:
    return Answer(status=status, headers=list(headers), body=body)


@pytest.mark.parametrize("reply", [gateway.invoke_reply, gateway.trigger_reply])
@pytest.mark.parametrize(
    ("status", "code"),
    [(502, "function-failed"), (504, "handler-timeout"), (500, "invalid-response"), (0, "invalid-response")],
)
def test_the_fdks_status_decides_whose_fault_it_was(reply: Any, status: int, code: str) -> None:
    with pytest.raises(StokerError) as caught:
        reply(answer(status=status), call_id="C")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "status"),
    [("201", 201), ("204", 204), ("599", 599), ("999", 999), ("0", 200), ("-1", 200), ("", 200), ("abc", 200),
     ("2e2", 200), ("²", 200), (" 201", 200), ("100", None), ("101", None), ("199", None), ("99", None),
     ("1000", None), ("9" * 99, None)],
)  # fmt: skip
def test_a_triggers_status_is_the_functions(text: str, status: int | None) -> None:
    if status is None:
        with pytest.raises(StokerError) as caught:
            gateway.trigger_reply(answer(("fn-http-status", text)), call_id="C")
        assert (caught.value.status, caught.value.code) == (502, "invalid-response")
    else:
        assert gateway.trigger_reply(answer(("fn-http-status", text)), call_id="C").status == status


def test_cookies_of_a_trigger_stay_apart() -> None:
    reply = gateway.trigger_reply(
        answer(("fn-http-h-set-cookie", "a=1"), ("Fn-Http-H-Set-Cookie", "b=2"), ("set-cookie", "c=3")), call_id="C"
    )
    assert [value for name, value in reply.headers if name == "Set-Cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize("reply", [gateway.invoke_reply, gateway.trigger_reply])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"plain", "text/plain; charset=utf-8"),
        ("grün".encode(), "text/plain; charset=utf-8"),
        (b" \n<!doctype html><p>", "text/html; charset=utf-8"),
        (b"<html>", "text/html; charset=utf-8"),
        (b"<htmlx>", "text/plain; charset=utf-8"),
        (b" <?xml version='1.0'?>", "text/xml; charset=utf-8"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"RIFF1234WEBPVP8 ", "image/webp"),
        (b"\x00\x01\xff", "application/octet-stream"),
        (b"", None),
    ],
)
def test_a_body_without_a_type_gets_the_one_go_would_guess(reply: Any, body: bytes, kind: str | None) -> None:
    assert dict(reply(answer(body=body), call_id="C").headers).get("Content-Type") == kind


async def test_errors_of_detached_calls_and_of_full_queues_are_told() -> None:
    function = RecordedFunction(QueueFull())
    for extra in (b"", b"Fn-Invoke-Type: detached\r\n"):
        raw = b"POST /invoke/" + FN_ID.encode() + b" HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n"
        reply = await ask(raw, function)
        headers = named(reply.headers)
        assert (reply.status, headers["retry-after"]) == (429, "15")
        assert json.loads(reply.body)["call_id"] == headers["fn-call-id"]


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("POST /20181201/functions/{id}/actions/invoke", 200, ""),
        ("POST /20260325/functions/{id}/actions/invoke", 200, ""),
        ("POST /invoke/{id}?x=/y", 200, ""),
        ("HEAD /invoke/{id}", 405, "Method not allowed: HEAD /invoke/{id}"),
        ("POST /invoke/{id}/", 404, "Path not found: POST /invoke/{id}/"),
        ("POST /invoke/{id}%2Fx", 404, "Path not found: POST /invoke/{id}/x"),
        ("POST /invoke/%zz", 404, "Fn not found"),
        ("GET /t/raw1%2Ft1", 200, ""),
        ("GET /t/raw1/t1%00", 404, "Trigger not found"),
        ("GET /t//t1", 404, "Path not found: GET /t//t1"),
        ("TRACE /t/raw1/t1", 200, ""),
    ],
)
async def test_paths_are_told_apart_as_fn_does(line: str, status: int, message: str) -> None:
    function = RecordedFunction(answer())
    reply = await ask(f"{line.replace('{id}', FN_ID)} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), function)
    assert reply.status == status
    assert len(function.given) == (status == 200)
    if message:
        assert json.loads(reply.body)["message"] == message.replace("{id}", FN_ID)


@pytest.mark.parametrize(
    "line",
    ["GET /", "GET /t", "GET /tx/y", "POST /invoke", "POST /v2/fns", "GET /20181201/functions/x/actions/invoke",
     "POST /20181201/functions/x", "POST /20190101/functions/x/actions/invoke", "POST //invoke/x"],
)  # fmt: skip
def test_everything_else_is_the_control_planes(line: str) -> None:
    method, target = line.split(" ")
    function = RecordedFunction(answer())
    assert make_route(catalog(), function, Ids(), function)(method, target.encode()) is None


@pytest.mark.parametrize(
    ("sent", "given"),
    [
        ("stoker_session=S", None),
        ("a=1; stoker_session=S; stoker_form=F; b=2", "a=1; b=2"),
        (" stoker_session = S;a=1", "a=1"),
        ("my_stoker_session=1; stoker_sessions=2", "my_stoker_session=1; stoker_sessions=2"),
        ("a=1; b=2", "a=1; b=2"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("line", ["POST /invoke/{id}", "GET /t/raw1/t1"])
async def test_functions_do_not_get_the_consoles_cookies(line: str, sent: str, given: str | None) -> None:
    function = RecordedFunction(answer())
    await ask(f"{line.replace('{id}', FN_ID)} HTTP/1.1\r\nHost: x\r\nCookie: {sent}\r\n\r\n".encode(), function)
    [(_, headers, _)] = function.given
    assert [value for name, value in headers if name.endswith("cookie")] == ([] if given is None else [given])


@pytest.mark.parametrize("line", ["POST /invoke/{id}", "GET /t/raw1/t1"])
async def test_functions_do_not_set_the_consoles_cookies(line: str) -> None:
    name = "Set-Cookie" if "invoke" in line else "Fn-Http-H-Set-Cookie"
    ours = ["stoker_session=x; Path=/", " stoker_form =x", "=stoker_session=x", "stoker_session", "STOKER=1"]
    function = RecordedFunction(Answer(status=200, headers=[(name, value) for value in ours], body=b"x"))
    reply = await ask(f"{line.replace('{id}', FN_ID)} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), function)
    assert [value for name, value in reply.headers if name == "Set-Cookie"] == ["STOKER=1"]


@pytest.mark.parametrize("line", ["POST /invoke/{id}", "GET /t/raw1/t1"])
async def test_a_function_does_not_speak_for_the_whole_origin(line: str) -> None:
    prefix = "" if "invoke" in line else "Fn-Http-H-"
    ours = ["Service-Worker-Allowed", "cross-origin-opener-policy", "CLEAR-SITE-DATA", "Cross-Origin-Embedder-Policy"]
    function = RecordedFunction(Answer(status=200, headers=[(prefix + name, "x") for name in ours], body=b"x"))
    reply = await ask(f"{line.replace('{id}', FN_ID)} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), function)
    assert [name for name, value in reply.headers if value == "x"] == ["Cross-Origin-Embedder-Policy"]
