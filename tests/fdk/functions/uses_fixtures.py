"""Calls handlers through `fdk.fixtures` as authors' unit tests do, and prints what comes back."""

import asyncio
import io
import os

from fdk import constants, errors, fixtures, headers, response


def show(*values):
    print(*(repr(value) for value in values))


def echo(ctx, data=None):
    seen = {k: v for k, v in ctx.Headers().items() if k != "fn-deadline"}
    return response.Response(
        ctx,
        response_data=f"{type(data).__name__} {data.getvalue() if hasattr(data, 'getvalue') else data!r} {seen} "
        f"{ctx.HTTPHeaders()} {ctx.Method()} {ctx.RequestURL()} {ctx.CallID()} {ctx.AppName()} {ctx.Format()}",
        headers={"X-Out": "1", "Content-Type": "text/csv"},
        status_code=201,
    )


def deadline(ctx, data=None):
    return ctx.Deadline()


def raising(ctx, data=None):
    raise ValueError("in a fixture")


def late(ctx, data=None):
    raise TimeoutError("late")


def plain(ctx, data=None):
    return {"a": data}


async def coroutine(ctx, data=None):
    await asyncio.sleep(0)
    return data.read()


async def main():
    for function, options in [
        (echo, {}),
        (echo, {"content": io.BytesIO(b"abc")}),
        (echo, {"content": b"bytes as they are"}),
        (echo, {"headers": {"X-In": "1", "content-type": "text/x"}, "method": "PUT", "request_url": "/x?y"}),
        (echo, {"headers": {"X-In": "1", "Content-Type": "text/x"}, "gateway": True, "content": io.BytesIO(b"g")}),
        (echo, {"gateway": True}),
        (deadline, {"deadline": "2030-01-02T03:04:05Z"}),
        (raising, {}),
        (raising, {"gateway": True}),
        (late, {}),
        (plain, {"content": 7}),
        (plain, {"gateway": True}),
        (coroutine, {"content": io.BytesIO(b"awaited")}),
    ]:
        call = await fixtures.setup_fn_call(function, **options)
        show(type(call).__name__, *await call)
    call = await fixtures.setup_fn_call_raw(echo, io.BytesIO(b"raw"), {"fn-call-id": "01RAW", "Fn-Http-H-X": "y"})
    show(*await call)
    show(*await (await fixtures.setup_fn_call_raw(plain)))
    call = await fixtures.setup_fn_call(deadline)
    content, status, _ = await call
    show(len(content), status)
    show(fixtures.code(plain).handler() is plain)
    show(sorted(fixtures.fake_request(gateway=True).headers), fixtures.fake_request().body)
    show(fixtures.setup_headers("d", {"A": "b"}, "/u", "GET"), fixtures.setup_headers("d", {"A": ["b"]}, gateway=True))
    show(sorted((k, v) for k, v in vars(constants).items() if k.isupper()))
    show(constants.is_py37(), headers.encap_headers({"A": "b"}), errors.DispatchException.__mro__[1].__name__)
    show(os.environ.get("FN_FORMAT"))


asyncio.run(main())
