"""Patches what the worker's own loop uses. Must happen: at most its own call fails, and no other function's."""

import builtins
import gc
import os
import sys
import time

from kit import Report


def patched_write(fd, data):
    return real_write(fd, data[: len(data) // 2] if fd == 4 else data)


real_write = os.write


def in_frames(name, value):
    frame = sys._getframe()
    while frame is not None:
        if name in frame.f_globals:
            frame.f_globals[name] = value
        frame = frame.f_back


def break_exit():
    os._exit = lambda code: None
    raise SystemExit(1)


def send_twice():
    def twice(fd, data):
        real_write(fd, data)
        return real_write(fd, data)

    os.write = twice


HOOKS = {
    "os.write": lambda: setattr(os, "write", patched_write),
    "os.write lies": lambda: setattr(os, "write", lambda fd, data: len(data)),
    "os.write twice": send_twice,
    "os.read": lambda: setattr(os, "read", lambda fd, n: b"\0\0\0\4oops"),
    "wire.encode": lambda: in_frames(
        "wire", type("w", (), {"encode": staticmethod(lambda m: b"\0\0\0\1x"), "ProtocolError": ValueError})
    ),
    "builtins.len": lambda: setattr(builtins, "len", lambda x: 2**40),
    "builtins.print": lambda: setattr(builtins, "print", None),
    "os._exit": break_exit,
    "sys.settrace": lambda: sys.settrace(lambda *a: (_ for _ in ()).throw(ValueError("trace"))),
    "gc callbacks": lambda: gc.callbacks.append(lambda *a: (_ for _ in ()).throw(ValueError("gc"))),
    "sys.modules": lambda: sys.modules.clear(),
    "excepthook": lambda: setattr(sys, "excepthook", lambda *a: time.sleep(60)),
    "frames": lambda: in_frames("_answer", lambda *a: b"\0\0\0\4late"),
}


def handler(ctx, data=None):
    report = Report(data)
    report.facts["hooks"] = list(HOOKS)
    text = report.reply()
    if hook := report.told.get("hook"):
        HOOKS[hook]()
    return text
