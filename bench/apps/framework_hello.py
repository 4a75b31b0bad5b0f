"""functions-framework: an HTTP function."""

import json
from typing import Any


def hello(request: Any) -> Any:
    return json.dumps({"hello": request.get_json()["name"]}), 200, {"Content-Type": "application/json"}
