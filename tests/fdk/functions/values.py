"""Functions and what they return, are given, and find around them.

To run under this FDK and under the official one. Standard library and ``fdk`` only; no asyncio.
"""

import contextvars
import io
import logging
import os
import sys
import threading

from fdk import context, log, response

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from cases import GATEWAY, Cases, as_json

CASES = Cases()
case = CASES.case


def handler(ctx, data: io.BytesIO = None):  # noqa: RUF013  as Fn's documentation and samples write it
    return CASES.run(ctx, data)


# What a handler returns.


@case()
def returns_text(ctx, data):
    return "hello"


@case()
def returns_unicode(ctx, data):
    return "żółć 漢字 \U0001f525"


@case()
def returns_nothing(ctx, data):
    return None


@case()
def returns_zero(ctx, data):
    return 0


@case()
def returns_false(ctx, data):
    return False


@case()
def returns_true(ctx, data):
    return True


@case()
def returns_a_number(ctx, data):
    return 12.5


@case()
def returns_a_dict(ctx, data):
    return {"a": 1, "b": [None, True], "c": "ż"}


@case()
def returns_an_empty_dict(ctx, data):
    return {}


@case()
def returns_a_list(ctx, data):
    return [1, "two", b"three"]


@case()
def returns_a_tuple(ctx, data):
    return ("body", 201, {"X": "y"})


@case()
def returns_bytes(ctx, data):
    return bytes(range(256))


@case()
def returns_a_bytearray(ctx, data):
    return bytearray(b"\x00\xff\x01")


@case()
def returns_a_memoryview(ctx, data):
    return memoryview(b"abc")


@case()
def returns_bytes_io(ctx, data):
    return io.BytesIO(b"abc")


@case()
def returns_a_generator(ctx, data):
    return (part for part in ("a", "b"))


@case()
def is_a_generator(ctx, data):
    yield "a"
    yield "b"


@case()
def returns_an_exception(ctx, data):
    return ValueError("not raised")


@case()
def returns_the_context_type(ctx, data):
    return type(ctx).__name__ + " " + str(isinstance(ctx, context.InvokeContext))


class Lying:
    def __bool__(self):
        return False

    def __str__(self):
        return "lying"


@case()
def returns_a_falsy_object(ctx, data):
    return Lying()


class Unprintable:
    def __str__(self):
        raise ValueError("no text")


@case()
def returns_an_unprintable_object(ctx, data):
    return Unprintable()


class NoTruth:
    def __bool__(self):
        raise ValueError("ambiguous")


@case()
def returns_an_object_without_truth(ctx, data):
    return NoTruth()


@case()
def returns_lone_surrogates(ctx, data):
    return "bad \ud800"


# What it is given.


@case(body=b"\x00\x01binary\xff")
def echoes_the_body(ctx, data):
    return data.read()


@case()
def is_given_an_empty_stream(ctx, data):
    return f"{type(data).__name__} {data.getvalue()!r} {data.seekable()}"


@case(body=b"x" * 1_048_576)
def is_given_a_megabyte(ctx, data):
    return response.Response(ctx, data.getvalue()[::-1], headers={"Content-Type": "application/x-big"})


@case(
    ("X-Multi", "1"),
    ("X-Multi", "2"),
    ("x-multi", "3"),
    ("X-Empty", ""),
    ("X-Spaces", "  a  b"),
    ("X-Latin", "caf\xe9"),
    ("X-Utf8", "ż".encode().decode("latin-1")),
    ("Content-Type", "application/json"),
    ("Cookie", "a=b"),
    ("Authorization", "Basic zzz"),
    ("X-Colons", "a:b:c"),
    body=b"{}",
)
def sees_request_headers(ctx, data):
    return as_json(ctx, [ctx.Headers(), ctx.HTTPHeaders()])


@case(("X-Spaces", "a  "))
def sees_spaces_behind_a_request_header(ctx, data):
    return repr(ctx.Headers()["x-spaces"])


