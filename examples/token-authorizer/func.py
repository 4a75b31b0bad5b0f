import base64
import datetime
import hashlib
import hmac
import io
import json
import logging

from fdk import response

# Made once, when the module is imported: every call of this instance uses it.
log = logging.getLogger()


def handler(ctx, data: io.BytesIO = None):
    """Answer an API gateway whether a token is good, and until when.

    A token is BASE64URL(JSON claims) "." BASE64URL(HMAC-SHA256 of the first part); claims: sub, scope, exp.
    """
    secret = ctx.Config()["TOKEN_SECRET"].encode()
    try:
        token = json.loads(data.getvalue())["token"].removeprefix("Bearer ")
        claims = verified(token, secret)
        until = datetime.datetime.fromtimestamp(claims["exp"], datetime.timezone.utc)
        if until <= datetime.datetime.now(datetime.timezone.utc):
            raise ValueError("expired")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        log.info("refused: %r", exc)
        return answer(ctx, {"active": False, "wwwAuthenticate": 'Bearer realm="demo"'})
    return answer(
        ctx,
        {
            "active": True,
            "principal": claims["sub"],
            "scope": claims.get("scope", []),
            "expiresAt": until.isoformat(),
        },
    )


def verified(token: str, secret: bytes) -> dict:
    """The claims of a token whose signature is right."""
    payload, _, signature = token.partition(".")
    expected = hmac.new(secret, payload.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(expected, unpadded(signature)):
        raise ValueError("wrong signature")
    return json.loads(unpadded(payload))


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def answer(ctx, body):
    return response.Response(ctx, response_data=json.dumps(body), headers={"Content-Type": "application/json"})
