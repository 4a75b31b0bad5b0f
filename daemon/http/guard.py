"""May this request use this listener? Host and Origin, so that a web page cannot call a local function. Pure.

Until requests are signed, who reaches the port may run code. A browser reaches it from any web page, in two ways: the
page's own name is made to point to 127.0.0.1 (DNS rebinding; Host betrays it), or it simply sends a cross-site request
whose answer it cannot read but whose effect it gets (Origin or Sec-Fetch-Site betray it).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from daemon.config.settings import Http
from daemon.errors import Forbidden

__all__ = ["Guard"]


class Guard:
    """The rules of one listener configuration."""

    __slots__ = ("_allowed", "_insecure", "_known")

    def __init__(self, http: Http) -> None:
        self._insecure = http.insecure
        self._allowed = frozenset(_host_name(name) for name in http.allowed_hosts)
        self._known = lru_cache(maxsize=256)(self._is_ours)

    def check(self, *, host: str | None, origin: str | None, fetch_site: str | None, unix: bool) -> None:
        """Let a request pass, or raise.

        POLICY: ``host`` must be a loopback name or address or one of ``http.allowed_hosts``; any will do with
        ``http.insecure``, on a unix socket, and None (HTTP/1.0 without Host: no browser sends that). An ``origin`` must
        be the very host that is asked, loopback, or an allowed host; without one, a cross-site fetch is refused.

        Raises:
          Forbidden: the request comes by a foreign name or from a foreign page.
        """
        if not (unix or self._insecure or host is None or self._known(host)):
            raise Forbidden(
                f"host {host!r} is not allowed",
                detail="loopback names and http.allowed_hosts are; or use the unix socket",
            )
        if origin is not None:
            scheme, slashes, origin_host = origin.partition("://")
            if scheme not in ("http", "https") or not slashes or not (origin_host == host or self._known(origin_host)):
                raise Forbidden(
                    f"origin {origin!r} is not allowed",
                    detail="pages of this machine and of http.allowed_hosts may call functions",
                )
        elif fetch_site == "cross-site":
            raise Forbidden("cross-site request is not allowed", detail="Sec-Fetch-Site: cross-site without an Origin")

    def _is_ours(self, host: str) -> bool:
        name = _host_name(host)
        return name in self._allowed or _is_loopback(name)


def _host_name(host: str) -> str:
    """A Host header's name or address: no port, no brackets, no final dot, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3: always loopback
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
