"""Every rule of signed requests, broken once; what the real signer signs is accepted, and no changed byte of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.auth import signatures
from daemon.auth.identity import Identity, Key, Known
from daemon.auth.permissions import Principal
from daemon.auth.signatures import NotSigned
from daemon.auth.tokens import Issuer, fingerprint
from daemon.catalog import Catalog
from daemon.errors import NotAuthenticated
from tests.iam.signing import GENERIC, WITH_BODY, Signer, key, sdk_python

NOW = 1_795_000_000.0
TENANCY, USER = "ocid1.tenancy.oc1..t", "ocid1.user.oc1..u"
ADA = Principal(kind="user", id=USER, name="ada")
KEY_ID = f"{TENANCY}/{USER}/{fingerprint(key().public_key())}"
SIGNER = Signer(KEY_ID)
BODY = b'{"a": 1}'


def identity(now_s: float = NOW) -> Identity:
    found = Identity(Catalog(), lambda: Issuer(key(9), TENANCY), log=structlog.get_logger(), clock=lambda: now_s)
    found.known = Known(users={USER: ADA}, keys={KEY_ID: Key(key().public_key(), USER)})
    return found


IDENTITY = identity()


def ask(method: str, target: str, headers: Any, body: bytes = b"") -> Principal:
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    return IDENTITY.identify(method, target.encode(), pairs, peer=None, body=body)


def refused(method: str, target: str, headers: Any, body: bytes = b"") -> str:
    """Why, as the log says it; the caller is told nothing."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    with pytest.raises(NotAuthenticated) as caught:
        ask(method, target, pairs, body)
    assert caught.value.detail == ""
    try:
        signatures.read(method, target.encode(), pairs, now_s=NOW, body=body)
    except NotSigned as why:
        return str(why)
    return "the signature or the key"


def get(**how: Any) -> dict[str, str]:
    return SIGNER.sign("GET", "/x?a=1", at_s=NOW, **how)


def post(body: bytes = BODY, **how: Any) -> dict[str, str]:
    return SIGNER.sign("POST", "/x", body, at_s=NOW, **how)


def test_what_is_signed_well_is_accepted() -> None:
    assert ask("GET", "/x?a=1", get()) is ADA
    assert ask("POST", "/x", post(), BODY) is ADA
    assert ask("POST", "/x", post(b""), b"") is ADA
    # Oracle's DELETE has content headers that are not signed; its TypeScript SDK dates by x-date and has no version.
    extra = {"content-length": "0", "content-type": "application/json"}
    assert ask("DELETE", "/x", SIGNER.sign("DELETE", "/x", at_s=NOW, extra=extra, names=GENERIC)) is ADA
    headers = get(names=("x-date", "(request-target)", "host"), extra={"x-date": get()["date"]})
    headers["authorization"] = headers["authorization"].replace(',version="1"', "")
    assert ask("GET", "/x?a=1", headers) is ADA
    assert ask("GET", "/x?a=1", get(names=("host", "(request-target)", "date"))) is ADA


