"""The annotations for network and CPU, and the filter made of them: pure."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.limit_settings import CPU, NETWORK, cpu_of, network_of
from daemon.core.network import ALLOW_MAX, DENIED, MODES, Destination, NetworkPolicy, Rule, parse, rules
from daemon.errors import BadRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["mode", "allow", "x"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_policy_or_refused(value: Any) -> None:
    try:
        policy = parse(value)
    except ValueError:
        return
    assert policy.mode in MODES
    assert len(policy.allow) <= ALLOW_MAX


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_may_be_given_alone(mode: str) -> None:
    assert parse(mode) == parse({"mode": mode}) == NetworkPolicy(mode)


def test_an_allow_list_is_hosts_with_ports_and_networks() -> None:
    policy = parse({"allow": ["10.0.0.0/8", "DB.example.com:5432", "192.0.2.7:443", "192.0.2.9"]})
    assert policy.allow == (
        Destination("10.0.0.0/8"),
        Destination("db.example.com", 5432),
        Destination("192.0.2.7", 443),
        Destination("192.0.2.9"),
    )
    assert [entry.is_name for entry in policy.allow] == [False, True, False, False]


@pytest.mark.parametrize(
    "value",
    [
        "bridge", "", 1, None, [], {"mode": "host", "allow": ["10.0.0.0/8"]}, {"allow": "10.0.0.0/8"}, {"Allow": []},
        {"allow": ["10.0.0.1/8"]}, {"allow": ["db.example.com"]}, {"allow": ["a:0"]}, {"allow": ["a:65536"]},
        {"allow": ["a:b"]}, {"allow": ["a; drop:1"]}, {"allow": ["1.2.3:1"]}, {"allow": ["::1:1"]}, {"allow": [7]},
        {"allow": ["\n:1"]}, {"allow": ["-a:1"]}, {"allow": ["a" * 300 + ":1"]}, {"allow": ["a:1"] * 33},
        {"allow": ["a:\u0661"]}, {"allow": ["300.1.1.1:1"]},
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError):
        parse(value)
    if value is not None:
        with pytest.raises(BadRequest, match=r"stoker\.dev/network"):
            network_of({NETWORK: value})


def decides(found: list[Rule], address: str, port: int) -> bool:
    for rule in found:
        in_network = not rule.network or ipaddress.IPv4Address(address) in ipaddress.IPv4Network(rule.network)
        if in_network and rule.port in (0, port):
            return rule.accept
    raise AssertionError("no rule decides")


ADDRESS = st.ip_addresses(v=4).map(str)


@given(
    ADDRESS,
    st.integers(1, 65535),
    st.lists(st.sampled_from(["0.0.0.0/0", "169.254.0.0/16", "127.0.0.1:80"]), max_size=5),
)
def test_nothing_that_is_denied_can_be_allowed(address: str, port: int, allow: list[str]) -> None:
    own = ["192.0.2.2"]
    found = rules(parse({"allow": allow}), resolvers=["192.0.2.53"], denied=own, addresses={})
    inside = any(ipaddress.IPv4Address(address) in ipaddress.IPv4Network(net) for net in (*DENIED, *own))
    if inside:
        assert not decides(found, address, port)
    elif not allow or "0.0.0.0/0" in allow:
        assert decides(found, address, port)


def test_an_allow_list_is_all_that_is_allowed_but_for_names() -> None:
    policy = parse({"allow": ["198.51.100.0/24", "db.example.com:5432", "gone.example.com:1"]})
    found = rules(policy, resolvers=["127.0.0.53"], denied=[], addresses={"db.example.com": ["203.0.113.9"]})
    assert decides(found, "198.51.100.7", 1)
    assert decides(found, "203.0.113.9", 5432)
    assert decides(found, "127.0.0.53", 53)
    assert not decides(found, "203.0.113.9", 5433)
    assert not decides(found, "127.0.0.53", 54)
    assert not decides(found, "8.8.8.8", 53)


@pytest.mark.parametrize(("value", "cores"), [(0.5, 0.5), ("2", 2.0), (1, 1.0), (None, 0.0)])
def test_cores(value: Any, cores: float) -> None:
    assert cpu_of({CPU: value} if value is not None else {}) == cores


@pytest.mark.parametrize("value", [0, -1, "half", True, [1], {}, "nan", 5000, 0.001])
def test_what_is_no_number_of_cores_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"stoker\.dev/cpu"):
        cpu_of({CPU: value})
