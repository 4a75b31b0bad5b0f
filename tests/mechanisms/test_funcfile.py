"""func.yaml as the node reads it: what is taken, what is refused, and that hostile ones are only refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.bundles.funcfile import FUNC_FILE_BYTES_MAX, Settings, read_settings
from daemon.errors import InvalidFunction

HEAD = "schema_version: 20180708\nname: f\nversion: 0.0.1\n"

TAKEN = {
    "nothing but the version": ("", Settings()),
    "what fn init writes": (
        "runtime: python\nbuild_image: fnproject/python:3.11-dev\nrun_image: fnproject/python:3.11\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\nmemory: 256\n",
        Settings(),
    ),
    "an own command": ("entrypoint: python3 func.py\n", Settings(command=("python3", "func.py"))),
    "Go": ("runtime: go1.24\n", Settings(runtime="go1.24", command=("./func",))),
    "Node": ("runtime: node22\nentrypoint: node x.js\n", Settings(runtime="node22", command=("node", "x.js"))),
    "a JAR": (
        "runtime: java\nentrypoint: java -jar func.jar\ncmd: a::b\n",
        Settings(runtime="java", command=("java", "-jar", "func.jar", "a::b")),
    ),
    "an adapter": ("annotations: {stoker.dev/adapter: wsgi}\n", Settings(adapter="wsgi")),
    "a runtime": ("runtime: python3.12\n", Settings(runtime="python3.12")),
    "OCI's spelling": ("runtime: python312.ol9\n", Settings(runtime="python3.12")),
    "another file and name": (
        "entrypoint: /python/bin/fdk /function/src/app.py run\n",
        Settings(handler_file="src/app.py", handler_name="run"),
    ),
    "no name": ("entrypoint: /python/bin/fdk /function/app.py\n", Settings(handler_file="app.py")),
    "a relative file": ("entrypoint: fdk app.py handler\n", Settings(handler_file="app.py")),
    "entrypoint and cmd": (
        "entrypoint: /python/bin/fdk\ncmd: /function/app.py h\n",
        Settings(handler_file="app.py", handler_name="h"),
    ),
    "expected config": (
        "expects:\n  config:\n  - name: A\n    required: true\n  - name: B\n  - {name: C, required: true}\n"
        "  - {name: A, required: true}\n",
        Settings(expects=("A", "C")),
    ),
    "empty expectations": ("expects:\n", Settings()),
    "an alias": ("config: &c {A: b}\nannotations: *c\n", Settings()),
    "JSON": ('"x": {"y": []}\n', Settings()),
}

REFUSED = {
    "no YAML": ("a: [", "not YAML"),
    "a list": ("", "map of fields"),
    "another version": ("schema_version: 20170101\n", "schema_version: must be 20180708"),
    "a version of another type": ("schema_version: '20180708'\n", "schema_version: must be 20180708"),
    "another language": ("runtime: cobol\n", "runtime: 'cobol'"),
    "an own image": ("runtime: docker\n", "entrypoint: missing, and runtime docker needs one"),
    "an unknown adapter": ("annotations: {stoker.dev/adapter: cgi}\n", "stoker.dev/adapter must be one of lambda"),
    "an adapter of another type": ("annotations: {stoker.dev/adapter: [wsgi]}\n", "must be one of lambda"),
    "a NUL in a command": ('entrypoint: "a \\0"\n', "printable"),
    "Python 2": ("runtime: python2.7\n", "runtime: 'python2.7'"),
    "a runtime that is a path": ("runtime: ../../bin/sh\n", "runtime:"),
    "a runtime of another type": ("runtime: 3.12\n", "runtime: must be text"),
    "an entrypoint of another type": ("entrypoint: [fdk, func.py]\n", "entrypoint: must be text"),
    "an entrypoint outside": ("entrypoint: /python/bin/fdk /etc/x.py handler\n", "entrypoint: must be"),
    "an entrypoint that climbs": ("entrypoint: /python/bin/fdk /function/../x.py handler\n", "entrypoint: must be"),
    "an entrypoint with too much": ("entrypoint: fdk func.py handler more\n", "entrypoint: must be"),
    "an entrypoint without a file": ("entrypoint: fdk\n", "entrypoint: must be"),
    "a handler that is no name": ("entrypoint: fdk func.py os.system\n", "entrypoint: must be"),
    "no Python file": ("entrypoint: fdk func.sh handler\n", "entrypoint: must be"),
    "open quotes": ('entrypoint: "fdk \'func.py"\n', "entrypoint:"),
    "expectations of another type": ("expects: [A]\n", "expects:"),
    "expected config of another type": ("expects: {config: {A: 1}}\n", "expects:"),
    "an expectation without a name": ("expects: {config: [{required: true}]}\n", "expects.config:"),
    "a required that is no truth": ("expects: {config: [{name: A, required: 1}]}\n", "required must be true or false"),
    "a tag that builds objects": ("x: !!python/object/apply:os.system [id]\n", "not YAML"),
    "an integer without digits": ("x: !!int ''\n", "not YAML"),
    "a timestamp that is none": ("x: !!timestamp x\n", "not YAML"),
    "a date that is none": ("x: 2020-13-45\n", ""),
    "a truth that is none": ("x: !!bool maybe\n", "not YAML"),
    "a number of many digits": (f"x: {'9' * 5000}\n", ""),
    "an unhashable key": ("? [a]\n: b\n", "not YAML"),
    "too deep": ("x: " + "[" * 30 + "]" * 30, "deeper than 20"),
    "much too deep": ("x: " + "[" * 30_000, ""),
    "billion laughs": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)),
        "aliases",
    ),
    "merge bomb": (
        "a: &a {k: v}\n"
        + "".join(
            f"{c}: &{c} {{<<: [{', '.join(['*' + p] * 9)}]}}\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "aliases",
    ),
    "too large": ("#" * FUNC_FILE_BYTES_MAX, "larger than 65536 bytes"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_it_takes(name: str) -> None:
    text, expected = TAKEN[name]
    assert read_settings((HEAD + text).encode()) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str) -> None:
    text, says = REFUSED[name]
    head = "" if name in ("a list",) or "schema_version" in text else HEAD
    with pytest.raises(InvalidFunction) as refusal:
        read_settings((head + (text or "- a\n")).encode(), "func.yml")
    assert refusal.value.message.startswith("cannot use bundle: function/func.yml: ")
    assert says in refusal.value.message


def test_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidFunction, match=r"func\.yaml"):
        read_settings(b"\xff\xfe")


def test_a_bomb_costs_no_more_than_a_long_file() -> None:
    def cost(text: str) -> float:
        began_s = time.process_time()
        with pytest.raises(InvalidFunction):
            read_settings(text.encode())
        return time.process_time() - began_s

    honest = HEAD + "".join(f"k{i}: [v]\n" for i in range(5000)) + "runtime: cobol\n"
    bombs = [HEAD + text for name, (text, _) in REFUSED.items() if "bomb" in name or "laughs" in name or "deep" in name]
    assert max(map(cost, bombs)) < 5 * cost(honest)  # a ratio in one process: 2^30 copies would be no factor of five


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!<>|#'\"\n ,?%@`0.~\t", max_size=80).map(str.encode))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for text in (data, HEAD.encode() + data):
        try:
            assert isinstance(read_settings(text), Settings)
        except InvalidFunction:
            pass