class TestEachRuleBrokenOnce:
    """In the order of the rules that a verifier has to obey."""

    @pytest.mark.parametrize("name", ["keyId", "headers", "signature", "algorithm"])
    def test_1_a_parameter_is_missing(self, name: str) -> None:
        headers = get()
        headers["authorization"] = headers["authorization"].replace(f"{name}=", f"{name}x=")
        assert name in refused("GET", "/x?a=1", headers)

    @pytest.mark.parametrize(
        "authorization",
        [
            "",
            "Signature",
            "Basic YTpi",
            "Signature keyId",
            'Signature keyId="a" headers="b"',
            'Signature keyId="a",keyId="a",headers="(request-target) host date",algorithm="rsa-sha256",signature=""',
            "Signature " + ",".join(f'k{chr(97 + i % 26)}{"x" * i}="v"' for i in range(20)),
            "Signature " + 'a="' + "x" * 20_000 + '"',
        ],
    )
    def test_1_the_header_is_malformed_or_too_long(self, authorization: str) -> None:
        refused("GET", "/x?a=1", get() | {"authorization": authorization})

    def test_1_there_is_none_or_there_are_two(self) -> None:
        headers = get()
        good = headers.pop("authorization")
        assert refused("GET", "/x?a=1", headers) == "no Authorization header"
        assert "two" in refused("GET", "/x?a=1", [*headers.items(), ("authorization", good), ("authorization", good)])

    @pytest.mark.parametrize("algorithm", ["hmac-sha256", "none", "rsa-sha1", "RSA-SHA256", "rsa-sha512", ""])
    def test_2_another_algorithm(self, algorithm: str) -> None:
        headers = get()
        headers["authorization"] = headers["authorization"].replace("rsa-sha256", algorithm)
        assert "algorithm" in refused("GET", "/x?a=1", headers)

    @pytest.mark.parametrize(
        "key_id",
        [
            KEY_ID.replace(TENANCY, "ocid1.tenancy.oc1..x"),
            KEY_ID.replace(USER, "ocid1.user.oc1..x"),
            KEY_ID[:-1] + ("0" if KEY_ID[-1] != "0" else "1"),
            KEY_ID.upper(), KEY_ID + " ", KEY_ID + "/", "", "ST$", "ST$a.b.c",
        ],
    )  # fmt: skip
    def test_3_an_unknown_key(self, key_id: str) -> None:
        assert refused("GET", "/x?a=1", Signer(key_id).sign("GET", "/x?a=1", at_s=NOW)) == "the signature or the key"

    @pytest.mark.parametrize("left_out", WITH_BODY)
    def test_4_a_required_header_is_not_signed(self, left_out: str) -> None:
        names = [name for name in WITH_BODY if name != left_out]
        assert "must be signed" in refused("POST", "/x", post(names=names), BODY)
        if left_out in GENERIC:
            assert "must be signed" in refused("GET", "/x?a=1", get(names=[n for n in GENERIC if n != left_out]))

    def test_4_a_listed_header_is_not_there(self) -> None:
        assert "missing" in refused("GET", "/x?a=1", get(names=(*GENERIC, "opc-obo-token")))

    @pytest.mark.parametrize("skew_s", [-301, 301, 86_400, -86_400])
    def test_5_the_date_is_too_far_off(self, skew_s: int) -> None:
        assert "from our clock" in refused("GET", "/", SIGNER.sign("GET", "/", at_s=NOW + skew_s))
        for inside in (-300, 300):
            assert ask("GET", "/", SIGNER.sign("GET", "/", at_s=NOW + inside)) is ADA

    @pytest.mark.parametrize(
        "date", ["", "now", "2026-11-18T00:00:00Z", "Wed, 18 Nov 2026 00:00:00 +0000", "Wed, 99 Nov 2026 00:00:00 GMT"]
    )
    def test_5_the_date_is_none(self, date: str) -> None:
        assert "not a date" in refused("GET", "/x?a=1", get(extra={"date": date}))

    def test_5_an_unsigned_x_date(self) -> None:
        assert "x-date must be signed" in refused("GET", "/x?a=1", get() | {"x-date": get()["date"]})

    def test_6_another_body(self) -> None:
        assert "content-length" in refused("POST", "/x", post(), BODY + b" ")
        assert "x-content-sha256" in refused("POST", "/x", post(), BODY.replace(b"1", b"2"))
        assert "content-length" in refused("POST", "/x", post(extra={"content-length": "7"}), BODY)
        assert "x-content-sha256" in refused("POST", "/x", post(extra={"x-content-sha256": ""}), BODY)
        assert "not signed" in refused("GET", "/x?a=1", get(), b"body")

    @pytest.mark.parametrize(
        "target", ["/x", "/x?a=2", "/x?a=1&", "//x?a=1", "/%78?a=1", "/x?a=%31", "/X?a=1", "/x/?a=1"]
    )
    def test_7_another_target_however_equal_it_may_mean(self, target: str) -> None:
        refused("GET", target, get())

    def test_7_another_method_or_host(self) -> None:
        refused("DELETE", "/x?a=1", get())
        refused("GET", "/x?a=1", get() | {"host": "127.0.0.1:8080"})

    @pytest.mark.parametrize("name", ["host", "date", "x-content-sha256", "content-length", "content-type"])
    def test_8_a_signed_header_twice(self, name: str) -> None:
        headers = post()
        assert "twice" in refused("POST", "/x", [*headers.items(), (name, headers[name])], BODY)

    def test_8_chunks_with_a_signed_length(self) -> None:
        assert "chunks" in refused("POST", "/x", post() | {"transfer-encoding": "chunked"}, BODY)

    def test_9_the_reply_does_not_say_which(self) -> None:
        texts = set()
        for headers in ({}, get() | {"host": "x"}, get() | {"authorization": "x"}):
            with pytest.raises(NotAuthenticated) as caught:
                ask("GET", "/x?a=1", headers)
            texts.add((str(caught.value), caught.value.status, caught.value.oci_code))
        assert len(texts) == 1

    def test_10_the_same_request_again_is_accepted(self) -> None:
        """RSA signatures do not differ, and dates have seconds: a replay cache would refuse honest clients."""
        headers = get()
        assert [ask("GET", "/x?a=1", headers) for _ in range(3)] == [ADA] * 3


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255), max_size=300))
def test_any_authorization_header_is_refused_and_nothing_else_happens(text: str) -> None:
    refused("GET", "/x?a=1", get() | {"authorization": text})
    refused("GET", "/x?a=1", get() | {"authorization": "Signature " + text})


HEADER_NAMES = st.sampled_from(
    ["host", "date", "x-date", "content-length", "authorization", "transfer-encoding", "x-content-sha256"]
)
ANY_HEADERS = st.lists(st.tuples(HEADER_NAMES, st.text(st.characters(max_codepoint=255), max_size=60)), max_size=6)


@given(ANY_HEADERS, st.binary(max_size=20))
def test_any_headers_are_refused_and_nothing_else_happens(headers: list[tuple[str, str]], body: bytes) -> None:
    refused("POST", "/x", headers, body)
    refused("POST", "/x", [*headers, *post().items()], body + b"!")


