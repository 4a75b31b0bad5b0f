"""Sign-in links work once, for a while, and only so many at once; sessions end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.auth.permissions import Principal
from daemon.console import forms
from daemon.console.sessions import LINK_S, LINKS_MAX, SESSION_S, SESSIONS_MAX, Sessions
from daemon.errors import BadRequest, Conflict, Forbidden, QueueFull
from daemon.http.views import ApiRequest

ANNA = Principal(kind="user", id="u1", name="anna")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(clock)


def test_a_link_opens_one_session_as_who_made_it(sessions: Sessions) -> None:
    token = sessions.link(ANNA)
    assert sessions.principal(token) is None, "a link is no session"
    secret = sessions.redeem(token)
    assert sessions.principal(secret) == ANNA
    with pytest.raises(Forbidden, match="used before"):
        sessions.redeem(token)


def test_links_and_sessions_end(sessions: Sessions, clock: Clock) -> None:
    late = sessions.link(ANNA)
    secret = sessions.redeem(sessions.link(ANNA))
    clock.now_s += LINK_S
    with pytest.raises(Forbidden):
        sessions.redeem(late)
    clock.now_s += SESSION_S - LINK_S - 1
    assert sessions.principal(secret) == ANNA
    clock.now_s += 1
    assert sessions.principal(secret) is None


def test_signing_out(sessions: Sessions) -> None:
    secret = sessions.redeem(sessions.link(ANNA))
    sessions.end(secret)
    sessions.end("never was one \udcff")
    assert sessions.principal(secret) is None


def test_there_are_only_so_many(sessions: Sessions, clock: Clock) -> None:
    for _ in range(LINKS_MAX):
        sessions.link(ANNA)
    with pytest.raises(QueueFull):
        sessions.link(ANNA)
    clock.now_s += LINK_S
    first = sessions.redeem(sessions.link(ANNA))
    for _ in range(SESSIONS_MAX - 1):
        sessions.redeem(sessions.link(ANNA))
    assert sessions.principal(first) == ANNA
    sessions.redeem(sessions.link(ANNA))
    assert sessions.principal(first) is None, "the oldest one has ended"


# -- forms


def form(body: str, cookie: str = "stoker_form=" + "t" * 32, kind: str = forms.FORM_TYPE) -> ApiRequest:
    return ApiRequest(
        method="POST", path="/console/apps", headers={"content-type": kind, "cookie": cookie}, body=body.encode()
    )


def test_a_form_of_ours() -> None:
    assert forms.parse(form("stoker_form=" + "t" * 32 + "&name=a%20b&empty=")) == {"name": "a b", "empty": ""}


@pytest.mark.parametrize(
    ("body", "cookie"),
    [
        ("name=x", "stoker_form=" + "t" * 32),
        ("stoker_form=&name=x", ""),
        ("stoker_form=&name=x", "stoker_form="),
        ("stoker_form=other&name=x", "stoker_form=" + "t" * 32),
        ("stoker_form=" + "t" * 32, "other=1"),
        ("stoker_form=" + "t" * 32, "stoker_form=\x00;;;=="),
    ],
)
def test_a_form_that_was_not_sent_by_our_page(body: str, cookie: str) -> None:
    with pytest.raises(Forbidden):
        forms.parse(form(body, cookie))


def test_what_is_no_form() -> None:
    for body, kind in (("{}", "application/json"), ("a=1&" * 100, forms.FORM_TYPE), ("a=1", "text/plain")):
        with pytest.raises(BadRequest):
            forms.parse(form(body, kind=kind))
    with pytest.raises(BadRequest, match="memory: must be a whole number from 1 to 10, not '1e3'"):
        forms.whole({"memory": "1e3"}, "memory", low=1, high=10)
    with pytest.raises(BadRequest, match="config: each line must be KEY=VALUE"):
        forms.pairs({"config": "A=1\nnonsense"}, "config")
    assert forms.pairs({"config": "A=1=2\r\n\r\nB=\n"}, "config") == {"A": "1=2", "B": ""}


def test_all_that_a_principal_opened_ends_at_once(sessions: Sessions) -> None:
    other = sessions.redeem(sessions.link(Principal(kind="user", id="u2", name="bert")))
    secret, waiting = sessions.redeem(sessions.link(ANNA)), sessions.link(ANNA)
    sessions.end_all(ANNA.id)
    assert sessions.principal(secret) is None
    assert sessions.principal(other) is not None
    with pytest.raises(Forbidden):
        sessions.redeem(waiting)


@given(
    st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=8), max_size=6),
    st.dictionaries(
        st.from_regex(r"[A-Z_]{1,4}", fullmatch=True), st.sampled_from(["", "x", "a=b", "1\n2"]), max_size=6
    ),
)
def test_a_configuration_comes_back_from_its_form_as_it_was(wild: dict[str, str], tame: dict[str, str]) -> None:
    config = {**wild, **tame}
    sent = {"config": forms.text_of(config).replace("\n", "\r\n")}
    change = forms.merged(config, forms.pairs(sent, "config"))
    after = {key: value for key, value in {**config, **change}.items() if value or key not in change}
    assert after == config


def test_a_form_that_would_undo_the_change_of_another_is_refused_once() -> None:
    shown, now = {"memory": "128", "config": "A=1"}, {"memory": "128", "config": "A=2"}
    mine = {"memory": "256", "config": "A=1", forms.MARK: forms.mark(shown)}
    with pytest.raises(Conflict) as refused:
        forms.check_unchanged(mine, now)
    assert "config: A=2" in refused.value.detail
    forms.check_unchanged({**mine, forms.MARK: forms.mark(now)}, now)  # seen, and sent again
    forms.check_unchanged(mine, {"memory": "256", "config": "A=1"})  # sent twice: it is so already
    forms.check_unchanged(mine, shown)
