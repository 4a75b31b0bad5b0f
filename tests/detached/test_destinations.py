"""Records of finished detached calls arrive where they should: a real daemon, a real HTTP server, real files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from tests.detached.effects import Effects, lines, ready
from tests.detached.receiver import receiver
from tests.detached.test_accept import DETACHED, source
from tests.detached.test_accept import effects as effects
from tests.iam.node import run_node
from tests.system.daemon import Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

QUICK = "destinations: {backoff_s: 0.05, attempts: 3}"


def function_with(daemon: Daemon, name: str, code: str, **annotations: Any) -> str:
    return daemon.deploy(
        name, code, annotations={f"stoker.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    )


def test_an_http_destination_gets_a_signed_record_and_is_tried_again(data: Path, effects: Effects) -> None:
    with receiver(500, 503, 204) as there, run_daemon(data, config=QUICK) as daemon:
        ready(daemon)
        function = function_with(daemon, "f", source(effects), on_success={"kind": "HTTP", "url": f"{there.url}/x?y=1"})
        reply = daemon.invoke(function, b"hello", {**DETACHED, "Content-Type": "text/plain"})
        eventually(lambda: len(there.got) == 3)
        last = there.got[-1]
        record = json.loads(last.body)
        assert last.path == "/x?y=1"
        assert (record["specversion"], record["type"]) == ("1.0", "dev.stoker.function.succeeded")
        assert record["subject"] == reply.headers["fn-call-id"]
        assert last.headers["content-type"] == "application/cloudevents+json"
        told = record["data"]
        assert (told["status"], told["attempts"], told["error"]) == ("success", 1, None)
        assert told["request"] == {"contentType": "text/plain", "bytes": 5, "truncated": False, "body": "hello"}
        assert told["response"]["body"] == "done"
        # Signed as Standard Webhooks says, all three times with the same id.
        assert {one.headers["webhook-id"] for one in there.got} == {last.headers["webhook-id"]}
        secret = daemon.api("GET", f"/stoker/v1/functions/{function}/webhook-secret")["secret"]
        signed = f"{last.headers['webhook-id']}.{last.headers['webhook-timestamp']}.".encode() + last.body
        mac = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
        assert last.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
        eventually(lambda: daemon.api("GET", "/stoker/v1/detached")["deliveries_pending"] == 0)


def test_a_failing_call_goes_to_its_failure_destination_and_becomes_a_dead_letter(data: Path, effects: Effects) -> None:
    with receiver() as there, run_daemon(data, config=QUICK) as daemon:
        ready(daemon)
        function = function_with(
            daemon, "f", source(effects),
            on_failure={"kind": "HTTP", "url": there.url}, on_success={"kind": "STREAM", "streamId": "good"},
            retry={"attempts": 3, "backoff_s": 0.05},
        )  # fmt: skip
        call_id = daemon.invoke(function, b"fail", DETACHED).headers["fn-call-id"]
        eventually(lambda: there.got)
        assert lines(effects) == ["fail 1", "fail 2", "fail 3"]
        told = json.loads(there.got[0].body)["data"]
        assert (told["status"], told["attempts"], told["error"]["code"]) == ("failure", 3, "function-failed")
        assert told["response"] is None
        letters = daemon.api("GET", f"/stoker/v1/functions/{function}/deadletters")["items"]
        assert [letter["call_id"] for letter in letters] == [call_id]
        assert letters[0]["error"]["code"] == "function-failed"
        assert "ValueError: fail" in letters[0]["error"]["detail"]
        letter = daemon.api("GET", f"/stoker/v1/functions/{function}/deadletters/{call_id}")
        assert base64.b64decode(letter["body"]) == b"fail"
        assert {"name": "fn-invoke-type", "value": "detached"} in letter["headers"]
        # Redriven it has all its attempts again; then it is purged.
        redriven = daemon.api("POST", f"/stoker/v1/functions/{function}/deadletters/redrive")
        assert redriven["redriven"] == 1
        again = redriven["calls"][call_id]
        eventually(lambda: len(there.got) == 2)
        told_again = json.loads(there.got[1].body)
        assert (told_again["id"], told_again["data"]["redriveOf"]) == (f"{again}.failure", call_id)
        assert told["redriveOf"] is None
        letter = daemon.api("GET", f"/stoker/v1/functions/{function}/deadletters/{again}")
        sent = {header["name"]: header["value"] for header in letter["headers"]}
        assert (letter["redrive_of"], letter["caller"]) == (call_id, "127.0.0.1")
        assert (sent["fn-call-id"], sent["stoker-redrive-of"]) == (again, call_id)
        assert len(lines(effects)) == 6
        assert daemon.api("POST", f"/stoker/v1/functions/{function}/deadletters/purge", {"calls": [again]}) == {
            "purged": 1, "more": False,
        }  # fmt: skip
        assert daemon.api("GET", "/stoker/v1/deadletters")["items"] == []
        shown = daemon.request("GET", "/metrics").body.decode()
        for line in (
            'stoker_detached_attempts_total{app="app",function="f",outcome="dead-letter"} 2.0',
            'stoker_detached_attempts_total{app="app",function="f",outcome="retried"} 4.0',
            'stoker_deliveries_total{app="app",destination="HTTP",function="f",outcome="failure",'
            'status="delivered"} 2.0',
            "stoker_detached_accepted_total 1.0",
            "stoker_detached_bytes 0.0",
        ):
            assert line in shown
        missing = daemon.request("POST", f"/stoker/v1/functions/{function}/deadletters/redrive", b'{"calls": ["x"]}')
        assert missing.status == 404


def test_local_streams_queues_and_topics_are_files(data: Path, effects: Effects) -> None:
    with run_daemon(data, config='destinations: {routes: ["ocid1.onstopic.oc1..t=queue:alerts"]}') as daemon:
        ready(daemon)
        code = source(effects)
        stream = function_with(daemon, "s", code, on_success={"kind": "STREAM", "streamId": "ocid1.stream.oc1..s"})
        queue = function_with(daemon, "q", code, on_success={"kind": "QUEUE", "queueId": "jobs", "channelId": "a"})
        topic = function_with(daemon, "t", code, on_success={"kind": "NOTIFICATION", "topicId": "news"})
        routed = function_with(
            daemon, "r", code, on_success={"kind": "NOTIFICATION", "topicId": "ocid1.onstopic.oc1..t"}
        )
        for function in (stream, stream, queue, topic, routed):
            daemon.invoke(function, b"x", DETACHED)
        root = data / "destinations"
        eventually(lambda: len(lines(root / "streams" / "ocid1.stream.oc1..s.jsonl")) == 2)
        eventually(lambda: len(lines(root / "streams" / "topic-news.jsonl")) == 1)
        for where in ("jobs/a", "alerts"):
            found = eventually(lambda where=where: list((root / "queues" / where / "new").glob("*.json")))
            assert json.loads(found[0].read_text())["type"] == "dev.stoker.function.succeeded"


def test_a_function_can_be_the_destination_but_not_for_ever(data: Path, effects: Effects) -> None:
    with run_daemon(data, config=QUICK) as daemon:
        ready(daemon)
        echo = "import sys\ndef handler(ctx, data=None):\n    print(data.getvalue().decode()[:60])\n    return 'ok'\n"
        loop = function_with(daemon, "loop", echo, on_success={"kind": "FUNCTION", "functionId": "app/loop"})
        daemon.invoke(loop, b"begin", DETACHED)
        text = "the call came through 8 destinations; 8 are allowed"
        eventually(lambda: text in daemon.stderr())
        printed = daemon.request("GET", f"/stoker/v1/functions/{loop}/logs").body.decode()
        assert printed.count('"stream":"stdout"') == 9
        assert f"Invocation record delivery to success destination failed due to - {text}" in printed


def test_what_cannot_be_delivered_is_given_up_logged_and_counted(data: Path, effects: Effects) -> None:
    with receiver(500) as there, run_daemon(data, config=QUICK) as daemon:
        ready(daemon)
        function = function_with(daemon, "f", source(effects), on_success={"kind": "HTTP", "url": there.url})
        daemon.invoke(function, b"x", DETACHED)
        eventually(lambda: "destination failed due to" in daemon.stderr())
        assert len(there.got) == 3
        assert daemon.api("GET", "/stoker/v1/detached")["deliveries_pending"] == 0


def test_a_delivery_survives_the_daemon(data: Path, effects: Effects) -> None:
    with receiver(500) as there, run_daemon(data) as daemon:
        ready(daemon)
        function = function_with(daemon, "f", source(effects), on_success={"kind": "HTTP", "url": there.url})
        daemon.invoke(function, b"x", DETACHED)
        eventually(lambda: there.got)
        daemon.process.kill()
        daemon.process.wait()
        there.statuses = [204]
        before = len(there.got)
        with run_daemon(data) as second:
            eventually(lambda: len(there.got) > before)
            eventually(lambda: second.api("GET", "/stoker/v1/detached")["deliveries_pending"] == 0)
        assert {one.headers["webhook-id"] for one in there.got} == {there.got[0].headers["webhook-id"]}
        assert lines(effects) == ["x 1"], "the call itself did not run again"


def test_with_identities_a_function_calls_another_only_if_a_policy_lets_it(data: Path, effects: Effects) -> None:
    with run_node(data) as node:
        node.local("POST", "/v2/apps", {"name": "shop", "annotations": {"stoker.dev/network": "host"}})
        node.deploy("shop", "target", source(effects))
        caller = node.deploy(
            "shop", "caller", "def handler(ctx, data=None):\n    return 'ok'\n",
            annotations={"stoker.dev/on-success": {"kind": "FUNCTION", "functionId": "shop/target"}},
        )  # fmt: skip
        headers = {"fn-invoke-type": "detached"}
        assert node.send("POST", f"/invoke/{caller}", b"", headers, local=True).status == 202
        eventually(lambda: "no policy lets a dynamic group of this function" in node.stderr())
        rule = {"name": "callers", "rule": "ALL {resource.type = 'fnfunc', resource.name = 'caller'}"}
        node.local("POST", "/stoker/v1/iam/dynamic-groups", rule)
        node.policy("chain", "Allow dynamic-group callers to use fn-invocation in tenancy")
        node.user("ada", administrator=True)
        sent = node.users["ada"].sign("POST", f"/invoke/{caller}", b"", host=f"127.0.0.1:{node.port}")
        assert node.send("POST", f"/invoke/{caller}", b"", {**sent, **headers}).status == 202
        eventually(lambda: lines(effects))
        # The records say who called, though the calls ran long after they were accepted.
        eventually(lambda: {"ada", "shop/caller"} <= {
            call["caller"] for call in node.local("GET", "/stoker/v1/calls?kind=detached")["items"]
        })  # fmt: skip
        assert '"type":"dev.stoker.function.succeeded"' in lines(effects)[0]
