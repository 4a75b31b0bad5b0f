"""Functions that answer with a `Response`, and what they put into it.

To run under this FDK and under the official one. Standard library and ``fdk`` only; no asyncio.
"""

import io
import os
import sys

from fdk import context, errors, headers, response

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from cases import GATEWAY, Cases, as_json

CASES = Cases()
case = CASES.case


def handler(ctx, data: io.BytesIO = None):  # noqa: RUF013  as Fn's documentation and samples write it
    return CASES.run(ctx, data)


class Lying:
    def __bool__(self):
        return False

    def __str__(self):
        return "lying"


class Unprintable:
    def __str__(self):
        raise ValueError("no text")


# Response in all its forms.


@case()
def responds_with_everything(ctx, data):
    return response.Response(
        ctx, response_data="made", headers={"X-One": "1", "Content-Type": "text/html"}, status_code=201
    )


@case(*GATEWAY)
def responds_in_gateway_mode(ctx, data):
    return response.Response(
        ctx,
        response_data="made",
        headers={"X-One": "1", "Content-Type": "text/html", "Location": "/there", "X-Two": ["a", "b"]},
        status_code=302,
    )


@case(*GATEWAY)
def returns_text_in_gateway_mode(ctx, data):
    return "hello"


@case(*GATEWAY)
def sets_headers_and_returns_in_gateway_mode(ctx, data):
    ctx.SetResponseHeaders({"X-One": "1", "Content-Type": "text/html"}, 418)
    return "teapot"


@case(*GATEWAY)
def sets_headers_twice_in_gateway_mode(ctx, data):
    ctx.SetResponseHeaders({"X-One": "1", "X-Two": "2"}, 201)
    ctx.SetResponseHeaders({"x-one": "3"}, 202)
    return response.Response(ctx, "x", headers={"Fn-Http-H-Own": "prefixed", "Fn-Http-Status": "999"}, status_code=203)


@case(*GATEWAY)
def raises_in_gateway_mode(ctx, data):
    ctx.SetResponseHeaders({"X-Before": "1"}, 200)
    raise ValueError("gateway")


def with_status(code):
    @case(name=f"responds_with_status_{code}")
    @case(*GATEWAY, name=f"responds_behind_a_gateway_with_status_{code}")
    def responds(ctx, data):
        return response.Response(ctx, f"status {code}", status_code=code)


for _code in (100, 200, 204, 304, 404, 500, 502, 504, 599, 0, "200", "502", 502.0, None, True):
    with_status(_code)


def with_data(name, value):
    @case(name=f"responds_with_{name}")
    def responds(ctx, data):
        return response.Response(ctx, response_data=value, headers={"X-Set": "yes"})


for _name, _value in {
    "none": None,
    "zero": 0,
    "false": False,
    "empty_text": "",
    "empty_bytes": b"",
    "bytearray": bytearray(b"\xff\x00"),
    "dict": {"a": "ż"},
    "list": [1],
    "number": 7,
    "object": Lying(),
    "text_with_nul": "a\0b",
}.items():
    with_data(_name, _value)


@case()
def responds_in_another_encoding(ctx, data):
    return response.Response(ctx, "żółć", response_encoding="utf-16-le")


@case()
def responds_in_an_encoding_that_cannot(ctx, data):
    return response.Response(ctx, "żółć", response_encoding="ascii")


@case()
def responds_in_an_unknown_encoding(ctx, data):
    return response.Response(ctx, "x", response_encoding="no-such")


@case()
def mutates_the_headers_it_gave(ctx, data):
    mine = {"X-One": "1"}
    made = response.Response(ctx, "x", headers=mine)
    seen = sorted(mine)
    mine["X-Late"] = "2"
    made.response_data = ",".join(seen)
    return made


@case()
def mutates_the_response(ctx, data):
    made = response.Response(ctx, "x")
    made.response_data = "changed"
    made.status_code = 504
    return made


@case()
def asks_its_response(ctx, data):
    made = response.Response(ctx, {"a": 1}, status_code=203)
    return as_json(
        ctx,
        [
            made.status(),
            made.body(),
            made.body_bytes().decode(),
            made.context() is ctx,
            made.response_encoding,
            response.Response(ctx, None).body(),
        ],
    )


@case()
def sends_odd_header_values(ctx, data):
    return response.Response(
        ctx, "x", headers={"X-List": ["a", "b"], "X-Int": 5, "X-None": None, "X-Bytes": b"b", "X-Float": 1.5}
    )


@case()
def sends_unicode_header_values(ctx, data):
    return response.Response(ctx, "x", headers={"X-Utf": "zażółć 漢", "X-Latin": "caf\xe9", "X-Empty": ""})


