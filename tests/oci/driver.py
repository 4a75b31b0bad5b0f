"""Runs inside a virtual environment of a real client: carries out calls of the OCI SDK that the tests ask for.

One JSON request a line on stdin, one JSON reply a line on stdout. Needs nothing of ours. ``{"$model": NAME, ...}`` in
an argument becomes that model of ``oci.functions.models``.
"""

import json
import sys

import oci


def build(value):
    if isinstance(value, dict):
        value = {key: build(item) for key, item in value.items()}
        name = value.pop("$model", None)
        return getattr(oci.functions.models, name)(**value) if name else value
    return [build(item) for item in value] if isinstance(value, list) else value


def plain(data):
    if hasattr(data, "content"):  # requests.Response of an invocation
        return {"content": data.content.decode("utf-8", "replace"), "type": data.headers.get("content-type")}
    return oci.util.to_dict(data)


def main():
    config, clients = json.loads(sys.argv[1]), {}
    for line in sys.stdin:
        request = json.loads(line)
        key = (request["client"], request["endpoint"])
        try:
            if key not in clients:
                clients[key] = getattr(oci.functions, key[0])(
                    config,
                    service_endpoint=key[1],
                    retry_strategy=oci.retry.NoneRetryStrategy(),
                    circuit_breaker_strategy=oci.circuit_breaker.NoCircuitBreakerStrategy(),
                    timeout=(10, 120),
                )
            method = getattr(clients[key], request["method"])
            response = method(*build(request["args"]), **build(request["kwargs"]))
            reply = {"status": response.status, "headers": dict(response.headers), "data": plain(response.data)}
            reply["next_page"] = response.next_page
        except oci.exceptions.ServiceError as exc:
            reply = {"error": {"status": exc.status, "code": exc.code, "message": exc.message, "id": exc.request_id}}
        except Exception as exc:  # the test shows it
            reply = {"broken": repr(exc)}
        print(json.dumps(reply), flush=True)


main()
