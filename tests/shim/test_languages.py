"""Bundles of other languages: what is in them, what is refused, and that they run."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import detect, kinds
from cli.errors import CliError
from tests.shim.conftest import Run
from tests.system.daemon import Daemon

pytestmark = pytest.mark.processes
Make = Callable[..., Path]

PACKAGE = json.dumps({"name": "n", "dependencies": {"is-odd": "3.0.1"}, "devDependencies": {"left-pad": "1.3.0"}})
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


@pytest.fixture
def bundled(stoker: Run, tmp_path: Path) -> Callable[..., zipfile.ZipFile]:
    def run(directory: Path) -> zipfile.ZipFile:
        stoker("build", str(directory), "-o", str(tmp_path / "made.zip"))
        return zipfile.ZipFile(tmp_path / "made.zip")

    return run


def started(archive: zipfile.ZipFile) -> Any:
    return json.loads(archive.read(f"function/{kinds.BUILT_FILE}"))


# -- Node --------------------------------------------------------------------------------------------------------------


@needs_npm
def test_node_packages_are_installed_once(stoker: Run, make: Make, bundled: Any, tmp_path: Path) -> None:
    directory = make("n", "runtime: node\nentrypoint: node func.js\n", **{"func.js": "//", "package.json": PACKAGE})
    (directory / "func.py").unlink()
    (directory / "node_modules" / "own").mkdir(parents=True)
    (directory / "node_modules" / "own" / "x.js").write_text("// of this machine, not of the bundle")
    first = stoker("build", "n", "-o", "a.zip")
    if "registry cannot be reached" in first.stderr:
        pytest.skip("the npm registry cannot be reached")
    assert "2 packages, by npm" in first.stdout
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    names = archive.namelist()
    assert "function/node_modules/is-odd/package.json" in names
    assert "function/node_modules/is-number/package.json" in names, "what is-odd itself needs"
    assert not [name for name in names if "left-pad" in name or "/own/" in name or "/.bin/" in name]
    assert started(archive) == {"runtime": "node", "command": ["node", "func.js"]}
    again = stoker("build", "n", "-o", "b.zip", npm_config_offline="true")
    assert "2 packages, cached" in again.stdout
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    archive.extractall(tmp_path / "out")
    code = "console.log(require('is-odd')(3))"
    done = subprocess.run(["node", "-e", code], cwd=tmp_path / "out" / "function", capture_output=True, text=True)
    assert done.stdout == "true\n", done.stderr


@needs_npm
def test_a_wrong_package_is_told_with_npms_words(stoker: Run, make: Make) -> None:
    make("n", "runtime: node\n", **{"func.js": "//", "package.json": '{"dependencies": {"is-odd": "99.99.99"}}'})
    failed = stoker("build", "n", "-o", "a.zip", code=1).stderr
    assert "cannot install the dependencies: npm ended with exit code 1" in failed
    make("n", "runtime: node\n", **{"func.js": "//", "package.json": "[]"})
    assert "package.json: must be a JSON object" in stoker("build", "n", "-o", "a.zip", code=1).stderr


def test_node_that_is_not_here(stoker: Run, make: Make) -> None:
    make("n", "runtime: node\n", **{"func.js": "//"})
    failed = stoker("build", "n", "-o", "a.zip", code=1, PATH="/nowhere").stderr
    assert "there is no node on this machine (func.yaml: runtime node)" in failed
    assert "Next: apt install nodejs npm" in failed


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_version_that_is_not_here(stoker: Run, make: Make, bundled: Any) -> None:
    major = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout[1:].partition(".")[0]
    make("n", "runtime: node8\n", **{"func.js": "//"})
    failed = stoker("build", "n", "-o", "a.zip", code=1).stderr
    assert "there is no node8 on this machine" in failed
    assert f"found: node{major}" in failed
    make("n", f"runtime: node{major}\n", **{"func.js": "//"})
    assert started(bundled(Path("n")))["command"] == ["node", "func.js"]
    (make("n", "runtime: node\n") / "func.js").unlink()
    assert "there is no func.js in n" in stoker("build", "n", "-o", "a.zip", code=1).stderr


def test_a_handler_where_a_command_line_belongs(stoker: Run, make: Make) -> None:
    make("p", "runtime: python\nentrypoint: func:handler\n", **{"func.py": "def handler(ctx, data=None): ...\n"})
    assert "Next: entrypoint is a command line" in stoker("build", "p", "-o", "a.zip", code=1).stderr


# -- binaries, JARs, commands ------------------------------------------------------------------------------------------


def test_a_prebuilt_binary(stoker: Run, make: Make, bundled: Any) -> None:
    directory = make("g", "runtime: go\n", func=b"\x7fELF")
    assert "func is not executable" in stoker("build", "g", "-o", "a.zip", code=1).stderr
    (directory / "func").chmod(0o755)
    archive = bundled(directory)
    assert started(archive) == {"runtime": "go", "command": ["./func"]}
    assert archive.getinfo("function/func").external_attr >> 16 & 0o111
    (directory / "func").unlink()
    failed = stoker("build", "g", "-o", "a.zip", code=1).stderr
    assert "there is no func in g" in failed
    assert "CGO_ENABLED=0 go build -o func ." in failed


def test_build_lines_run_first(stoker: Run, make: Make, bundled: Any) -> None:
    lines = "build:\n- echo 'compiling it'\n- printf '#!/bin/sh\\n' > func && chmod +x func\n"
    make("b", "runtime: exec\n" + lines)
    done = stoker("build", "b", "-o", "a.zip")
    assert "compiling it" in done.stderr
    assert "build         2 lines run" in done.stdout
    make("b2", "build:\n- echo oh no; exit 3\n")
    failed = stoker("build", "b2", "-o", "a.zip", code=1).stderr
    assert "build: 'echo oh no; exit 3' ended with exit code 3" in failed
    assert failed.count("oh no") >= 2, "shown as it came, and with the error"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_build_lines_gain_no_privileges(stoker: Run, make: Make, tmp_path: Path) -> None:
    directory = make("b", "build:\n- grep NoNewPrivs /proc/self/status > said\n")
    stoker("build", "b", "-o", "a.zip")
    assert (directory / "said").read_text().split() == ["NoNewPrivs:", "1"]


def jar(main: bool = True, *members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n" + ("Main-Class: A\n" if main else ""))
        for member in members:
            archive.writestr(member, b"")
    return buffer.getvalue()


@pytest.mark.skipif(shutil.which("java") is None, reason="no java is installed")
def test_jars(stoker: Run, make: Make, bundled: Any) -> None:
    directory = make("j", "runtime: java\n", **{"func.jar": jar()})
    assert started(bundled(directory))["command"] == ["java", "-XX:+UseSerialGC", "-jar", "func.jar"]
    make("j", "runtime: java\ncmd: com.example.A::b\n", **{"func.jar": jar()})
    assert "no JAR in j has com.fnproject.fn.runtime.EntryPoint" in stoker("build", "j", "-o", "a.zip", code=1).stderr
    (directory / "target").mkdir()
    (directory / "target" / "fdk.jar").write_bytes(jar(False, "com/fnproject/fn/runtime/EntryPoint.class"))
    command = started(bundled(directory))["command"]
    assert command[-2:] == ["com.fnproject.fn.runtime.EntryPoint", "com.example.A::b"]
    make("j", "runtime: java\nentrypoint: java -jar x.jar y\n")
    assert started(bundled(directory))["command"] == ["java", "-jar", "x.jar", "y"]
    make("k", "runtime: java\n")
    assert "runtime java needs an entrypoint" in stoker("build", "k", "-o", "a.zip", code=1).stderr


def test_a_python_program_of_ones_own(stoker: Run, make: Make, bundled: Any) -> None:
    make("p", "runtime: python\nentrypoint: python3 /function/serve.py --fast\n", **{"serve.py": ""})
    assert started(bundled(Path("p"))) == {
        "runtime": "python", "command": ["python3", "/function/serve.py", "--fast"],
        "environment": {"PYTHONPATH": "/function:/python"},
    }  # fmt: skip
    make("q", "runtime: python\nentrypoint: nosuchprogram x\n")
    failed = stoker("build", "q", "-o", "a.zip", code=1).stderr
    assert "there is no nosuchprogram on this machine" in failed


def test_a_program_from_init_to_its_answer(stoker: Run, tmp_path: Path, shared_daemon: Daemon) -> None:
    stoker("init", "--runtime", "exec", "g")
    stoker("deploy", "--app", "lang", "--create-app", "g")
    assert json.loads(stoker("invoke", "lang", "g", "-d", '{"name": "Ada"}').stdout) == {"message": "Hello Ada"}
    items = shared_daemon.api("GET", "/stoker/v1/bundles?name=g")["items"]
    assert [item["runtime"] for item in items] == ["exec"]


def test_the_official_fdk_of_python(stoker: Run, make: Make) -> None:
    yaml = "runtime: python\nentrypoint: /python/bin/fdk /function/func.py handler\n"
    source = "import fdk, sys\nfrom fdk import version\ndef handler(ctx, data=None):\n    return version.VERSION\n"
    make("o", yaml + "annotations: {stoker.dev/fdk: official}\n", **{"func.py": source, "requirements.txt": ""})
    failed = stoker("build", "o", "-o", "a.zip", code=1).stderr
    assert "stoker.dev/fdk: official, and requirements.txt does not name fdk" in failed
    make("p", yaml + "annotations: {stoker.dev/fdk: mine}\n", **{"func.py": source})
    assert "stoker.dev/fdk must be official or stoker, not 'mine'" in stoker("build", "p", "-o", "a.zip", code=1).stderr
    directory = make("o", yaml + "annotations: {stoker.dev/fdk: official}\n", **{"func.py": source})
    (directory / "requirements.txt").write_text("fdk==0.1.128\n")
    stoker("deploy", "--app", "lang", "--create-app", "o")
    assert stoker("invoke", "lang", "o").stdout.strip() == "0.1.128"


def test_start_exec_is_the_official_fdk_where_it_is_among_the_requirements(stoker: Run, make: Make) -> None:
    yaml = "runtime: python\nentrypoint: /python/bin/fdk /function/func.py handler\n"
    source = (
        "import fdk\ndef handler(ctx, data=None):\n"
        "    return 'official' if fdk.__file__.startswith('/python/') else 'stoker'\n"
    )
    cases = (
        ("e", "stoker.dev/start: exec", "fdk==0.1.128\n", "official"),
        ("b", "stoker.dev/start: boot", "fdk==0.1.128\n", "stoker"),
        ("n", "stoker.dev/start: exec", "", "stoker"),
        ("s", "stoker.dev/start: exec, stoker.dev/fdk: stoker", "fdk==0.1.128\n", "stoker"),
    )
    for name, asked, needs, which in cases:
        make(name, yaml + f"annotations: {{{asked}}}\n", **{"func.py": source, "requirements.txt": needs})
        stoker("deploy", "--app", "lang", "--create-app", name)
        assert stoker("invoke", "lang", name).stdout.strip() == which, name


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[]", "must be an object"),
        ('{"runtime": "cobol"}', "runtime: 'cobol'"),
        ('{"runtime": "exec"}', "command: missing, and runtime exec needs one"),
        ('{"command": "ls"}', "command: must be a list"),
        ('{"command": ["a\\u0000"]}', "command: must be a list"),
        ('{"environment": {"A=B": "c"}}', "environment: must be a map"),
        ('{"handler_file": "../../etc/x.py"}', "must be '/python/bin/fdk"),
        ("{" * 5, "cannot use bundle: function/.stoker.json: "),
    ],
)
def test_a_hostile_note_in_a_bundle(shared_daemon: Daemon, document: str, says: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("function/func.py", "")
        archive.writestr("function/.stoker.json", document)
    reply = shared_daemon.request("PUT", "/stoker/v1/bundles/hostile:1", buffer.getvalue())
    assert reply.status == 400
    assert says in reply.json["message"]


def test_runtimes_lists_what_is_found(stoker: Run) -> None:
    items = {item["name"]: item for item in json.loads(stoker("runtimes", "--output", "json").stdout)}
    assert any(name.startswith("python3.") for name in items)
    for command in ("node", "java"):
        if shutil.which(command, path="/usr/local/bin:/usr/bin:/bin"):
            assert [n for n in items if n.startswith(command) and n[len(command) :].isdigit()], items


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_of_an_executable_that_follows_the_contract(stoker: Run, tmp_path: Path, bundled: Any) -> None:
    """From init to answer, without a daemon: the program is run and called as the contract says."""
    import http.client
    import socket

    from tests.system.daemon import eventually

    stoker("init", "--runtime", "exec", "--trigger", "http", "x")
    assert started(bundled(tmp_path / "x"))["command"] == ["./func"]
    listener = tmp_path / "lsnr.sock"
    process = subprocess.Popen(
        [tmp_path / "x" / "func"], env={"PATH": os.environ["PATH"], "FN_LISTENER": f"unix:{listener}"},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(listener.is_symlink, what="the listener")
        assert os.readlink(listener) == "phony.sock", "relative, as the contract demands"
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(listener))
        for body, name in ((b'{"name": "Ada"}', "Ada"), (b"", "World")):
            connection.request("POST", "/call", body, {"Fn-Call-Id": "1"})
            assert json.loads(connection.getresponse().read()) == {"message": f"Hello {name}"}
        connection.request("POST", "/call", iter([b'{"na', b'me": "C"}']), {"Transfer-Encoding": "chunked"},
                           encode_chunked=True)  # fmt: skip
        assert json.loads(connection.getresponse().read()) == {"message": "Hello C"}
        connection.close()
    finally:
        process.kill()
        process.wait()


@needs_npm
def test_init_of_node(stoker: Run, tmp_path: Path) -> None:
    stoker("init", "--runtime", "node", "--trigger", "http", "n")
    done = stoker("build", "n", "-o", "a.zip", code=0)
    assert "by npm" in done.stdout or "cached" in done.stdout
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert "function/node_modules/@fnproject/fdk/package.json" in names
    assert "source: /n" in (tmp_path / "n" / "func.yaml").read_text()


SOURCES = {
    "flask": ("from flask import Flask\napp = Flask(__name__)\n", ("app", "wsgi")),
    "django": ("from django.core import wsgi\napplication = wsgi.get_wsgi_application()\n", ("application", "wsgi")),
    "fastapi": ("import fastapi\nshop = fastapi.FastAPI()\ndef helper(event, context): ...\n", ("shop", "asgi")),
    "two applications": ("x = Flask(1)\napp: object = Quart(2)\n", ("app", "asgi")),
    "lambda": ("def other(a): ...\ndef run(event, context): ...\n", ("run", "lambda")),
    "lambda by its name": ("def lambda_handler(e, c): ...\n", ("lambda_handler", "lambda")),
    "google": ("def z(ctx, d): ...\n@functions_framework.http\ndef hello(r): ...\n", ("hello", "google-http")),
    "event": ("app = Flask()\n@functions_framework.cloud_event\ndef e(x): ...\n", ("e", "google-event")),
    "fn": ("def handler(ctx, data=None): ...\n", ("handler", "")),
    "bare asgi": ("async def a(scope, receive, send): ...\n", ("a", "asgi")),
    "bare wsgi": ("def a(environ, start_response): ...\n", ("a", "wsgi")),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_detected(tmp_path: Path, name: str) -> None:
    source, expected = SOURCES[name]
    (tmp_path / "main.py").write_text(source)
    found = detect.detect(tmp_path)
    assert (found.name, found.adapter) == expected


def test_what_is_not_detected(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no Python file"):
        detect.detect(tmp_path)
    (tmp_path / "main.py").write_text("def run(a, b): ...\n")
    with pytest.raises(CliError, match=r"no handler found in .* \(looked at: main.py\)"):
        detect.detect(tmp_path)
    (tmp_path / "main.py").write_text("def (:\n")
    with pytest.raises(CliError, match="is no Python"):
        detect.detect(tmp_path)


def test_init_from_a_lambda_to_its_answer(stoker: Run, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "lambda_function.py").write_text(
        "def lambda_handler(event, context):\n    return {'got': event}\n"
    )
    said = stoker("init", "--from", "f/lambda_function.py", "--memory", "128").stdout
    assert "a handler of AWS Lambda" in said
    stoker("deploy", "--app", "from", "--create-app", "f")
    assert json.loads(stoker("invoke", "from", "f", "-d", "[1]").stdout) == {"got": [1]}
