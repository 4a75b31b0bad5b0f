"""Functions that raise.

To run under this FDK and under the official one. Standard library and ``fdk`` only; no asyncio.
"""

import concurrent.futures
import io
import json
import os
import socket
import subprocess
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from cases import Cases

CASES = Cases()
case = CASES.case


def handler(ctx, data: io.BytesIO = None):  # noqa: RUF013  as Fn's documentation and samples write it
    return CASES.run(ctx, data)


@case()
def does_not_raise(ctx, data):
    return "fine"


@case()
def raises(ctx, data):
    raise ValueError("boom from function")


@case()
def raises_with_unicode(ctx, data):
    raise ValueError("błąd\nna dwie linie")


@case()
def raises_without_text(ctx, data):
    raise RuntimeError


@case()
def raises_key_error(ctx, data):
    return {}["missing"]


@case()
def raises_with_arguments(ctx, data):
    raise ValueError("one", 2, None)


@case()
def raises_from_another(ctx, data):
    try:
        raise KeyError("cause")
    except KeyError as exc:
        raise RuntimeError("effect") from exc


@case()
def raises_a_group(ctx, data):
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@case()
def raises_an_unprintable_exception(ctx, data):
    raise BadText


@case()
def raises_a_surrogate(ctx, data):
    raise ValueError("\ud800")


@case()
def raises_a_long_text(ctx, data):
    raise ValueError("long " * 50_000)


@case()
def raises_after_setting_headers(ctx, data):
    ctx.SetResponseHeaders({"X-Before": "1", "Content-Type": "text/csv"}, 200)
    raise ValueError("late")


@case()
def recurses_for_ever(ctx, data):
    return recurses_for_ever(ctx, data)


@case()
def raises_stop_iteration(ctx, data):
    raise StopIteration("done")


@case()
def raises_stop_async_iteration(ctx, data):
    raise StopAsyncIteration("done")


@case()
def raises_timeout_error(ctx, data):
    raise TimeoutError("too slow")


@case()
def raises_timeout_error_without_text(ctx, data):
    raise TimeoutError


@case()
def raises_socket_timeout(ctx, data):
    raise socket.timeout("timed out")  # noqa: UP041


@case()
def raises_futures_timeout(ctx, data):
    raise concurrent.futures.TimeoutError


@case()
def raises_subprocess_timeout(ctx, data):
    raise subprocess.TimeoutExpired("cmd", 3)


class OwnTimeout(TimeoutError):
    pass


@case()
def raises_a_timeout_of_its_own(ctx, data):
    raise OwnTimeout("own")


@case()
def raises_import_error(ctx, data):
    import no_such_module_here  # noqa: F401


@case()
def raises_assertion_error(ctx, data):
    raise AssertionError


@case()
def raises_os_error(ctx, data):
    os.stat("/no/such/file")


@case()
def raises_memory_error(ctx, data):
    raise MemoryError


@case()
def raises_unicode_error(ctx, data):
    return b"\xff".decode()


@case()
def raises_json_error(ctx, data):
    return json.loads(data.getvalue())


class OwnBase(BaseException):
    pass


@case(answered=False)
def raises_a_base_exception(ctx, data):
    raise OwnBase("base")


@case(answered=False)
def raises_generator_exit(ctx, data):
    raise GeneratorExit("exit")


@case(answered=False)
def raises_a_base_group(ctx, data):
    raise BaseExceptionGroup("base", [OwnBase("one")])
