"""One HTTP POST to somewhere else: what destinations and the export of spans need, and no more.

A connection per request, HTTP/1.1 by h11 (which Hypercorn brings along), TLS by the system's certificates. No
redirects, no proxies, no cookies: an address is where it says.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import h11
import trio

from daemon import VERSION
from daemon.outward import Inward, open_stream

REPLY_BYTES_MAX = 256 * 2**10
"""Of a reply this much is read, to let the other end finish; what is beyond is not waited for."""
RECV_BYTES = 16384


class PostFailed(Exception):
    """It cannot be told that the message arrived; the text says why."""


class PostRefused(PostFailed):
    """It may not be sent there, now or later."""


async def post(
    url: str, *, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float, outward: bool = False
) -> int:
    """Send and return the status of the reply. ``outward``: not to this machine or its link (`daemon.outward`).

    Raises:
      PostFailed: no connection, no valid reply, or no reply within ``timeout_s``.
    """
    try:
        with trio.fail_after(timeout_s):
            return await _post(url, headers, body, outward)
    except trio.TooSlowError:
        raise PostFailed(f"no reply within {timeout_s:g} s") from None
    except Inward as exc:
        raise PostRefused(str(exc)) from exc
    except (OSError, ssl.SSLError) as exc:
        raise PostFailed(f"cannot connect: {_reason(exc)}") from exc
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise PostFailed(f"connection lost: {_reason(exc.__cause__ or exc)}") from exc
    except h11.RemoteProtocolError as exc:
        raise PostFailed(f"not a valid HTTP reply: {exc}") from exc
    except (h11.LocalProtocolError, ValueError) as exc:
        raise PostFailed(f"cannot be sent: {exc}") from exc


async def _post(url: str, headers: Sequence[tuple[str, str]], body: bytes, outward: bool) -> int:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = [
        ("Host", parts.netloc.rpartition("@")[2]), ("User-Agent", f"stoker/{VERSION}"), ("Connection", "close"),
        ("Content-Length", str(len(body))), *headers,
    ]  # fmt: skip
    stream: trio.abc.Stream = await (open_stream if outward else trio.open_tcp_stream)(host, port)
    if secure:
        stream = trio.SSLStream(stream, _tls(), server_hostname=host, https_compatible=True)
    try:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="POST", target=target, headers=sent)
        await stream.send_all((connection.send(request) or b"") + (connection.send(h11.Data(data=body)) or b""))
        connection.send(h11.EndOfMessage())
        return await _status(connection, stream)
    finally:
        with trio.move_on_after(0.2, shield=True):
            await stream.aclose()


async def _status(connection: h11.Connection, stream: trio.abc.Stream) -> int:
    status, received = 0, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(RECV_BYTES)
            received += len(data)
            if received > REPLY_BYTES_MAX and status:
                return status
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.EndOfMessage):
            return status
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection was closed before a reply")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _reason(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
