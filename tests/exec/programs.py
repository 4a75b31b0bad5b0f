"""Programs that follow the Fn contract, or break it, as bundles."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Mapping, Sequence

RECORDER = '''#!/usr/bin/env python3
"""Without an FDK: answers every request with the very bytes that it got."""
import os, socket, sys
path = os.environ["FN_LISTENER"][len("unix:"):]
own = path + ".own"
s = socket.socket(socket.AF_UNIX)
s.bind(own)
os.chmod(own, 0o666)
s.listen(16)
os.symlink(os.path.basename(own), path)
connections = 0
while True:
    c, _ = s.accept()
    connections += 1
    requests, got = 0, b""
    while data := c.recv(65536):
        got += data
        if b"\\r\\n\\r\\n" not in got:
            continue
        head, rest = got.split(b"\\r\\n\\r\\n", 1)
        if b"Transfer-Encoding: chunked" in head and not rest.endswith(b"0\\r\\n\\r\\n"):
            continue
        requests += 1
        body = b"[connection %d request %d]\\n" % (connections, requests) + got
        c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: %d\\r\\n"
                  b"Fn-Http-Status: 200\\r\\nFn-Http-H-X-Via-H: one\\r\\nX-Plain: two\\r\\n\\r\\n" % len(body) + body)
        got = b""
    c.close()
'''

FRAME = '''#!/usr/bin/env python3
"""A small server for one-shot connections or several calls; what it answers is `answer`."""
import os, socket, sys, time
directory, name = os.path.split(os.environ["FN_LISTENER"][len("unix:"):])
os.chdir(directory)
ME = os.urandom(8).hex().encode()  # instances have the same pid, each in a namespace of its own

def listen(own="own.sock", link=True):
    s = socket.socket(socket.AF_UNIX)
    s.bind(own)
    os.chmod(own, 0o666)
    s.listen(16)
    if link:
        os.symlink(own, name)
    return s

def request(c):
    """Head and body of the next request; (b"", b"") at the end."""
    got = b""
    while True:
        while b"\\r\\n\\r\\n" not in got:
            data = c.recv(65536)
            if not data:
                return b"", b""
            got += data
        head, rest = got.split(b"\\r\\n\\r\\n", 1)
        if b"chunked" not in head:
            return head, b""
        while not rest.endswith(b"0\\r\\n\\r\\n"):
            rest += c.recv(65536)
        body = b""
        while True:
            size, rest = rest.split(b"\\r\\n", 1)
            if int(size, 16) == 0:
                return head, body
            body, rest = body + rest[:int(size, 16)], rest[int(size, 16) + 2:]

def reply(body=b"ok", status=b"200 OK", headers=b""):
    return b"HTTP/1.1 " + status + b"\\r\\n" + headers + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body

CHUNKED = b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"

def serve(answer, s=None):
    """`answer(c, head, body)` writes; False: the connection is closed."""
    s = s or listen()
    while True:
        c, _ = s.accept()
        while True:
            head, body = request(c)
            if not head or answer(c, head, body) is False:
                break
        c.close()

'''


def bundle(
    command: Sequence[str],
    files: Mapping[str, str | bytes],
    *,
    runtime: str = "exec",
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """A bundle that starts ``command``; files of ``function/`` (or, with a slash in front, of the bundle) as 0755."""
    note = {"runtime": runtime, "command": list(command), "environment": dict(environment or {})}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("function/.stoker.json", json.dumps(note))
        for name, content in files.items():
            info = zipfile.ZipInfo(name[1:] if name.startswith("/") else f"function/{name}")
            info.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(info, content)
    return buffer.getvalue()