@case()
def sends_a_surrogate_in_a_header(ctx, data):
    return response.Response(ctx, "x", headers={"X-Bad": "\ud800"})


@case()
def sends_an_unprintable_header(ctx, data):
    return response.Response(ctx, "x", headers={"X-Bad": Unprintable()})


@case()
def sends_a_line_break_in_a_header(ctx, data):
    return response.Response(ctx, "x", headers={"X-Bad": "a\r\nX-Injected: yes"})


@case()
def sends_a_header_name_with_a_space(ctx, data):
    return response.Response(ctx, "x", headers={"X Bad": "a"})


@case()
def sends_a_header_name_that_is_a_number(ctx, data):
    return response.Response(ctx, "x", headers={1: "a"})


@case()
def sends_headers_that_are_a_list(ctx, data):
    return response.Response(ctx, "x", headers=[("X-One", "1")])


@case()
def sends_no_content_type(ctx, data):
    return response.Response(ctx, "x", headers={"Content-Type": None})


@case()
def sends_an_empty_content_type(ctx, data):
    return response.Response(ctx, "x", headers={"content-type": ""})


@case()
def sends_the_same_header_in_two_cases(ctx, data):
    return response.Response(ctx, "x", headers={"X-Case": "upper", "x-case": "lower", "X-CASE": "shout"})


@case()
def sends_the_right_content_length(ctx, data):
    return response.Response(ctx, "12345", headers={"Content-Length": "5"})


@case()
def sends_a_content_length_too_short(ctx, data):
    return response.Response(ctx, "12345", headers={"Content-Length": "2"})


@case(answered=False)
def sends_a_content_length_too_long(ctx, data):
    return response.Response(ctx, "12345", headers={"Content-Length": "500"})


@case()
def sends_transfer_encoding(ctx, data):
    return response.Response(ctx, "12345", headers={"Transfer-Encoding": "chunked"})


@case()
def sends_its_own_fdk_version(ctx, data):
    return response.Response(ctx, "x", headers={"Fn-Fdk-Version": "mine", "fn-fdk-runtime": "mine"})


@case(("X-Echo", "1"), ("Content-Type", "text/csv"), body=b"four")
def sends_the_request_headers_back(ctx, data):
    return response.Response(ctx, "four", headers=ctx.Headers())


@case()
def sets_headers_and_returns(ctx, data):
    ctx.SetResponseHeaders({"X-One": "1", "Content-Type": "text/csv"}, 200)
    return "a,b"


@case()
def writes_into_the_response_headers(ctx, data):
    ctx.GetResponseHeaders()["x-one"] = "1"
    return "x"


@case()
def writes_upper_case_into_the_response_headers(ctx, data):
    ctx.GetResponseHeaders()["X-One"] = "1"
    return "x"


@case()
def writes_into_the_headers_of_a_response(ctx, data):
    made = response.Response(ctx, "x", headers={"X-One": "lower", "X-Two": "2"})
    made.context().GetResponseHeaders().update({"X-One": "upper", "X-ONE": "shout", 7: 8})
    return made


@case()
def writes_upper_case_before_its_response(ctx, data):
    ctx.GetResponseHeaders()["X-One"] = "early"
    return response.Response(ctx, "x", headers={"x-one": "late"})


kept = []


@case()
def returns_a_response_of_an_earlier_call(ctx, data):
    if not kept:
        old = context.InvokeContext("a", "b", "c", "d", "e")
        kept.append(response.Response(old, "old", headers={"X-Old": "yes"}, status_code=502))
    return kept[0]


class Custom(response.Response):
    def body_bytes(self):
        return b"custom"


@case()
def returns_a_subclass_of_response(ctx, data):
    return Custom(ctx, "ignored", status_code=504)


class Wrong(response.Response):
    def body_bytes(self):
        return "text"


@case()
def returns_a_response_whose_bytes_are_text(ctx, data):
    return Wrong(ctx, "x")


@case()
def returns_a_dispatch_exception(ctx, data):
    return errors.DispatchException(ctx, 504, "late").response()


@case()
def raises_a_dispatch_exception(ctx, data):
    raise errors.DispatchException(ctx, 504, "late")


@case(*GATEWAY)
def uses_the_header_helpers(ctx, data):
    pushed = {}
    for value in ("a", "b", ["c"], [], "d"):
        headers.push_header(pushed, "k", value)
    return as_json(
        ctx,
        [
            headers.encap_headers({"A": 1, "fn-http-h-a": 2, "Content-Type": "t"}, status=201),
            headers.decap_headers({"Fn-Http-H-A": 1, "a": 2, "fn-http-h-a": 3}, False),
            headers.decap_headers({"a": 2, "Fn-Http-H-A": 1}),
            headers.decap_headers(None),
            headers.encap_headers(None),
            pushed,
        ],
    )
