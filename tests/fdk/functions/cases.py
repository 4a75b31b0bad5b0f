"""What the functions in this directory share: a registry of cases, and the headers of gateway mode."""

import json
from dataclasses import dataclass, field

from fdk import response


@dataclass
class Case:
    function: object
    headers: list = field(default_factory=list)
    body: bytes = b""
    answered: bool = True
    """Whether the official FDK answers, and answers all that its answer announces."""


class Cases(dict):
    """Case by name; ``run`` finds the one that a call asks for by its ``x-case`` header."""

    def case(self, *request_headers, body=b"", answered=True, name=None):
        def register(function):
            self[name or function.__name__] = Case(function, list(request_headers), body, answered)
            return function

        return register

    def run(self, ctx, data):
        return self[ctx.Headers()["x-case"]].function(ctx, data)


GATEWAY = [
    ("Fn-Intent", "httprequest"),
    ("Fn-Http-Method", "PUT"),
    ("Fn-Http-Request-Url", "http://fn.example/t/app/t1?q=1&r=a%20b"),
    ("Fn-Http-H-Host", "fn.example"),
    ("Fn-Http-H-X-Client", "one"),
    ("Fn-Http-H-Accept", "text/html"),
    ("Fn-Http-H-Content-Length", "2"),
    ("Fn-Http-H-Fn-Invoke-Type", "detached"),
    ("X-Plain", "plain"),
    ("Accept", "kept out"),
]


def as_json(ctx, value):
    return response.Response(
        ctx, response_data=json.dumps(value, sort_keys=True), headers={"Content-Type": "application/json"}
    )
