"""Bundles: the same input gives the same bytes, links and odd files are handled, what is ignored stays out."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import archive, bundle, funcfile
from cli.errors import CliError
from cli.ignore import Ignore
from cli.steps import Steps


def make(directory: Path, output: Path) -> bundle.Bundle:
    return bundle.build(directory, funcfile.load(directory), output, Steps(quiet=True))


def names(directory: Path) -> list[str]:
    return [name for name, _ in bundle.collect(directory).files]


def test_the_same_input_gives_the_same_bytes(function: Path, tmp_path: Path) -> None:
    (function / "b").mkdir()
    (function / "b" / "z.py").write_text("z")
    (function / "a.txt").write_text("a" * 5000)
    (function / "empty").mkdir()
    first = make(function, tmp_path / "1.zip")
    # Another place, another order of creation, other times, another umask.
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(function.rglob("*"), reverse=True):
        target = copy / path.relative_to(function)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, target)
            target.chmod(0o600)
            os.utime(target, (1, 1))
    second = make(copy, tmp_path / "2.zip")
    content = (tmp_path / "1.zip").read_bytes()
    assert (tmp_path / "2.zip").read_bytes() == content
    assert first.digest == second.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert (first.packed_bytes, first.files) == (len(content), 5)
    (copy / "a.txt").write_text("b")
    assert make(copy, tmp_path / "3.zip").digest != first.digest


def test_members_are_sorted_with_one_time_and_two_modes(function: Path, tmp_path: Path) -> None:
    (function / "run.sh").write_text("#!/bin/sh\n")
    (function / "run.sh").chmod(0o7755)
    (function / "ü.txt").write_text("x")
    (function / "empty").mkdir()
    make(function, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as found:
        assert found.testzip() is None
        infos = found.infolist()
        assert found.read("function/func.py") == (function / "func.py").read_bytes()
    assert [info.filename for info in infos] == [
        "function/empty/", "function/func.py", "function/func.yaml", "function/requirements.txt", "function/run.sh",
        "function/ü.txt",
    ]  # fmt: skip
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    modes = {info.filename: info.external_attr >> 16 for info in infos}
    assert modes["function/run.sh"] == stat.S_IFREG | 0o755
    assert modes["function/func.py"] == stat.S_IFREG | 0o644
    assert modes["function/empty/"] == stat.S_IFDIR | 0o755


def test_what_never_belongs_to_a_function_stays_out(function: Path) -> None:
    for name in (
        ".git/config",
        "__pycache__/func.cpython-311.pyc",
        "x.pyc",
        "lib/__pycache__/y.pyc",
        ".venv/bin/python",
    ):
        path = function / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (function / "lib" / "y.py").write_text("y")
    assert names(function) == ["func.py", "func.yaml", "lib/y.py", "requirements.txt"]


def test_fnignore(function: Path) -> None:
    for name in ("a.log", "b/c.log", "keep.log", "data/x.bin", "b/data/y.bin", "secret.env"):
        (function / name).parent.mkdir(parents=True, exist_ok=True)
        (function / name).write_text("x")
    (function / ".fnignore").write_text("# logs\n*.log\n!keep.log\n/data/\n*.env\n")
    assert names(function) == ["b/data/y.bin", "func.py", "func.yaml", "keep.log", "requirements.txt"]


@pytest.mark.parametrize(
    ("pattern", "path", "directory", "ignored"),
    [
        ("*.log", "a/b/x.log", False, True),
        ("*.log", "x.logs", False, False),
        ("/x", "x", False, True),
        ("/x", "a/x", False, False),
        ("a/x", "a/x", False, True),
        ("a/x", "b/a/x", False, False),
        ("build/", "a/build", True, True),
        ("build/", "build", False, False),
        ("a/**/x", "a/x", False, True),
        ("a/**/x", "a/b/c/x", False, True),
        ("**/x", "a/b/x", False, True),
        ("a/**", "a/b/c", False, True),
        ("x?", "xy", False, True),
        ("x?", "x/", False, False),
        ("x[0-9]", "x5", False, True),
        ("x[!0-9]", "x5", False, False),
        ("x[!0-9]", "xa", False, True),
        ("x[a-c]", "xb", False, True),
        ("x[c-a]", "xb", False, False),
        ("x[[-?]", "x[", False, False),
        ("x[!a]y", "x/y", False, False),
        ("x[]a]", "x]", False, True),
        ("x[", "x[", False, True),
        ("a.c", "abc", False, False),
        ("\\!x", "!x", False, True),
        ("\\#x", "#x", False, True),
        ("# x", "# x", False, False),
        ("x  ", "x", False, True),
        ("", "x", False, False),
        ("/", "x", False, False),
    ],
)
def test_patterns(pattern: str, path: str, directory: bool, ignored: bool) -> None:
    assert Ignore(pattern).ignores(path, directory=directory) is ignored


@given(st.text(alphabet="a*?[]!/\\#.^-] b", max_size=12), st.text(alphabet="ab/.[]", min_size=1, max_size=8))
def test_no_pattern_breaks_it(pattern: str, path: str) -> None:
    assert Ignore(pattern).ignores(path, directory=False) in (True, False)


def test_the_last_pattern_decides() -> None:
    rules = Ignore("*.txt\n!a.txt\na.txt\n!/a.txt")
    assert not rules.ignores("a.txt", directory=False)
    assert rules.ignores("d/a.txt", directory=False)
    assert not Ignore("!__pycache__").ignores("__pycache__", directory=True)


def test_a_link_inside_becomes_a_copy(function: Path, tmp_path: Path) -> None:
    (function / "lib").mkdir()
    (function / "lib" / "x.py").write_text("x = 1\n")
    (function / "alias.py").symlink_to("lib/x.py")
    (function / "same").symlink_to("lib", target_is_directory=True)
    make(function, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as found:
        for name in ("function/alias.py", "function/lib/x.py", "function/same/x.py"):
            assert found.read(name) == b"x = 1\n"
            assert stat.S_ISREG(found.getinfo(name).external_attr >> 16)


def test_links_that_cannot_be_bundled(function: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    for target, why in (
        (tmp_path / "outside", "the link leads out of the function's directory, to "),
        (Path("/etc"), "the link leads out of the function's directory, to /etc"),
        (Path("nothing"), "the link leads nowhere (nothing)"),
        (Path("link"), "the link leads nowhere (link)"),
        (Path("."), "the link leads to a directory that it is in itself"),
    ):
        (function / "link").symlink_to(target)
        with pytest.raises(CliError) as raised:
            names(function)
        assert raised.value.message.startswith(f"cannot bundle link: {why}")
        assert ".fnignore" in raised.value.hint
        (function / ".fnignore").write_text("link\n")
        assert "link" not in names(function)
        (function / ".fnignore").unlink()
        (function / "link").unlink()


def test_what_is_no_file_is_refused_by_name(function: Path) -> None:
    os.mkfifo(function / "pipe")
    with pytest.raises(CliError, match="cannot bundle pipe: it is neither a file nor a directory"):
        names(function)
    (function / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(function / "sock"))
        with pytest.raises(CliError, match="cannot bundle sock: it is neither a file nor a directory"):
            names(function)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x7f"])
def test_names_that_an_unpacker_refuses(function: Path, tmp_path: Path, name: str) -> None:
    (function / name).write_text("x")
    with pytest.raises(CliError, match="holds a control character or a backslash"):
        make(function, tmp_path / "x.zip")
    assert list(tmp_path.glob("*.zip")) == []
    assert list(tmp_path.glob(".x.zip*")) == []


def test_a_name_that_is_not_utf8(function: Path, tmp_path: Path) -> None:
    (function / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(CliError, match="is not UTF-8"):
        make(function, tmp_path / "x.zip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(function: Path, tmp_path: Path) -> None:
    (function / "closed").write_text("x")
    (function / "closed").chmod(0)
    with pytest.raises(CliError, match=r"cannot read .*closed: Permission denied"):
        make(function, tmp_path / "x.zip")


def test_directories_deeper_than_the_daemon_takes(function: Path) -> None:
    (function / "/".join(["d"] * 40)).mkdir(parents=True)
    with pytest.raises(CliError, match="deeper than 32 directories"):
        names(function)


def test_a_bundle_built_into_the_directory_is_left_out_of_the_next_one(function: Path) -> None:
    first = make(function, function / "hello.zip")
    with zipfile.ZipFile(function / "data.zip", "w") as other:
        other.writestr("table.csv", "1")
    source = bundle.collect(function)
    assert source.skipped == ["hello.zip"]
    assert [name for name, _ in source.files] == ["data.zip", "func.py", "func.yaml", "requirements.txt"]
    (function / "data.zip").unlink()
    assert make(function, function / "hello.zip").digest == first.digest


def test_an_output_that_cannot_be_written(function: Path, tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"cannot write .*x\.zip: No such file or directory"):
        make(function, tmp_path / "nowhere" / "x.zip")


@given(
    st.dictionaries(
        st.from_regex(r"[a-zé0-9]{1,8}(/[a-z]{1,5})?", fullmatch=True), st.binary(max_size=300), max_size=12
    )
)
def test_whatever_is_written_zipfile_reads_back(content: dict[str, bytes]) -> None:
    segment_file = BytesIO()
    segment = archive.Segment(segment_file)
    for name, data in content.items():
        segment.add(f"python/{name}", data)
    second_file = BytesIO()
    second = archive.Segment(second_file)
    second.add("function/func.py", b"code")
    segment_file.seek(0)
    second_file.seek(0)
    out = BytesIO()
    digest, size, _ = archive.write(out, [(second_file, second.members), (segment_file, segment.members)])
    assert (digest, size) == (hashlib.sha256(out.getvalue()).hexdigest(), len(out.getvalue()))
    with zipfile.ZipFile(out) as found:
        assert {name.removeprefix("python/"): found.read(name) for name in found.namelist()[1:]} == content
        assert found.namelist() == sorted(found.namelist(), key=lambda name: name.encode())
