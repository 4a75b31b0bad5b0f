"""The files of a new function, for each kind that ``stoker init`` makes."""

from __future__ import annotations

from cli.kinds import family

PYTHON = '''import io
import json
import logging

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """Greet the one who is named in the body, a JSON object such as {"name": "Ada"}."""
    name = "World"
    try:
        name = json.loads(data.getvalue()).get("name", name)
    except (ValueError, AttributeError) as exc:
        logging.getLogger().info("no name in the body: %s", exc)

    return response.Response(
        ctx,
        response_data=json.dumps({"message": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
'''
NODE = """const fdk = require('@fnproject/fdk');

// Greet the one who is named in the body, a JSON object such as {"name": "Ada"}.
fdk.handle(function (input) {
  const name = input && input.name ? input.name : 'World';
  return { message: 'Hello ' + name };
});
"""
PACKAGE = """{
  "name": "%s",
  "version": "1.0.0",
  "private": true,
  "main": "func.js",
  "dependencies": {
    "@fnproject/fdk": ">=0.0.76"
  }
}
"""
EXECUTABLE = '''#!/usr/bin/env python3
"""A function as a program of its own: HTTP/1.1 on the unix socket that FN_LISTENER names, POST /call for each call.

Replace it by any program that does the same: a binary, a shell script, another language. The contract:
https://github.com/fnproject/docs/blob/master/fn/develop/fn-format.md
"""

import http.server
import json
import os
import socketserver

listener = os.environ["FN_LISTENER"].removeprefix("unix:")
own = os.path.join(os.path.dirname(listener), "phony.sock")


class Call(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            name = json.loads(body)["name"]
        except (ValueError, KeyError, TypeError):
            name = "World"
        answer = json.dumps({"message": f"Hello {name}"}).encode()
        self.send_response(200)  # 502: the function failed; 504: it took too long
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self):
        return "-"


class Server(socketserver.UnixStreamServer):
    pass


with Server(own, Call) as server:
    os.chmod(own, 0o666)
    os.symlink(os.path.basename(own), listener)  # ready: it must appear when the program listens, not before
    server.serve_forever()
'''


def files(function: str, runtime: str) -> dict[str, tuple[str, bool]]:
    """Name -> text and whether it is executable; for python, node and exec."""
    match family(runtime):
        case "":
            return {"func.py": (PYTHON, False), "requirements.txt": ("fdk>=0.1.128\n", False)}
        case "node":
            return {"func.js": (NODE, False), "package.json": (PACKAGE % function, False)}
        case "exec":
            return {"func": (EXECUTABLE, True)}
    raise AssertionError(f"no template for {runtime}")


def start_lines(runtime: str) -> list[str]:
    """The lines of func.yaml about the image, which keep the directory deployable by ``fn``, and the entrypoint."""
    match family(runtime):
        case "":
            minor = runtime.removeprefix("python") or "3.12"
            return [
                f"build_image: fnproject/python:{minor}-dev",
                f"run_image: fnproject/python:{minor}",
                "entrypoint: /python/bin/fdk /function/func.py handler",
            ]
        case "node":
            version = runtime.removeprefix("node") or "24"
            return [
                f"build_image: fnproject/node:{version}-dev",
                f"run_image: fnproject/node:{version}",
                "entrypoint: node func.js",
            ]
    return ["entrypoint: ./func"]
