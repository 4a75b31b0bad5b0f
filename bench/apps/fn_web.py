"""The hello of a function that imports a web stack: fastapi, httpx and pydantic."""

import io
from typing import Any

import fastapi
import httpx
import pydantic

from fdk import response


class Greeting(pydantic.BaseModel):
    name: str


LOADED = (fastapi.__version__, httpx.__version__)


def handler(ctx: Any, data: io.BytesIO) -> response.Response:
    name = Greeting.model_validate_json(data.getvalue()).name
    return response.Response(ctx, response_data=f'{{"hello": "{name}"}}', headers={"Content-Type": "application/json"})
