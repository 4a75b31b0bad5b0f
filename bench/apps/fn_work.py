"""The hello, after a millisecond of the processor's time: what most functions are more like."""

import io
import json
import time
from typing import Any

from fdk import response

WORK_S = 0.001


def handler(ctx: Any, data: io.BytesIO) -> response.Response:
    end_s = time.thread_time() + WORK_S
    while time.thread_time() < end_s:
        pass
    name = json.loads(data.getvalue())["name"]
    return response.Response(
        ctx, response_data=json.dumps({"hello": name}), headers={"Content-Type": "application/json"}
    )
