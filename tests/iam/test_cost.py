"""What a verified call costs beyond the arithmetic of its signature."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from daemon.auth.identity import Key
from daemon.http.authorise import CallGate
from daemon.http.messages import Peer, Request
from tests.iam.signing import Signer, key
from tests.iam.test_enforcement import ADA, FN, ROOT, world


def test_a_verified_call_costs_little_more_than_its_signature() -> None:
    """The budget is 60 us; a clock of its own would make that a matter of luck, a comparison does not."""
    identity, catalog = world("Allow group g to use fn-invocation in tenancy")
    signer = Signer(f"{ROOT}/{ADA.id}/aa:bb", key(0))
    public = signer.private.public_key()
    identity.known = replace(identity.known, keys={signer.key_id: Key(public, ADA.id)})
    gate, target, body = CallGate(identity), f"/20260325/functions/{FN}/actions/invoke", b"x" * 100
    headers = list(signer.sign("POST", target, body, host="127.0.0.1:8080").items())
    text, peer = b"x" * 400, Peer(unix=False, address="127.0.0.1")
    signature = signer.private.sign(text, padding.PKCS1v15(), hashes.SHA256())

    def call() -> None:
        request = Request(
            method="POST", target=target.encode(), headers=headers, body=body, host="127.0.0.1:8080", peer=peer
        )
        gate.check(request, catalog.functions[FN])
        assert request.principal is ADA

    def verify() -> None:
        public.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())

    def cost_s(act: Callable[[], None]) -> float:
        began_s = time.process_time()
        for _ in range(200):
            act()
        return time.process_time() - began_s

    rounds = [(cost_s(call), cost_s(verify)) for _ in range(15)]
    assert min(one for one, _ in rounds) < 2.5 * min(other for _, other in rounds), rounds
