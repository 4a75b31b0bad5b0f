"""A Flask application that shows what it got."""

import sys

from flask import Flask, Response, jsonify, make_response, redirect, request, stream_with_context, url_for

app = Flask(__name__)


@app.route("/items/<name>", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
def item(name):
    return jsonify(
        method=request.method,
        name=name,
        path=request.path,
        root=request.script_root,
        args=request.args.to_dict(False),
        query=request.query_string.decode(),
        headers={k.lower(): v for k, v in request.headers if k.startswith("X-")},
        body=request.get_data(as_text=True),
        type=request.content_type,
        host=request.host,
        cookies=request.cookies,
        url=request.url,
        here=url_for("item", name=name),
    )


@app.route("/form", methods=["POST"])
def form():
    upload = request.files.get("file")
    return jsonify(form=request.form.to_dict(), file=upload.read().decode() if upload else None)


@app.route("/cookies")
def cookies():
    answer = make_response("two", 201)
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2", httponly=True)
    return answer


@app.route("/away")
def away():
    return redirect(url_for("item", name="x"))


@app.route("/stream")
def stream():
    def parts():
        for number in range(3):
            yield f"part {number} of {request.path}\n"

    return Response(stream_with_context(parts()), mimetype="text/plain")


@app.route("/binary")
def binary():
    return Response(bytes(range(256)), mimetype="application/octet-stream")


@app.route("/nothing")
def nothing():
    return "", 204


@app.route("/breaks")
def breaks():
    raise RuntimeError("broken on purpose")


def bare(environ, start_response):
    print("bare was called", file=sys.stderr)
    if environ["PATH_INFO"] == "/raise":
        raise LookupError("nothing here")
    if environ["PATH_INFO"] == "/silent":
        return []
    headers = [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2"), ("X-Text", environ.get("HTTP_X_TEXT", ""))]
    write = start_response("418 I'm a teapot", headers)
    write(b"written ")
    return [environ["wsgi.input"].read(), b" returned"]
