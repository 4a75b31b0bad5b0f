"""Which Dockerfiles are honoured, what comes of them, and which lines are refused with their number and a reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import image
from cli.dockerfile import DockerfileError, Instruction, assignments, expand, parse
from cli.errors import CliError
from cli.steps import Steps
from tests.golden.test_replay import needs_recordings
from tests.shim import recorded
from tests.shim.conftest import Run
from tests.system.daemon import Daemon


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Evaluate a Dockerfile over a directory; what came of it, with the names of the function's files."""

    def run(text: str, args: dict[str, str] | None = None, **files: str) -> dict[str, Any]:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        for name, content in files.items():
            path = context / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (context / "Dockerfile").write_text(text)
        with image.evaluate(context, context / "Dockerfile", args or {}, Steps(quiet=True)) as found:
            top = found.function
            names = sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())
            modes = {name: os.access(top / name, os.X_OK) for name in names}
            return {
                "runtime": found.runtime, "command": list(found.command), "environment": found.environment,
                "handler": (found.handler_file, found.handler_name), "files": names, "modes": modes,
                "lines": found.requirements.lines if found.requirements else None,
                "options": found.requirements.options if found.requirements else None,
                "node": found.node_packages is not None,
            }  # fmt: skip

    return run


Made = Callable[..., dict[str, Any]]
PYTHON = "FROM fnproject/python:3.12\nWORKDIR /function\n"
FDK = 'ENTRYPOINT ["/python/bin/fdk", "/function/func.py", "handler"]\n'


