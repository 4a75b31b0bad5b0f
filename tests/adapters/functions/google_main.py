"""The examples of the functions-framework's own README, and what they leave out."""

import flask
import functions_framework


@functions_framework.http
def hello(request: flask.Request) -> flask.typing.ResponseReturnValue:
    if request.method == "PUT":
        return flask.jsonify(args=request.args, json=request.get_json(), path=request.path), 201, {"X-Own": "yes"}
    if request.args.get("break"):
        raise ValueError("broken on purpose")
    return "Hello world!"


@functions_framework.cloud_event
def hello_cloud_event(cloud_event):
    print(f"Received event with ID: {cloud_event['id']} and data {cloud_event.data}", flush=True)


def plain(request):
    return f"plain {request.get_data(as_text=True)}"
