"""The Fn server's environment settings: honoured, without effect, or refused, each by its name."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from daemon.config import fn_settings
from daemon.config.file import load
from daemon.config.settings import SECTIONS, ConfigError
from tests.system.daemon import ROOT, run_daemon

SAMPLES = {
    "FN_PORT": ("9000", "127.0.0.1:9000"), "FN_PUBLIC_LB_URL": ("http://x", "http://x"),
    "FN_LOG_LEVEL": ("WARN", "warning"),
    "FN_LOG_FORMAT": ("json", "json"), "FN_MAX_REQUEST_SIZE": ("1000", 1000),
    "FN_MAX_REQUEST_HEADER_SIZE": ("2000", 2000),
    "FN_REQUEST_BODY_READ_TIMEOUT": ("1m30s", 90.0), "FN_REQUEST_HEADER_READ_TIMEOUT": ("250ms", 0.25),
    "FN_RESPONSE_WRITE_TIMEOUT": ("5000000000", 5.0), "FN_HTTP_IDLE_TIMEOUT": ("2h", 7200.0),
    "FN_HOT_START_TIMEOUT_MSECS": ("2500", 2.5), "FN_MAX_RESPONSE_SIZE": ("3000", 3000),
    "FN_MAX_HDR_RESPONSE_SIZE": ("4000", 4000), "FN_MAX_TOTAL_MEMORY_BYTES": ("2147483648", 2048),
    "FN_FREEZE_IDLE_MSECS": ("50", 0.05),
    "FN_MAX_OPEN_FILES": ("99", 99), "FN_MAX_PIDS": ("17", 17),
    "FN_ZIPKIN_URL": ("http://127.0.0.1:9411/api/v2/spans", "http://127.0.0.1:9411/api/v2/spans"),
}  # fmt: skip


def never(path: str) -> str:
    raise AssertionError(path)


def test_every_honoured_setting_arrives() -> None:
    assert set(SAMPLES) == set(fn_settings.HONOURED)
    environ, warnings = fn_settings.translate({name: value for name, (value, _) in SAMPLES.items()}, never)
    assert warnings == []
    made = load("", source="test", environ=environ)
    for name, (_, expected) in SAMPLES.items():
        section, _, key = fn_settings.HONOURED[name].setting.partition(".")
        assert getattr(getattr(made, section), key) == expected, name
    assert made.tracing.functions == "all", "as Fn traces"


@pytest.mark.parametrize(("text", "expected"), [("-1", 0.0), ("0", 0.001), ("1500", 1.5)])
def test_freezing_is_off_below_zero_and_at_once_at_zero(text: str, expected: float) -> None:
    environ, warnings = fn_settings.translate({"FN_FREEZE_IDLE_MSECS": text}, never)
    assert warnings == []
    assert load("", source="test", environ=environ).limits.freeze_s == expected


def test_what_they_point_at_exists() -> None:
    for name, honoured in fn_settings.HONOURED.items():
        section, _, key = honoured.setting.partition(".")
        assert key in {field.name for field in fields(SECTIONS[section])}, name
    known = {field.name for section in SECTIONS.values() for field in fields(section)}
    for text in fn_settings.IGNORED.values():
        for section, key in re.findall(r"\b(limits|logs|http|bundles)\.([a-z_]+)", text):
            assert key in known, f"{section}.{key}"


def test_our_own_settings_win() -> None:
    assert fn_settings.translate({"FN_PORT": "1", "STOKER_HTTP_LISTEN": "127.0.0.1:2"}, never) == ({}, [])


def test_zero_and_empty_mean_the_default() -> None:
    environ = {"FN_MAX_REQUEST_SIZE": "0", "FN_PORT": "", "FN_HTTP_IDLE_TIMEOUT": "0"}
    assert fn_settings.translate(environ, never) == ({}, [])


@pytest.mark.parametrize("name", fn_settings.IGNORED)
def test_what_has_no_effect_is_told(name: str) -> None:
    environ, warnings = fn_settings.translate({name: "1"}, never)
    assert environ == {}
    assert warnings[0].startswith(f"{name} has no effect here: ")


@pytest.mark.parametrize("name", fn_settings.REFUSED)
def test_what_would_not_happen_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=postgres://x: not supported: "):
        fn_settings.translate({name: "postgres://x"}, never)


def test_fns_defaults_ask_for_nothing() -> None:
    environ = {"FN_NODE_TYPE": "full", "FN_DB_URL": "sqlite3:///app/data/fn.db", "FN_LOG_DEST": "stderr"}
    assert fn_settings.translate(environ, never) == ({}, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FN_PORT", "x"),
        ("FN_PORT", "70000"),
        ("FN_LOG_LEVEL", "loud"),
        ("FN_HTTP_IDLE_TIMEOUT", "5 s"),
        ("FN_MAX_PIDS", "-1"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be "):
        fn_settings.translate({name: value}, never)


def test_a_value_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("9001\n")
    found, _ = fn_settings.translate({"FN_PORT_FILE": str(tmp_path / "port")}, lambda path: Path(path).read_text())
    assert found == {"STOKER_HTTP_LISTEN": "127.0.0.1:9001"}
    with pytest.raises(ConfigError, match="FN_PORT_FILE: cannot read"):
        fn_settings.translate({"FN_PORT_FILE": "/no/such"}, lambda path: Path(path).read_text())


def test_the_settings_of_the_clis_own_are_not_looked_at() -> None:
    environ = {"FN_API_URL": "http://x", "FN_REGISTRY": "r", "FN_TOKEN": "t", "FN_CONTEXT": "c"}
    assert fn_settings.translate(environ, never) == ({}, [])


@pytest.mark.processes
def test_a_daemon_with_fns_settings(tmp_path: Path) -> None:
    variables = {"FN_PUBLIC_LB_URL": "http://public.example/base/", "FN_MAX_REQUEST_SIZE": "10", "FN_GRPC_PORT": "9190"}
    with run_daemon(tmp_path / "data", env=variables) as daemon:
        function_id = daemon.deploy("f", "def handler(ctx, data=None):\n    return data.read()\n")
        assert daemon.invoke(function_id, b"x" * 10).status == 200
        assert daemon.invoke(function_id, b"x" * 11).status == 413
        shown = daemon.api("GET", f"/v2/fns/{function_id}")["annotations"]["fnproject.io/fn/invokeEndpoint"]
        assert shown == f"http://public.example/base/invoke/{function_id}"
        assert "FN_GRPC_PORT has no effect here" in daemon.stderr()


def test_a_daemon_that_is_asked_for_the_impossible(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon.main", "--data", str(tmp_path), "--check-config"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin", "FN_DB_URL": "postgres://u@h/db"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("stokerd: FN_DB_URL=postgres://u@h/db: not supported: the database is a file")
