"""func.yaml: what is read, and the file, line, field and allowed values of every error."""

# ruff: noqa: E501  (a table is read line by line)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli import funcfile
from cli.items import FuncFileError
from tests.cli.conftest import ROOT

HEAD = "schema_version: 20180708\nname: hello\n"


def load(tmp_path: Path, text: str, *, name: str = "func.yaml") -> funcfile.FuncFile:
    directory = tmp_path / "some-dir"
    directory.mkdir()
    (directory / name).write_text(text)
    (directory / "func.py").write_text("def handler(ctx, data=None): ...\n")
    return funcfile.load(directory)


FULL = """\
schema_version: 20180708
name: hello
version: 1.10
runtime: python3.12
build_image: fnproject/python:3.12-dev
run_image: fnproject/python:3.12
entrypoint: /python/bin/fdk /function/func.py handle_it
memory: 512
timeout: 300
idle_timeout: 3600
config:
  PORT: 8080
  DEBUG: yes
  RATIO: 1.50
  EMPTY:
  TEXT: "a: b"
annotations:
  oracle.com/x: {a: [1, 2.5, true, null, text]}
triggers:
- name: one
  type: http
  source: /one
- {name: two, source: /two}
deploy:
  oci:
    provisioned_concurrency: {strategy: CONSTANT, count: 40}
    freeform_tags: {a: b}
expects:
  config:
  - {name: KEY, required: true}
  - {name: SPARE, required: false}
  - {name: OTHER}
"""