VECTORS = """
import json, sys
import oci
from oci._vendor import requests
out, key_file, key_id = [], sys.argv[1], sys.argv[2]
tenancy, user, fingerprint = key_id.split("/")
signer = oci.signer.Signer(tenancy, user, fingerprint, key_file)
for method, url, body, headers in [
    ("GET", "http://127.0.0.1:8080/20260325/applications?compartmentId=ocid1.x&displayName=a+b%2Fc", None, {}),
    ("GET", "http://127.0.0.1:8080//20260325/applications", None, {}),
    ("DELETE", "http://localhost/20181201/functions/ocid1.fnfunc.oc1.a", None, {"content-type": "application/json"}),
    ("HEAD", "http://localhost/v2/apps", None, {}),
    ("POST", "http://127.0.0.1:8080/v2/apps", b'{"name": "a"}', {"content-type": "application/json"}),
    ("POST", "http://127.0.0.1:8080/20260325/functions/f/actions/invoke", b"", {"content-type": "application/json"}),
    ("POST", "http://127.0.0.1:8080/invoke/f", bytes(range(256)) * 40, {"content-type": "application/octet-stream"}),
    ("PUT", "http://127.0.0.1:8080/v2/fns/f", "é".encode(), {"content-type": "text/x", "opc-request-id": "q"}),
]:
    request = requests.Request(method, url, data=body, headers=headers, auth=signer).prepare()
    body = request.body or b""
    out.append([method, request.path_url, [[k.lower(), str(v)] for k, v in request.headers.items()],
                (body.encode() if isinstance(body, str) else body).hex()])
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, list[tuple[str, str]], bytes]]:
    """Requests signed by the signer of Oracle's SDK, just now."""
    from daemon.auth.tokens import private_pem

    path = tmp_path_factory.mktemp("key") / "key.pem"
    path.write_text(private_pem(key()) + "OCI_API_KEY\n")
    done = subprocess.run(
        [str(sdk_python()), "-c", VECTORS, str(path), KEY_ID], capture_output=True, text=True, check=True,
        cwd=Path(path).parent,
    )  # fmt: skip
    return [
        (m, t, [(k, v) for k, v in headers], bytes.fromhex(body)) for m, t, headers, body in json.loads(done.stdout)
    ]


def test_what_the_sdk_signs_is_accepted(vectors: Any) -> None:
    found = identity(time.time())
    for method, target, headers, body in vectors:
        assert found.identify(method, target.encode(), headers, peer=None, body=body) is ADA, (method, target)


def test_no_changed_byte_of_what_the_sdk_signs_is_accepted(vectors: Any) -> None:
    """Each byte of target, body, signed headers and signature; of the Authorization header all that carries meaning."""
    found = identity(time.time())
    accepted, tried = [], 0
    for method, target, headers, body in vectors:
        signed = dict(signatures._read_parameters(dict(headers)["authorization"]))["headers"].split()
        variants: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        variants += [(method, _flip(target, i), headers, body) for i in range(1, len(target))]
        variants += [
            (method, target, headers, bytes(_flip(body.decode("latin-1"), i), "latin-1"))
            for i in range(0, len(body), 97)
        ]
        variants += [(method, target, headers, body + b"x"), (method, target, headers, body[:-1])] if body else []
        for at, (name, value) in enumerate(headers):
            if name in signed or name == "authorization":
                variants += [
                    (method, target, [*headers[:at], (name, _flip(value, i)), *headers[at + 1 :]], body)
                    for i in range(len(value))
                ]
                variants.append((method, target, headers[:at] + headers[at + 1 :], body))
        for variant in variants:
            tried += 1
            try:
                found.identify(variant[0], variant[1].encode("latin-1"), variant[2], peer=None, body=variant[3])
                accepted.append(variant)
            except NotAuthenticated:
                pass
    # The scheme's name and the names of ignored parameters may change: they carry nothing that is checked.
    harmless = [v for v in accepted if _only_version_differs(v)]
    assert [v for v in accepted if v not in harmless] == []
    assert tried > 3000


def _flip(text: str, i: int) -> str:
    return text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :]


def _only_version_differs(variant: tuple[str, str, list[tuple[str, str]], bytes]) -> bool:
    parameters = signatures._read_parameters(dict(variant[2])["authorization"])
    return "version" not in parameters


@settings(max_examples=60)
@given(st.data())
def test_no_byte_may_be_put_in_or_taken_out(data: st.DataObject) -> None:
    target, headers = "/x?a=1", dict(post(b"abc"))
    where = data.draw(st.sampled_from(["target", "host", "date", "body"]))
    text = {"target": "/x", "body": "abc"}.get(where) or headers[where]
    at = data.draw(st.integers(1 if where == "target" else 0, len(text)))
    changed = text[:at] + data.draw(st.sampled_from("ax0?/ &")) + text[at:]
    target, body = "/x", b"abc"
    if where == "target":
        target = changed
    elif where == "body":
        body = changed.encode()
    else:
        headers[where] = changed
    refused("POST", target, headers, body)
