"""gunicorn + Flask."""

import flask

app = flask.Flask(__name__)


@app.post("/")
def hello() -> flask.Response:
    return flask.jsonify({"hello": flask.request.get_json()["name"]})
