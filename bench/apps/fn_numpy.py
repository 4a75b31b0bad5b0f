"""The hello of a function that imports numpy."""

import io
import json
from typing import Any

import numpy

from fdk import response


def handler(ctx: Any, data: io.BytesIO) -> response.Response:
    name = json.loads(data.getvalue())["name"] * int(numpy.int64(1))
    return response.Response(
        ctx, response_data=json.dumps({"hello": name}), headers={"Content-Type": "application/json"}
    )
