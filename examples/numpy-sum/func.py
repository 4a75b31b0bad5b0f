import io
import json

import numpy
from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """Sum, mean and deviation of a JSON list of numbers."""
    values = numpy.array(json.loads(data.getvalue() or b"[]"), dtype=float)
    result = {"count": int(values.size), "sum": float(values.sum())}
    if values.size:
        result.update(mean=float(values.mean()), deviation=float(values.std()))
    return response.Response(ctx, response_data=json.dumps(result), headers={"Content-Type": "application/json"})
