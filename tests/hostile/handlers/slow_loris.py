"""Answers after its timeout, from a child too. Must happen: 504; the late answer reaches nobody; the instance is gone."""

import json
import os
import time

from kit import Report

calls = 0


def handler(ctx, data=None):
    global calls
    calls += 1
    report = Report(data)
    if report.told.get("sleep_s"):
        if os.fork() == 0:
            os.setsid()
        time.sleep(report.told["sleep_s"])
        return json.dumps({"violations": ["late-answer: it was taken"]})
    report.facts["calls"] = calls
    report.check(calls == 1, "instance-reused", f"call {calls} on an instance that timed out")
    return report.reply()
