"""Host and Origin: who may use the listener."""

from __future__ import annotations

import pytest

from daemon.config.settings import Http
from daemon.errors import Forbidden
from daemon.http.guard import Guard

GOOD_HOSTS = [
    "localhost", "LOCALHOST", "localhost:8080", "localhost.", "localhost.:8080", "app.localhost", "127.0.0.1",
    "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:8080", "functions.example", "Functions.Example:8443", "10.1.2.3:80",
]  # fmt: skip
BAD_HOSTS = [
    "evil.example", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example", "0.0.0.0", "10.1.2.4", "[::]",
    "[::2]", "128.0.0.1", "2130706433", "127.1", "0x7f.1", "::1", "functions.example.evil.example", "notlocalhost", ".",
]  # fmt: skip


def guard(**settings: object) -> Guard:
    return Guard(Http(allowed_hosts=("functions.example", "10.1.2.3"), **settings))  # type: ignore[arg-type]


def passes(
    guard: Guard, host: str | None, origin: str | None = None, site: str | None = None, *, unix: bool = False
) -> bool:
    try:
        guard.check(host=host, origin=origin, fetch_site=site, unix=unix)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_loopback_and_listed_hosts_pass(host: str) -> None:
    assert passes(guard(), host)


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_other_hosts_pass_only_where_told(host: str) -> None:
    assert not passes(guard(), host)
    assert passes(guard(insecure=True), host)
    assert passes(guard(), host, unix=True)


def test_a_client_without_host_is_no_browser() -> None:
    assert passes(guard(), None)


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("http://localhost:8080", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:5000", True),
        ("https://functions.example", True),
        ("http://evil.example", False),
        ("https://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("chrome-extension://localhost", False),
        ("localhost", False),
        ("http:localhost", False),
    ],
)
@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("insecure", [False, True])
def test_an_origin_must_be_ours_everywhere(origin: str, good: bool, unix: bool, insecure: bool) -> None:
    assert passes(guard(insecure=insecure), "localhost:8080", origin, unix=unix) is good


def test_the_same_origin_passes_under_any_name() -> None:
    assert passes(guard(insecure=True), "functions.test:8080", "http://functions.test:8080")
    assert not passes(guard(insecure=True), "functions.test:8080", "http://functions.test:8081")


@pytest.mark.parametrize(
    ("site", "origin", "good"),
    [
        ("cross-site", None, False),
        ("cross-site", "http://localhost:3000", True),
        ("cross-site", "http://evil.example", False),
        ("same-origin", None, True),
        ("same-site", None, True),
        ("none", None, True),
    ],
)
def test_a_cross_site_fetch_needs_an_origin_of_ours(site: str, origin: str | None, good: bool) -> None:
    assert passes(guard(), "127.0.0.1:8080", origin, site) is good