@needs_recordings
class TestGenerated:
    def test_python(self, made: Made) -> None:
        for version in ("3.12", "3.11"):
            found = made(
                recorded.python_dockerfile(version),
                func_dot_py="x", requirements_dot_txt="fdk\nrequests>2\n", lib__a_dot_py="y",
            )  # fmt: skip
            assert found["handler"] == ("func.py", "handler")
            assert (found["runtime"], found["lines"]) == (f"python{version}", ["requests>2"])
            assert (found["command"], found["environment"]) == ([], {})
            assert found["files"] == ["Dockerfile", "func.py", "lib/a.py", "requirements.txt"]

    def test_node(self, made: Made) -> None:
        text = next(text for text in recorded.dockerfiles() if text.startswith("FROM fnproject/node:24"))
        text = text.replace("/NAME/", "/function/")
        found = made(text, func_dot_js="x", package_dot_json='{"dependencies": {"a": "1"}}')
        assert (found["runtime"], found["command"], found["node"]) == ("node", ["node", "func.js"], True)
        assert found["files"] == ["Dockerfile", "func.js", "package.json"]

    @pytest.mark.skipif(shutil.which("go") is not None, reason="go is installed")
    def test_go_needs_go(self, made: Made) -> None:
        for text in recorded.dockerfiles():
            if text.startswith("FROM fnproject/go:1.24-dev"):
                with pytest.raises(DockerfileError) as raised:
                    made(text, func_dot_go="x")
                assert raised.value.message == "Dockerfile line 6: RUN go mod tidy: there is no go on this machine"
                assert raised.value.hint == "apt install golang-go"

    def test_every_other_is_refused_by_a_line(self, made: Made) -> None:
        for text in recorded.dockerfiles():
            if "dotnet" in text and shutil.which("dotnet") is None:
                with pytest.raises(DockerfileError, match=r"^Dockerfile line \d+: RUN dotnet .*there is no dotnet"):
                    made(text, x="")

    def test_go_with_a_go(self, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With something on the path that builds, the generated file gives what the image would have had."""
        (tmp_path / "bin").mkdir()
        go = tmp_path / "bin" / "go"
        go.write_text('#!/bin/sh\n[ "$1" != build ] || { cat func.go > "$3"; chmod +x "$3"; }\n')
        go.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        text = next(text for text in recorded.dockerfiles() if text.startswith("FROM fnproject/go:1.24-dev"))
        found = made(text, func_dot_go="binary")
        assert (found["runtime"], found["command"], found["modes"]) == ("go", ["./func"], {"func": True})


class TestHonoured:
    def test_packages(self, made: Made) -> None:
        found = made(
            PYTHON + "COPY . .\nRUN pip install --upgrade pip && pip3 install --no-cache-dir 'six==1.16' \\\n"
            "  -i https://index/simple -r requirements.txt -c limits.txt && rm -rf requirements.txt ~/.cache\n" + FDK,
            func_dot_py="", requirements_dot_txt="fdk\na>1  # b\n", limits_dot_txt="a<3\n",
        )  # fmt: skip
        assert (found["lines"], found["options"]) == (["six==1.16", "a>1"], ["-i https://index/simple"])
        assert "requirements.txt" not in found["files"]

    def test_copies(self, made: Made) -> None:
        found = made(
            PYTHON + 'COPY func.py a*.txt ./\nCOPY lib data/\nADD lib/one.py renamed.py\nCOPY ["b c.txt", "deep/er/"]\n'
            "COPY --chown=fn:fn lib/sub /function/sub2\nRUN mkdir -p empty && chmod +x data/one.py\n" + FDK,
            func_dot_py="", a1_dot_txt="", a2_dot_txt="", lib__one_dot_py="", lib__sub__two_dot_py="",
            **{"b c_dot_txt": ""},
        )  # fmt: skip
        assert found["files"] == [
            "a1.txt", "a2.txt", "data/one.py", "data/sub/two.py", "deep/er/b c.txt", "func.py", "renamed.py", "sub2/two.py"
        ]  # fmt: skip
        assert [name for name, executable in found["modes"].items() if executable] == ["data/one.py"]

    def test_ignored_files(self, made: Made) -> None:
        found = made(
            PYTHON + "COPY . .\n" + FDK,
            func_dot_py="", secret_dot_env="", sub__secret_dot_env="", _dot_git__HEAD="", tests__a_dot_py="",
            _dot_dockerignore="*.env\n", _dot_fnignore="tests/\n", **{"Dockerfile-fn-tmp12": "x"},
        )  # fmt: skip
        assert found["files"] == [".dockerignore", "Dockerfile", "func.py", "sub/secret.env"]

    def test_environment_and_arguments(self, made: Made) -> None:
        text = (
            'ARG BASE=python:3.11\nFROM ${BASE} AS one\nARG NAME=x\nARG GIVEN\nENV A=1 B="two words" C=${A:-none}$NAME\n'
            "ENV OLD style value\nENV PATH=/x:$PATH PYTHONPATH=/function:/python E=${GIVEN:+set}\nLABEL a=b\nEXPOSE 80\n"
            "USER fn\nWORKDIR /function\nCOPY . .\n" + FDK
        )
        found = made(text, {"GIVEN": "yes", "UNUSED": "z"}, func_dot_py="")
        assert found["environment"] == {"A": "1", "B": "two words", "C": "nonex", "OLD": "style value", "E": "set"}
        assert found["runtime"] == "python3.11"

    def test_stages(self, made: Made) -> None:
        text = (
            "FROM debian:12 AS base\nWORKDIR /function\nCOPY a.txt .\nENV X=1\n"
            "FROM base AS second\nCOPY b.txt .\nFROM scratch\nWORKDIR /function\n"
            "COPY --from=second /function/*.txt /function/\nCOPY --from=0 /function/a.txt renamed\nCOPY run .\n"
            'RUN chmod 755 run\nENTRYPOINT ["./run"]\nCMD ["--now"]\n'
        )
        found = made(text, a_dot_txt="", b_dot_txt="", run="")
        assert (found["files"], found["environment"]) == (["a.txt", "b.txt", "renamed", "run"], {})
        assert (found["runtime"], found["command"]) == ("exec", ["./run", "--now"])

    def test_another_work_directory(self, made: Made) -> None:
        found = made('FROM node:20\nWORKDIR /app\nCOPY . /app\nCMD ["node", "/app/x.js"]\n', x_dot_js="")
        assert (found["runtime"], found["command"]) == ("node", ["node", "/function/x.js"])

    def test_shell_forms(self, made: Made) -> None:
        found = made("FROM alpine\nWORKDIR /function\nCOPY . .\nCMD ./run $HOME\n", run="")
        assert found["command"] == ["/bin/sh", "-c", "./run $HOME"]


REFUSED = {
    "an unknown base": ("FROM corp/base:1\n", "Dockerfile line 1: FROM corp/base:1: the content of corp/base:1 is not here"),
    "no FROM": ("RUN true\n", "Dockerfile line 1: RUN true: the first instruction must be FROM"),
    "nothing": ("# only a comment\n", "Dockerfile: is empty"),
    "no entrypoint": ("FROM golang:latest\n", "Dockerfile: there is no ENTRYPOINT"),
    "system packages": (PYTHON + "RUN apt-get update && apt-get install -y x\n", "Dockerfile line 3: RUN apt-get update && "),
    "a pipe": (PYTHON + "RUN curl x | sh\n", "Dockerfile line 3: RUN curl x | sh: 'curl x | sh' needs a shell"),
    "a command": (PYTHON + "RUN make\n", "Dockerfile line 3: RUN make: 'make' would run in the image"),
    "a substitution": (PYTHON + "RUN pip install $(cat x)\n", "Dockerfile line 3: RUN pip install $(cat x): "),
    "a volume": (PYTHON + "VOLUME /data\n", "Dockerfile line 3: VOLUME /data: a function has no volumes"),
    "ONBUILD": (PYTHON + "ONBUILD RUN x\n", "Dockerfile line 3: ONBUILD RUN x: this instruction is not supported"),
    "a download": (PYTHON + "ADD http://x/y .\n", "Dockerfile line 3: ADD http://x/y .: nothing is downloaded"),
    "an archive": (PYTHON + "ADD x.tar.gz .\n", "Dockerfile line 3: ADD x.tar.gz .: ADD would unpack it"),
    "outside": (PYTHON + "COPY ../x .\n", "Dockerfile line 3: COPY ../x .: it is outside of the function's directory"),
    "another image": (PYTHON + "COPY --from=nginx:1 /etc /x\n", "Dockerfile line 3: COPY /etc /x: 'nginx:1' is no stage"),
    "a missing file": (PYTHON + "COPY nope .\n", "Dockerfile line 3: COPY nope .: there is no nope in the function's"),
    "a place of the system": (
        PYTHON + "COPY x /etc/x\nCOPY x func.py\n" + FDK,
        "Dockerfile: /etc/x lies outside of /function: only the work directory becomes the function",
    ),
    "a handler that nothing copies": (PYTHON + FDK, "Dockerfile: there is no func.py in the image"),
    "requirements that nothing copies": (
        PYTHON + "RUN pip install -r requirements.txt\n",
        "Dockerfile line 3: RUN pip install -r requirements.txt: there is no requirements.txt in the image at this point",
    ),
    "an option of pip": (PYTHON + "RUN pip install --pre x\n", "Dockerfile line 3: RUN pip install --pre x: pip's option"),
    "a local package": (PYTHON + "RUN pip install .\n", "Dockerfile line 3: RUN pip install .: pip install . is not"),
    "npm of one": ("FROM node\nRUN npm install x\n", "Dockerfile line 2: RUN npm install x: npm install x is not supported"),
    "npm globally": ("FROM node\nRUN npm i -g x\n", "Dockerfile line 2: RUN npm i -g x: only 'npm install' and"),
    "a here-document": (PYTHON + "RUN <<EOF\nx\nEOF\n", "Dockerfile line 3: RUN <<EOF: here-documents are not supported"),
    "everything removed": (PYTHON + "RUN rm -rf /\n", "Dockerfile line 3: RUN rm -rf /: it would remove everything"),
    "another escape": ("# escape=`\nFROM python\n", "Dockerfile line 1: another escape character is not supported"),
    "a wrong ENV": (PYTHON + "ENV A=1 B\n", "Dockerfile line 3: ENV A=1 B: 'B' is not NAME=VALUE"),
    "a continued line": (PYTHON + "RUN true && \\\n  # comment\n  make\n", "Dockerfile line 3: RUN true &&"),
    "modules elsewhere": (
        "FROM node\nWORKDIR /x\nCOPY package.json .\nRUN npm ci\nWORKDIR /y\nCOPY x .\nCMD [\"node\", \"x\"]\n",
        "Dockerfile: /x/package.json lies outside of /y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(made: Made, name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(CliError) as raised:
        made(text, x="", package_dot_json="{}", x_dot_tar_dot_gz="")
    assert raised.value.message.startswith(message)


def test_system_packages_that_the_machine_has_are_passed_over_with_a_warning(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PYTHON + "RUN microdnf install ImageMagick && microdnf clean all\nCOPY x func.py\n" + FDK
    with pytest.raises(CliError, match="would install into an image"):
        made(text, x="")
    monkeypatch.setenv("STOKER_SYSTEM_PACKAGES", "installed")
    assert made(text, x="")["files"] == ["func.py"]
    assert "passed over, STOKER_SYSTEM_PACKAGES says that it is done on this machine: microdnf install ImageMagick" in (
        capsys.readouterr().err
    )


def test_it_never_leaves_its_directory(made: Made, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    found = made(
        PYTHON + "COPY x ../../../../../../precious\nRUN rm -rf ../../../../../../../tmp/* /../../precious\n"
        "COPY x func.py\n" + FDK, x="",
    )  # fmt: skip
    assert (tmp_path / "precious").read_text() == "x"
    assert found["files"] == ["func.py"]


@given(st.text(alphabet="FROM RUNCOPYENV\\\n#\"'$={}[],./ab\t", max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        for instruction in parse(text, "Dockerfile"):
            assert instruction.line >= 1
            assert instruction.name == instruction.name.upper()
    except DockerfileError:
        pass


@given(st.text(max_size=40), st.dictionaries(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), st.text(max_size=5)))
def test_any_variables_are_expanded(text: str, values: dict[str, str]) -> None:
    assert isinstance(expand(text, values), str)
    try:
        assignments(Instruction("f", 1, "ENV", text), values)
    except DockerfileError:
        pass


@pytest.mark.processes
def test_runtime_docker_from_deploy_to_answer(stoker: Run, make: Callable[..., Path], shared_daemon: Daemon) -> None:
    make(
        "own", "runtime: docker\n",
        **{
            "app.py": "import os\ndef greet(ctx, data=None):\n    return os.environ['GREETING']\n",
            "Dockerfile": "FROM python\nWORKDIR /function\nCOPY app.py .\nENV GREETING=hi\n"
            'ENTRYPOINT ["fdk", "/function/app.py"]\nCMD ["greet"]\n',
        },
    )  # fmt: skip
    document = json.loads(stoker("deploy", "--app", "dk", "--create-app", "own", "--output", "json").stdout)
    assert shared_daemon.invoke(document["function_id"]).body == b"hi"
    stoker("config", "set", "function", "dk", "own", "GREETING", "configured")
    assert shared_daemon.invoke(document["function_id"]).body == b"configured", "configuration wins over ENV"