def test_everything(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert (found.name, found.version, found.image) == ("hello", "1.10", "hello:1.10")
    assert (found.runtime, found.handler_file, found.handler_name) == ("python3.12", "func.py", "handle_it")
    assert (found.memory, found.timeout, found.idle_timeout) == (512, 300, 3600)
    assert found.config == {"PORT": "8080", "DEBUG": "yes", "RATIO": "1.50", "EMPTY": "", "TEXT": "a: b"}
    assert found.annotations == {"oracle.com/x": {"a": [1, 2.5, True, None, "text"]}}
    assert [(t.name, t.type, t.source) for t in found.triggers] == [("one", "http", "/one"), ("two", "http", "/two")]
    assert found.provisioned_concurrency == {"strategy": "CONSTANT", "count": 40}
    assert (found.required_config, found.warnings) == (["KEY"], [])


def test_the_least_that_is_enough(tmp_path: Path) -> None:
    found = load(tmp_path, "schema_version: 20180708\n")
    assert (found.name, found.image, found.runtime) == ("some-dir", "some-dir:0.0.1", "python")
    assert (found.handler_file, found.handler_name) == ("func.py", "handler")
    assert (found.memory, found.timeout, found.idle_timeout, found.provisioned_concurrency) == (None,) * 4


def test_zero_is_the_servers_default_as_in_fn(tmp_path: Path) -> None:
    found = load(tmp_path, HEAD + "memory: 0\ntimeout: 0\nidle_timeout: 0\n")
    assert (found.memory, found.timeout, found.idle_timeout) == (None, None, None)


@pytest.mark.parametrize("name", ["func.yml", "func.json"])
def test_the_other_file_names(tmp_path: Path, name: str) -> None:
    text = '{\n\t"schema_version": 20180708,\n\t"name": "hello",\n\t"memory": 256\n}\n'
    found = load(tmp_path, text if name.endswith("json") else HEAD + "memory: 256\n", name=name)
    assert (found.name, found.memory, found.path.name) == ("hello", 256, name)


def test_errors_of_a_json_file_have_lines(tmp_path: Path) -> None:
    text = '{\n\t"schema_version": 20180708,\n\t"name": "hello",\n\t"memory": "big"\n}\n'
    with pytest.raises(FuncFileError, match=r"^func\.json line 4: memory: must be a whole number of MiB"):
        load(tmp_path, text, name="func.json")


ERRORS: list[tuple[str, str]] = [
    ("", "func.yaml: is empty"),
    ("- a\n", "func.yaml line 1: must be a map of keys such as name, version and runtime, not a list"),
    ("name: x\n", "func.yaml: schema_version is missing; it must be 20180708"),
    ("schema_version: 1\n", "func.yaml line 1: schema_version: must be 20180708, not '1'"),
    ("a: [\n", "func.yaml line 2: not YAML: expected the node content, but found '<stream end>'"),
    ("a: b: c\n", "func.yaml line 1: not YAML: mapping values are not allowed here"),
    ("a: &x [*x]\n", "func.yaml line 1: too large or too deep"),
    ("a: *x\n", "func.yaml line 1: not YAML: found undefined alias 'x'"),
    ("a: !!python/name:os.system x\n", "func.yaml line 1: the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
    (HEAD + "name: other\n", "func.yaml line 3: name is given twice"),
    (HEAD.replace("hello", "a/b"), "func.yaml line 2: name: must be letters, digits, '.', '_' and '-', beginning with"),
    (HEAD.replace("hello", "[]"), "func.yaml line 2: name: must be text, not a list"),
    (HEAD + "version: a b\n", "func.yaml line 3: version: must be like 0.0.1 (letters, digits, '_', '.', '-'; at most 128), "),
    (HEAD + "runtime: cobol\n", "func.yaml line 3: runtime: must be python, python3.N, node, go, java, kotlin, "),
    (HEAD + "runtime: python2\n", "func.yaml line 3: runtime: must be python, python3.N, node, go, java, kotlin, "),
    (HEAD + "memory: 9000\n", "func.yaml line 3: memory: must be a whole number of MiB from 1 to 8192, not '9000'"),
    (HEAD + "memory: 128.5\n", "func.yaml line 3: memory: must be a whole number of MiB from 1 to 8192, not '128.5'"),
    (HEAD + "memory: 256MB\n", "func.yaml line 3: memory: must be a whole number of MiB from 1 to 8192, not '256MB'"),
    (HEAD + "memory: -1\n", "func.yaml line 3: memory: must be a whole number of MiB from 1 to 8192, not '-1'"),
    (HEAD + "memory: 0x100\n", "func.yaml line 3: memory: must be a whole number of MiB from 1 to 8192, not '0x100'"),
    (HEAD + "timeout: 301\n", "func.yaml line 3: timeout: must be a whole number of seconds from 1 to 300, not '301'"),
    (HEAD + "timeout: '30'\n", "func.yaml line 3: timeout: must be a whole number of seconds from 1 to 300, not '30'"),
    (HEAD + "idle_timeout: 3601\n", "func.yaml line 3: idle_timeout: must be a whole number of seconds from 1 to 3600, "),
    (HEAD + "config: [A]\n", "func.yaml line 3: config: must be a map, not a list"),
    (HEAD + "config:\n  A:\n    B: 1\n", "func.yaml line 4: config.A: must be text, not a map"),
    (HEAD + "entrypoint: fdk func.sh handler\n", "func.yaml line 3: entrypoint: must be like '/python/bin/fdk /function/func"),
    (HEAD + "build: make\n", "func.yaml line 3: build: must be a list of shell lines"),
    (HEAD + 'cmd: "a \\x07"\nruntime: exec\n', "func.yaml line 3: cmd: must be printable characters"),
    (HEAD + "entrypoint: fdk /function/../x.py h\n", "func.yaml line 3: entrypoint: must be like "),
    (HEAD + "entrypoint: fdk /function/func.py a-b\n", "func.yaml line 3: entrypoint: must be like "),
    (HEAD + "entrypoint: fdk 'func.py\n", "func.yaml line 3: entrypoint: cannot be split into words (No closing quotation)"),
    (HEAD + "entrypoint: fdk /function/main.py handler\n", "func.yaml line 3: entrypoint: there is no main.py in "),
    (HEAD + "triggers: {name: x}\n", "func.yaml line 3: triggers: must be a list of maps with name, type and source, not a map"),
    (HEAD + "triggers:\n- web\n", "func.yaml line 4: triggers[0]: must be a map with name, type and source, not 'web'"),
    (HEAD + "triggers:\n- name: x\n", "func.yaml line 4: triggers[0]: needs a source, not a map"),
    (HEAD + "triggers:\n- name: x\n  source: x\n", "func.yaml line 5: triggers[0].source: must begin with '/', not 'x'"),
    (HEAD + "triggers:\n- name: a b\n  source: /x\n", "func.yaml line 4: triggers[0].name: must be 1 to 255 letters, "),
    (HEAD + "triggers:\n- {name: x, source: /x, type: cron}\n", "func.yaml line 4: triggers[0].type: must be http, not 'cron'"),
    (
        HEAD + "triggers:\n- {name: x, source: /x}\n- {name: y, source: /x}\n",
        "func.yaml line 5: triggers[1]: has the name or the source of trigger x",
    ),
    (
        HEAD + "deploy:\n  oci:\n    provisioned_concurrency:\n      strategy: SOME\n",
        "func.yaml line 5: deploy.oci.provisioned_concurrency: strategy must be CONSTANT or NONE, not 'SOME'",
    ),
    (
        HEAD + "deploy: {oci: {provisioned_concurrency: {strategy: CONSTANT, count: many}}}\n",
        "func.yaml line 3: deploy.oci.provisioned_concurrency: strategy CONSTANT needs a count of 1 or more, not 'many'",
    ),
    (HEAD + "deploy: {oci: 4}\n", "func.yaml line 3: deploy.oci: must be a map, not '4'"),
    (HEAD + "expects: {config: KEY}\n", "func.yaml line 3: expects.config: must be a list of maps with name and required, "),
    (HEAD + "expects: {config: [KEY]}\n", "func.yaml line 3: expects.config[0]: must be a map with name and required, "),
    (
        HEAD + "expects: {config: [{name: K, required: maybe}]}\n",
        "func.yaml line 3: expects.config[0].required: must be true or false, not 'maybe'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ERRORS, ids=[message[:70] for _, message in ERRORS])
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FuncFileError) as raised:
        load(tmp_path, text)
    assert raised.value.message.startswith(message)


@pytest.mark.parametrize(
    ("text", "command", "cmd"),
    [
        ("runtime: go1.24\n", [], []),
        ("runtime: docker\n", [], []),
        ("runtime: node\nentrypoint: node x.js\ncmd: a b\n", ["node", "x.js", "a", "b"], []),
        ("runtime: java\ncmd: com.example.A::b\n", [], ["com.example.A::b"]),
        ("entrypoint: python3 func.py 'a b'\n", ["python3", "func.py", "a b"], []),
    ],
)
def test_programs_of_ones_own(tmp_path: Path, text: str, command: list[str], cmd: list[str]) -> None:
    found = load(tmp_path, HEAD + text)
    assert (found.starts_program, found.command, found.cmd) == (True, command, cmd)


def test_a_file_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    levels = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(FuncFileError, match="too large or too deep"):
        load(tmp_path, "\n".join(levels))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FuncFileError, match=r"^no func\.yaml in "):
        funcfile.load(tmp_path)
    with pytest.raises(FuncFileError, match="does not exist"):
        funcfile.load(tmp_path / "nowhere")
    (tmp_path / "func.yaml").write_bytes(b"\xff")
    with pytest.raises(FuncFileError, match="not UTF-8 text"):
        funcfile.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("memry: 4\n", "func.yaml line 3: memry is not a known key and is ignored; did you mean memory?"),
        ("zzz: 4\n", "func.yaml line 3: zzz is not a known key and is ignored"),
        (
            "triggers:\n- {name: x, source: /x, sorce: /y}\n",
            "func.yaml line 4: triggers[0].sorce is not a known key and is ignored; did you mean triggers[0].source?",
        ),
    ],
)
def test_warnings(tmp_path: Path, text: str, warning: str) -> None:
    assert load(tmp_path, HEAD + text).warnings == [warning]


