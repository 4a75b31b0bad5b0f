"""The hello as a function: runs unchanged under Stoker and under the official FDK."""

import io
import json
from typing import Any

from fdk import response


def handler(ctx: Any, data: io.BytesIO) -> response.Response:
    name = json.loads(data.getvalue())["name"]
    return response.Response(
        ctx, response_data=json.dumps({"hello": name}), headers={"Content-Type": "application/json"}
    )
