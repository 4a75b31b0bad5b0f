"""Writes frames of its own into the pipe for answers. Must happen: a protocol violation; the instance is killed.

``told["style"]`` says which forgery; ``told["call"]`` is another call's id.
"""

import os
import time

from kit import Report


def pack(value):
    """As much of msgpack as a frame needs."""
    if isinstance(value, bool) or value is None:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, bytes):
        return b"\xc6" + len(value).to_bytes(4, "big") + value
    if isinstance(value, str):
        return b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
    if isinstance(value, list):
        return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(pack, value))
    return b"\xdf" + len(value).to_bytes(4, "big") + b"".join(pack(k) + pack(v) for k, v in value.items())


def frame(**members):
    body = pack(members)
    return len(body).to_bytes(4, "big") + body


def answer(call_id, nonce):
    return frame(type="answer", id=call_id, nonce=nonce, status=200, headers=[], body=b'{"forged": true}')


def handler(ctx, data=None):
    report = Report(data)
    me, other = ctx.CallID(), report.told.get("call", "01HOSTILE")
    style = report.told.get("style")
    forgeries = {
        "no nonce": frame(type="answer", id=me, status=200, headers=[], body=b"{}"),
        "wrong nonce": answer(me, 1),
        "other call": answer(other, 1),
        "garbage": b"\0\0\0\4oops",
        "huge": b"\x7f\xff\xff\xff" + b"x" * 1000,
        "empty": bytes(4),
        "ready again": frame(type="ready", info={}),
        "failed": frame(type="failed", id=me, nonce=1, kind="exception", message="", traceback=""),
        "a call": frame(type="call", id=me, nonce=1, deadline="", headers=[], body=b""),
        "two answers": answer(me, 1) * 2,
        "half": answer(me, 1)[:20],
        "text": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    }
    report.facts["styles"] = list(forgeries)
    if style:
        os.write(4, forgeries[style])
        if style == "half":
            os._exit(0)
        time.sleep(20)
        report.violation("forgery-accepted", style)
    return report.reply()