@pytest.mark.parametrize(
    ("written", "means"), [("python", "python"), ("python3.11", "python3.11"), ("python312.ol9", "python3.12")]
)
def test_spellings_of_runtimes(tmp_path: Path, written: str, means: str) -> None:
    assert load(tmp_path, HEAD + f"runtime: {written}\n").runtime == means


@pytest.mark.parametrize(
    ("text", "handler"),
    [
        ("entrypoint: /python/bin/fdk /function/func.py handler\n", ("func.py", "handler")),
        ("entrypoint: /python/bin/fdk /function/func.py\n", ("func.py", "handler")),
        ("entrypoint: fdk\ncmd: func.py run\n", ("func.py", "run")),
        ("entrypoint:\n", ("func.py", "handler")),
    ],
)
def test_spellings_of_entrypoints(tmp_path: Path, text: str, handler: tuple[str, str]) -> None:
    found = load(tmp_path, HEAD + text)
    assert (found.handler_file, found.handler_name) == handler


@pytest.mark.parametrize("path", sorted((ROOT / "examples").iterdir()), ids=lambda p: p.name)
def test_the_examples_are_right(path: Path) -> None:
    found = funcfile.load(path)
    assert (found.name, found.warnings) == (path.name, [])
    assert (path / "README.md").read_text().startswith(f"# {path.name}\n")
    compile((path / found.handler_file).read_text(), found.handler_file, "exec")


def test_bump(tmp_path: Path) -> None:
    found = load(tmp_path, HEAD + "version: '0.1.09' # keep\nmemory: 128\n")
    assert funcfile.bump(found) == "0.1.10"
    assert found.path.read_text() == HEAD + "version: '0.1.10' # keep\nmemory: 128\n"
    assert sorted(p.name for p in found.path.parent.iterdir()) == ["func.py", "func.yaml"]


def test_bump_without_a_version(tmp_path: Path) -> None:
    found = load(tmp_path, HEAD)
    assert funcfile.bump(found) == "0.0.2"
    assert funcfile.load(found.path.parent).version == "0.0.2"


@pytest.mark.parametrize("version", ["1.0", "latest", "1.2.x"])
def test_bump_of_what_cannot_be_counted(tmp_path: Path, version: str) -> None:
    found: Any = load(tmp_path, HEAD + f"version: {version}\n")
    with pytest.raises(FuncFileError, match=r"it is not like 0\.0\.1"):
        funcfile.bump(found)
