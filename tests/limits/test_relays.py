"""Programs that carry packets without root: found to work by trying them, as root or as an ordinary user."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import pytest

from daemon.config_network import Network
from daemon.networks import Networks, Tools

LOG = logging.getLogger("test")


def test_a_program_that_carries_packets_is_tried_not_believed_in() -> None:
    method = "slirp4netns" if os.geteuid() == 0 else "pasta"
    tools = replace(Tools.find(), **{method: "/bin/false"})
    if not os.access("/dev/net/tun", os.W_OK) or not (tools.nft or tools.iptables_restore):
        pytest.skip("no /dev/net/tun for this user, or no packet filter")
    made = Networks(Network(method=method), log=LOG, tools=tools)
    made.open()
    assert made.method == "none"
    assert "ended with code 1" in made.reason or "namespaces cannot be made" in made.reason


@pytest.mark.parametrize("method", ["pasta", "slirp4netns"])
def test_a_program_that_works_is_found_to(method: str) -> None:
    if not getattr(Tools.find(), method):
        pytest.skip(f"{method} is not installed")
    if not os.access("/dev/net/tun", os.W_OK) or (method == "pasta" and os.geteuid() == 0):
        pytest.skip("pasta does not run as root" if os.geteuid() == 0 else "no /dev/net/tun for this user")
    made = Networks(Network(method=method), log=LOG)
    made.open()
    assert (made.method, made.reason) == (method, "")
