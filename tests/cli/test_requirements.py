"""requirements.txt: fdk in every spelling is left out, includes are followed, local paths become absolute."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import requirements
from cli.errors import CliError


def read(tmp_path: Path, text: str) -> requirements.Requirements:
    (tmp_path / "requirements.txt").write_text(text)
    return requirements.read(tmp_path / "requirements.txt")


@pytest.mark.parametrize(
    "line",
    [
        "fdk",
        "FDK",
        "fdk>=0.1.128",
        "fdk ==0.1.35",
        "fdk[async]",
        "fdk [async] >= 1",
        "fdk~=0.1",
        "fdk!=1,<2",
        "fdk===0.1",
        "fdk<1  # pinned",
        "fdk; python_version > '3'",
        "fdk @ https://example.org/fdk.zip",
        "fdk (>=0.1)",
        "  fdk  ",
        "fdk==0.1 \\\n  --hash=sha256:00 \\\n  --hash=sha256:11",
        "fdk >= 0.1, < 2.0rc1, != 1.*, != 1.0.post1+local.2 ; python_version > '3'",
    ],
)
def test_fdk_is_left_out(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, f"{line}\nrequests\n").lines == ["requests"]


@pytest.mark.parametrize(
    "line", ["fdk>=0.1.128six==1.16.0", "fdk>=0.1.128requests", "fdk==0.1numpy<2", "fdk>=", "fdk 1"]
)
def test_what_ran_into_fdk_is_not_left_out_with_it(tmp_path: Path, line: str) -> None:
    with pytest.raises(CliError, match=r"requirements\.txt line 2: '.*' is not a requirement") as refused:
        read(tmp_path, f"requests\n{line}")
    assert refused.value.hint == "one package a line: is a line end missing?"


@pytest.mark.parametrize("line", ["fdk-extras", "fdkx", "my-fdk", "fdk_tools==1", "fdk.more"])
def test_what_only_looks_like_fdk_stays(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line).lines == [line]


def test_comments_blank_lines_and_continuations(tmp_path: Path) -> None:
    text = "# all of it\n\nrequests  #why\n  numpy==1.26 ; \\\n   python_version<'3.13'\nx @ https://h/x.zip#egg=x\n"
    assert read(tmp_path, text).lines == [
        "requests", "numpy==1.26 ; python_version<'3.13'", "x @ https://h/x.zip#egg=x",
    ]  # fmt: skip


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    assert requirements.read(tmp_path / "requirements.txt").lines == []
    assert read(tmp_path, "").lines == []
    assert read(tmp_path, "\ufefffdk").lines == []


def test_includes_and_constraints_are_followed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("numpy\nfdk\n-r ../requirements.txt\n--requirement=last.txt\n")
    (tmp_path / "sub" / "last.txt").write_text("pandas\n-rmore.txt\n")
    (tmp_path / "pins.txt").write_text("numpy<2\n-c more-pins.txt\n")
    (tmp_path / "more-pins.txt").write_text("pandas<3\n")
    found = read(tmp_path, "requests\n-r sub/more.txt\n-c pins.txt\n--pre\n-i https://index.example/simple\n")
    assert found.lines == ["requests", "numpy", "pandas"]
    assert found.constraints == ["numpy<2", "pandas<3"]
    assert found.options == ["--pre", "-i https://index.example/simple"]


def test_an_include_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"requirements\.txt line 2: cannot read .*nope\.txt: No such file or directory"):
        read(tmp_path, "requests\n-r nope.txt\n")


def test_local_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "a-1.0-py3-none-any.whl").write_bytes(b"")
    text = "./pkg\n-e ./pkg[extra]\na-1.0-py3-none-any.whl\nb @ file:./pkg ; python_version>'3'\n--find-links wheels\n"
    found = read(tmp_path, text)
    assert found.lines == [
        f"{tmp_path}/pkg", f"{tmp_path}/pkg[extra]", f"{tmp_path}/a-1.0-py3-none-any.whl",
        f"b @ file://{tmp_path}/pkg; python_version>'3'",
    ]  # fmt: skip
    assert found.options == [f"--find-links {tmp_path}/wheels"]
    assert len(found.local) == 5


def test_a_local_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"requirements\.txt line 1: there is no \./pkg in "):
        read(tmp_path, "./pkg\n")


def test_what_identifies_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = read(tmp_path, "a\nb>=1\n").identity()
    assert read(tmp_path, "# x\nb>=1\n\n  a   # y\nfdk\n").identity() == same
    assert read(tmp_path, "a\nb>=2\n").identity() != same
    assert read(tmp_path, "a\nb>=1\n--pre\n").identity() != same
    (tmp_path / "c.txt").write_text("a<5")
    assert read(tmp_path, "a\nb>=1\n-c c.txt\n").identity() != same
    monkeypatch.setenv("TOKEN", "1")
    first = read(tmp_path, "a @ https://${TOKEN}@h/a.zip\n").identity()
    monkeypatch.setenv("TOKEN", "2")
    assert read(tmp_path, "a @ https://${TOKEN}@h/a.zip\n").identity() != first


def test_a_local_directory_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text("1")
    first = read(tmp_path, "./pkg").identity()
    (tmp_path / "pkg" / "__pycache__").mkdir()
    (tmp_path / "pkg" / "__pycache__" / "a.pyc").write_text("x")
    assert read(tmp_path, "./pkg").identity() == first
    (tmp_path / "pkg" / "a.py").write_text("2")
    assert read(tmp_path, "./pkg").identity() != first
