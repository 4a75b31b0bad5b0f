"""100,000 headers, line breaks in them, status 999, hop-by-hop names. Must happen: bounded, and no answer is split."""

from kit import Report

from fdk import response

BAD = {
    "many": {f"x-{n}": "v" for n in range(100_000)},
    "large": {"x-large": "v" * (4 << 20)},
    "crlf in a value": {"x-a": "b\r\nx-injected: yes\r\n\r\n<html>"},
    "lf in a value": {"x-a": "b\nx-injected: yes"},
    "nul in a value": {"x-a": "b\0c"},
    "crlf in a name": {"x-a\r\nx-injected": "yes"},
    "colon in a name": {"x-injected: yes\r\nx": "b"},
    "an empty name": {"": "b"},
    "framing": {"Transfer-Encoding": "chunked", "Content-Length": "3", "Connection": "upgrade"},
    "two lengths": {"content-length": "0", "Content-Length": "9999"},
    "not latin-1": {"x-a": "\u2028\u202e\ud83d\ude00"},
    "status 999": 999,
    "status 100": 100,
    "status -1": -1,
    "status text": "200 OK\r\nx-injected: yes",
}


def handler(ctx, data=None):
    report = Report(data)
    report.facts["styles"] = list(BAD)
    bad = BAD.get(report.told.get("style", ""), {})
    if isinstance(bad, dict):
        return response.Response(ctx, report.reply(), headers=bad)
    return response.Response(ctx, report.reply(), status_code=bad)
