"""Draws from every source of randomness, in a child too. Must happen: all that instances draw is distinct."""

import json
import os
import random
import secrets
import ssl
import tempfile
import time
import uuid

from kit import in_child


def draw():
    drawn = {
        "urandom": os.urandom(16).hex(),
        "random": repr(random.random()),
        "getrandbits": str(random.getrandbits(128)),
        "secrets": secrets.token_hex(16),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "ssl": ssl.RAND_bytes(16).hex(),
        "tempfile": next(tempfile._get_candidate_names()),
    }
    try:
        import numpy

        drawn["numpy"] = str(numpy.random.randint(0, 2**62))
        drawn["numpy generator"] = str(numpy.random.default_rng().integers(0, 2**62))
    except ModuleNotFoundError:
        pass
    try:
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

        raw = (form.Encoding.Raw, form.PrivateFormat.Raw, form.NoEncryption())  # a system's may be old
        drawn["x25519"] = x25519.X25519PrivateKey.generate().private_bytes(*raw).hex()
        drawn["ed25519"] = ed25519.Ed25519PrivateKey.generate().private_bytes(*raw).hex()
    except ModuleNotFoundError:
        pass
    return drawn


def stoker_warm_up():
    draw()  # so that every generator has a state that instances could inherit


def handler(ctx, data=None):
    told = json.loads(data.getvalue() or b"{}")
    drawn = {"instance": draw()}
    # A grandchild has, in a pid namespace of its own, a pid that others had as well.
    for name in ("child", "second child"):
        kind, value = in_child(draw)
        if kind == "value":  # numpy's global generator is copied by a fork of one's own, on every machine
            value.pop("numpy", None)
        drawn[name] = value if kind == "value" else {"failed": f"{kind} {value} {os.urandom(8).hex()}"}
    time.sleep(told.get("sleep_s", 0))  # so that calls at the same time get instances of their own
    return json.dumps({"violations": [], "drawn": drawn, "pid": os.getpid()})
