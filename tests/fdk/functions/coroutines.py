"""Async functions, and plain ones that use the event loop.

To run under this FDK and under the official one. Standard library and ``fdk`` only.
"""

import asyncio
import io
import json
import logging
import os
import sys

from fdk import response

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from cases import Cases

CASES = Cases()
case = CASES.case


async def handler(ctx, data: io.BytesIO = None):  # noqa: RUF013  as Fn's documentation and samples write it
    """An async entry point; `plain` beside it is the other one."""
    result = CASES.run(ctx, data)
    return await result if asyncio.iscoroutine(result) else result


def plain(ctx, data: io.BytesIO = None):  # noqa: RUF013
    return CASES.run(ctx, data)


@case(body=b"data")
async def awaits(ctx, data):
    await asyncio.sleep(0.001)
    return data.read()


@case()
async def awaits_a_response(ctx, data):
    await asyncio.sleep(0)
    return response.Response(ctx, json.dumps({"a": 1}), headers={"Content-Type": "application/json"}, status_code=504)


@case()
async def gathers(ctx, data):
    async def one(n):
        await asyncio.sleep(0.001 * n)
        return n

    return sum(await asyncio.gather(one(1), one(2), one(3)))


@case()
async def raises_after_an_await(ctx, data):
    await asyncio.sleep(0)
    raise ValueError("async boom")


@case()
async def raises_stop_iteration_in_a_coroutine(ctx, data):
    raise StopIteration("done")


@case()
async def waits_too_long(ctx, data):
    await asyncio.wait_for(asyncio.sleep(3600), 0.001)


@case()
async def times_out_in_a_scope(ctx, data):
    async with asyncio.timeout(0.001):
        await asyncio.sleep(3600)


@case()
async def raises_in_a_task_group(ctx, data):
    async def bad():
        raise ValueError("in a task")

    async with asyncio.TaskGroup() as group:
        group.create_task(bad())


@case(answered=False)
async def raises_cancelled_error(ctx, data):
    raise asyncio.CancelledError("mine")


@case(answered=False)
async def cancels_itself(ctx, data):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@case()
async def awaits_a_cancelled_task(ctx, data):
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "caught"


@case()
async def runs_in_a_thread(ctx, data):
    return await asyncio.to_thread(lambda: "from a thread")


@case()
async def logs_in_a_task(ctx, data):
    async def child():
        logging.getLogger("child").info("from a task")

    await asyncio.create_task(child())
    return "logged"


@case()
def returns_a_coroutine(ctx, data):
    return awaits(ctx, data)


@case()
async def returns_a_coroutine_from_a_coroutine(ctx, data):
    inner = asyncio.sleep(0, "inner")
    inner.close()
    return type(inner).__name__


@case()
def returns_a_future(ctx, data):
    future = asyncio.get_running_loop().create_future()
    future.set_result("result")
    return future


@case()
def makes_a_task(ctx, data):
    async def child():
        return None

    task = asyncio.create_task(child())
    return type(task).__name__


@case()
def asks_for_the_loop(ctx, data):
    return f"{asyncio.get_event_loop() is asyncio.get_running_loop()} {asyncio.get_event_loop().is_running()}"


@case()
def runs_a_loop_of_its_own(ctx, data):
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


@case()
async def has_a_current_task(ctx, data):
    return str(asyncio.current_task() is not None)


@case()
async def yields(ctx, data):
    async def agen():
        yield 1

    return agen()


lock = None


@case()
async def keeps_a_lock_between_calls(ctx, data):
    global lock
    if lock is None:
        lock = asyncio.Lock()
    async with lock:
        await asyncio.sleep(0)
    return "held"


@case()
async def uses_the_same_loop_again(ctx, data):
    return await keeps_a_lock_between_calls(ctx, data)
