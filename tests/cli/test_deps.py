"""Dependencies: installed once, cached by content, never half a cache entry; and what is said when it fails."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from cli import deps, errors
from tests.cli.conftest import Result, Stoker

NO_INSTALLER = "none"
"""Not a known installer: a run that needs one fails, a run from the cache does not notice."""


def wheel(directory: Path, name: str = "tiny", version: str = "1.0", code: str = "WHO = 'tiny'\n") -> None:
    """A wheel made by hand: no build, no network."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as made:
        made.writestr(f"{name}/__init__.py", code)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def tiny(function: Path) -> Path:
    """A function that needs the tiny package, which lies beside it."""
    wheel(function.parent / "wheels")
    (function / "requirements.txt").write_text("--no-index\n--find-links ../wheels\nfdk>=0.1\ntiny\n")
    return function


INSTALLERS = [
    pytest.param("uv", marks=pytest.mark.skipif(not deps.find_uv(), reason="uv is not installed")),
    pytest.param("pip"),
]


def built(result: Result, path: Path) -> list[str]:
    assert result.code == 0, result.err
    with zipfile.ZipFile(path) as found:
        assert found.testzip() is None
        return found.namelist()


@pytest.mark.parametrize("installer", INSTALLERS)
def test_dependencies_are_installed_once(bare_stoker: Stoker, tiny: Path, tmp_path: Path, installer: str) -> None:
    first = bare_stoker("build", "hello", "-o", "1.zip", STOKER_INSTALLER=installer)
    names = built(first, tmp_path / "1.zip")
    assert "python/tiny/__init__.py" in names
    assert not [name for name in names if "fdk" in name or name.endswith(".pyc") or "/.lock" in name]
    assert f"  dependencies  1 package, by {installer} (" in first.out
    assert first.err != ""  # the installer's own lines, for somebody who watches a log
    second = bare_stoker("build", "hello", "-o", "2.zip", STOKER_INSTALLER=NO_INSTALLER)
    built(second, tmp_path / "2.zip")
    assert "  dependencies  1 package, cached (" in second.out
    assert second.err == ""
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_the_function_may_change_without_installing(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    built(bare_stoker("build", "hello", "-o", "1.zip"), tmp_path / "1.zip")
    (tiny / "func.py").write_text("def handler(ctx, data=None):\n    return 'new'\n")
    (tiny / "requirements.txt").write_text("# reordered\ntiny\n\n--no-index\n--find-links ../wheels\n")
    built(bare_stoker("build", "hello", "-o", "2.zip", STOKER_INSTALLER=NO_INSTALLER), tmp_path / "2.zip")


def test_what_changes_the_key(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    built(bare_stoker("build", "hello", "-o", "1.zip"), tmp_path / "1.zip")
    for change in ("find-links", "constraint", "index"):
        variables = {"STOKER_INSTALLER": NO_INSTALLER}
        if change == "find-links":
            wheel(tmp_path / "wheels", code="WHO = 'other'\n")
        elif change == "constraint":
            (tiny / "pins.txt").write_text("tiny<2\n")
            with (tiny / "requirements.txt").open("a") as file:
                file.write("-c pins.txt\n")
        else:
            variables["PIP_INDEX_URL"] = "http://127.0.0.1:1/simple"
        result = bare_stoker("build", "hello", "-o", "2.zip", **variables)
        assert result.code == 1, change
        assert result.err == "Error: STOKER_INSTALLER must be uv or pip, not 'none'\n"
        built(bare_stoker("build", "hello", "-o", "2.zip"), tmp_path / "2.zip")


def test_no_cache_resolves_again(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    first = bare_stoker("build", "hello", "-o", "1.zip")
    again = bare_stoker("build", "hello", "-o", "2.zip", "--no-cache")
    built(first, tmp_path / "1.zip")
    built(again, tmp_path / "2.zip")
    assert "cached" not in again.out
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "stoker" / "deps").iterdir())


@pytest.mark.parametrize("damage", ["layer", "index", "half"])
def test_a_damaged_entry_is_made_anew(bare_stoker: Stoker, tiny: Path, tmp_path: Path, damage: str) -> None:
    built(bare_stoker("build", "hello", "-o", "1.zip"), tmp_path / "1.zip")
    [entry] = entries(tmp_path)
    if damage == "layer":
        (entry / "layer.zip").write_bytes(b"short")
    elif damage == "index":
        (entry / "index.json").write_text('{"bytes": 5}')
    else:
        (entry / "index.json").unlink()
    result = bare_stoker("build", "hello", "-o", "2.zip")
    built(result, tmp_path / "2.zip")
    assert "cached" not in result.out
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert entries(tmp_path) == [entry]


def test_a_failed_install_leaves_nothing_and_shows_the_last_lines(
    bare_stoker: Stoker, tiny: Path, tmp_path: Path
) -> None:
    (tiny / "requirements.txt").write_text("--no-index\n--find-links ../wheels\ntiny==9.9\n")
    for installer in ("uv", "pip") if deps.find_uv() else ("pip",):
        result = bare_stoker("build", "hello", "-o", "x.zip", STOKER_INSTALLER=installer)
        assert (result.code, entries(tmp_path), list(tmp_path.glob("*.zip"))) == (1, [], [])
        assert re.search(
            rf"^Error: cannot install the dependencies: {installer} ended with exit code \d$", result.err, re.M
        )
        assert "tiny" in result.err.partition("Error: ")[2]
        assert result.err.endswith(
            "Next: check names and versions in requirements.txt, and whether they exist for the runtime of func.yaml\n"
        )


def test_an_index_that_cannot_be_reached(bare_stoker: Stoker, tiny: Path) -> None:
    (tiny / "requirements.txt").write_text("tiny\n")
    address = "http://127.0.0.1:1/simple"
    variables = {"PIP_INDEX_URL": address, "UV_INDEX_URL": address, "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    result = bare_stoker("build", "hello", "-o", "x.zip", **variables)
    assert result.code == 1
    if deps.find_uv():
        assert result.err.endswith("or name another with UV_INDEX_URL or PIP_INDEX_URL\n")


def test_a_cache_that_cannot_be_written_is_named(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    result = bare_stoker("build", str(tiny), "-o", "x.zip", XDG_CACHE_HOME=str(tmp_path / "in-the-way"))
    assert result.code == 1
    assert "Traceback" not in result.err
    assert f"Error: {tmp_path}/in-the-way/stoker/deps: Not a directory" in result.err
    assert "XDG_CACHE_HOME" in result.err


def test_an_error_that_is_a_bug_keeps_its_traceback() -> None:
    assert errors.of_the_machine(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
    full = errors.of_the_machine(OSError(errno.ENOSPC, "No space left on device"))
    assert full is not None
    assert (full.message, full.hint.partition(",")[0]) == ("No space left on device", "make room on its disk")


def test_the_cache_has_a_size_bound(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    big = "X = '" + os.urandom(400_000).hex() + "'\n"
    for number in range(4):
        wheel(tmp_path / "wheels", code=f"{big}N = {number}\n")
        result = bare_stoker("build", "hello", "-o", f"{number}.zip", STOKER_CACHE_MIB="1")
        built(result, tmp_path / f"{number}.zip")
    kept = entries(tmp_path)
    assert len(kept) == 2  # each is over 400 kB: two fit into 1 MiB, the third does not
    again = bare_stoker("build", "hello", "-o", "last.zip", STOKER_INSTALLER=NO_INSTALLER)
    built(again, tmp_path / "last.zip")  # the one just made was kept


def test_what_an_interrupted_run_left_goes_after_a_day(bare_stoker: Stoker, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "stoker" / "deps"
    for name, age_s in (("partial-old", 2 * 86_400), ("partial-new", 60)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - age_s,) * 2)
    built(bare_stoker("build", "hello", "-o", "1.zip"), tmp_path / "1.zip")
    assert sorted(p.name for p in root.iterdir() if p.name.startswith("partial-")) == ["partial-new"]


def test_two_builds_at_once_both_work(environment: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "build", "hello", "--output", "json", "-o"]
    running = [
        subprocess.Popen(
            [*command, f"{n}.zip"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for n in range(2)
    ]
    digests = set()
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        digests.add(json.loads(out)["digest"])
    assert len(digests) == 1
    assert len(entries(tmp_path)) == 1


def test_only_fdk_needs_no_installer(bare_stoker: Stoker, function: Path) -> None:
    result = bare_stoker("build", "hello", "-o", "x.zip", STOKER_INSTALLER=NO_INSTALLER)
    assert (result.code, result.err) == (0, "")
    assert "  dependencies  none (" in result.out


@pytest.mark.slow
def test_a_real_package_of_pypi(bare_stoker: Stoker, function: Path, tmp_path: Path) -> None:
    (function / "requirements.txt").write_text("fdk\nidna==3.10\n")
    # The machine's own way to its package index: variables, or files in the home.
    ours = {
        name: value
        for name, value in os.environ.items()
        if re.match("HOME|PIP_|UV_|SSL_|HTTPS?_PROXY|https?_proxy", name)
    }
    result = bare_stoker("build", "hello", "-o", "x.zip", **ours)
    if result.code and "cannot be reached" in result.err:
        pytest.skip("no package index can be reached")
    names = built(result, tmp_path / "x.zip")
    assert "python/idna/core.py" in names