def every_method(ctx):
    tracing = ctx.TracingContext()
    return {
        "AppID": ctx.AppID(),
        "AppName": ctx.AppName(),
        "FnID": ctx.FnID(),
        "FnName": ctx.FnName(),
        "CallID": ctx.CallID(),
        "Config": {
            k: v for k, v in ctx.Config().items() if k.startswith(("FN_", "OCI_", "MY_")) and k != "FN_LISTENER"
        },
        "Config is os.environ": ctx.Config() is os.environ,
        "Headers": ctx.Headers(),
        "HTTPHeaders": ctx.HTTPHeaders(),
        "Format": ctx.Format(),
        "Deadline": ctx.Deadline(),
        "Method": ctx.Method(),
        "RequestURL": ctx.RequestURL(),
        "GetResponseHeaders": ctx.GetResponseHeaders(),
        "tracing": [
            tracing.is_tracing_enabled(),
            tracing.trace_collector_url(),
            tracing.trace_id(),
            tracing.span_id(),
            tracing.parent_span_id(),
            tracing.is_sampled(),
            tracing.flags(),
            tracing.service_name(),
            tracing.service_name("Over::Ride"),
            tracing.annotations(),
            tracing.zipkin_attrs()._fields,
            [v for k, v in tracing.zipkin_attrs()._asdict().items() if not (k == "span_id" and v)],
            len(tracing.zipkin_attrs().span_id or ""),
            type(tracing).__name__,
        ],
    }


@case(("Content-Type", "text/x-test"), body=b"abc")
def calls_every_method_of_its_context(ctx, data):
    return as_json(ctx, every_method(ctx))


@case(*GATEWAY, ("Content-Type", "text/x-test"), body=b"{}")
def calls_every_method_in_gateway_mode(ctx, data):
    return as_json(ctx, every_method(ctx))


@case(
    ("X-B3-TraceId", "80f198ee56343ba864fe8b2a57d3eff7"),
    ("X-B3-SpanId", "e457b5a2e4d86bd1"),
    ("X-B3-ParentSpanId", "05e3ac9a4f6e3b90"),
    ("X-B3-Sampled", "0"),
    ("X-B3-Flags", "1"),
)
def sees_b3_headers(ctx, data):
    return as_json(ctx, every_method(ctx)["tracing"])


@case(("Fn-Intent", "cloudevent"), ("Fn-Http-Method", "GET"))
def is_called_with_another_intent(ctx, data):
    return as_json(ctx, every_method(ctx))


@case(("X-Test", "a"), ("Fn-Http-H-X-Test", "b"), ("Fn-Http-H-X-Test", "c"), *GATEWAY)
def sees_a_header_twice_in_gateway_mode(ctx, data):
    return as_json(ctx, [ctx.Headers()["x-test"], ctx.HTTPHeaders()["x-test"]])


# Around the call.

variable = contextvars.ContextVar("variable", default="unset")


@case()
def sets_a_context_variable(ctx, data):
    before = variable.get()
    variable.set("set")
    return before


@case()
def sees_no_context_variable_of_an_earlier_call(ctx, data):
    return variable.get()


@case()
def runs_in_the_main_thread(ctx, data):
    return str(threading.current_thread() is threading.main_thread())


@case()
def looks_at_its_module(ctx, data):
    import sys

    return f"{__name__} {os.path.basename(__file__)} {sys.modules.get(__name__) is not None} {handler.__module__}"


@case()
def logs(ctx, data):
    logging.getLogger().info("root info %d", 1)
    logging.getLogger("mine.sub").debug("mine debug")
    logging.getLogger("asyncio").info("hidden")
    logging.getLogger("fdk").info("hidden too")
    log.log("hidden three")
    log.get_logger().warning("fdk warning")
    log.get_request_log().error("request\nlog")
    logging.basicConfig(level=logging.ERROR, format="never used")
    logging.info("after basicConfig")
    try:
        raise ValueError("logged")
    except ValueError:
        logging.exception("with traceback")
    thread = threading.Thread(target=lambda: logging.info("from a thread"))
    thread.start()
    thread.join()
    return "logged"


@case()
def looks_at_the_logging(ctx, data):
    root = logging.getLogger()
    return as_json(
        ctx,
        [
            root.level,
            [type(h).__name__ for h in root.handlers],
            [type(h.formatter).__name__ for h in root.handlers],
            logging.getLogger("fdk").level,
            logging.getLogger("asyncio").level,
            log.get_logger().name,
            log.get_request_log().name,
        ],
    )
