"""Frames survive any chunking; garbage is refused, and nothing else happens."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime import wire

text = st.text(max_size=20)
pairs = st.lists(st.lists(text, min_size=2, max_size=2), max_size=4)
numbers = st.integers(-(2**63), 2**64 - 1)
calls = st.fixed_dictionaries(
    {"type": st.just("call"), "id": text, "nonce": numbers, "deadline": text, "headers": pairs, "body": st.binary()}
)
stops = st.just({"type": "stop"})
readies = st.fixed_dictionaries(
    {"type": st.just("ready"), "info": st.dictionaries(text, st.one_of(text, numbers), max_size=3)}
)
answers = st.fixed_dictionaries(
    {
        "type": st.just("answer"),
        "id": text,
        "nonce": numbers,
        "status": st.integers(0, 999),
        "headers": pairs,
        "body": st.binary(max_size=300),
        "cpu_us": numbers,
    }
)
failures = st.fixed_dictionaries(
    {"type": st.just("failed"), "id": text, "nonce": numbers, "kind": text, "message": text, "traceback": text}
)
EITHER_WAY = [(wire.TO_WORKER, st.one_of(calls, stops)), (wire.TO_DAEMON, st.one_of(readies, answers, failures))]


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_frames_survive_any_chunking(data: st.DataObject, steps: list[int]) -> None:
    for allowed, frames in EITHER_WAY:
        sent = data.draw(st.lists(frames, max_size=4))
        stream = b"".join(map(wire.encode, sent))
        decoder, received, offset, turn = wire.Decoder(allowed), [], 0, 0
        while offset < len(stream):
            step = steps[turn % len(steps)]
            received += decoder.feed(stream[offset : offset + step])
            offset, turn = offset + step, turn + 1
        assert received == sent
        assert decoder.pending_bytes == 0
        assert wire.Decoder(allowed).feed(stream) == sent


@given(st.binary(max_size=300), st.sampled_from([wire.TO_WORKER, wire.TO_DAEMON]))
@example(bytes(4), wire.TO_DAEMON)
@example(b"\0\0\0\4\xc7\1\5\0", wire.TO_DAEMON)
def test_garbage_is_refused_and_nothing_else(garbage: bytes, allowed: frozenset[str]) -> None:
    framed = len(garbage).to_bytes(4, "big") + garbage
    for stream in (garbage, framed):
        try:
            frames = wire.Decoder(allowed).feed(stream)
        except wire.ProtocolError:
            continue
        assert all(frame["type"] in allowed for frame in frames)


@settings(max_examples=300)
@given(st.data())
def test_a_frame_with_some_bytes_changed_is_a_legal_frame_or_refused(data: st.DataObject) -> None:
    allowed, frames = data.draw(st.sampled_from(EITHER_WAY))
    stream = bytearray(wire.encode(data.draw(frames)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = wire.Decoder(allowed).feed(bytes(stream))
    except wire.ProtocolError:
        return
    for frame in decoded:
        assert wire.Decoder(allowed).feed(wire.encode(frame)) == [frame]


ANSWER: dict[str, Any] = {
    "type": "answer", "id": "c", "nonce": 1, "status": 200, "headers": [["a", "b"]], "body": b"", "cpu_us": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"type": "call"},
        {"type": "unheard of"},
        {"type": 1},
        {"type": None},
        {"id": b"c"},
        {"id": None},
        {"nonce": "1"},
        {"nonce": True},
        {"nonce": 1.0},
        {"status": "200"},
        {"status": True},
        {"headers": {"a": "b"}},
        {"headers": [["a"]]},
        {"headers": [["a", "b", "c"]]},
        {"headers": [["a", 1]]},
        {"headers": [["a", b"b"]]},
        {"headers": ["ab"]},
        {"cpu_us": "5"},
        {"cpu_us": 5.0},
        {"body": "text"},
        {"body": None},
        {"extra": 1},
        {"body": msgpack.ExtType(1, b"")},
        {"body": msgpack.Timestamp(1)},
    ],
    ids=repr,
)
def test_wrong_members_are_refused(change: dict[str, Any]) -> None:
    assert wire.Decoder(wire.TO_DAEMON).feed(wire.encode(ANSWER)) == [ANSWER]
    with pytest.raises(wire.ProtocolError):
        wire.Decoder(wire.TO_DAEMON).feed(wire.encode({**ANSWER, **change}))


@pytest.mark.parametrize("missing", list(ANSWER))
def test_missing_members_are_refused(missing: str) -> None:
    with pytest.raises(wire.ProtocolError):
        wire.Decoder(wire.TO_DAEMON).feed(wire.encode({k: v for k, v in ANSWER.items() if k != missing}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x81\x01\x02",  # a key that is a number
        b"\x81\xa4type\xa4stop\x00",  # bytes after the map
        b"\x82\xa4type\xa4stop\xa4type\xa4stop",  # a member twice
        b"\x91" * 2000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa4type\xa2\xff\xfe",  # not UTF-8
        b"\x81\xa4type\xd9",
    ],
    ids=repr,
)
def test_odd_payloads_are_refused(payload: bytes) -> None:
    stream = len(payload).to_bytes(4, "big") + payload
    if payload.count(b"stop") == 2:  # msgpack takes the last; it is still the one member that a stop frame has
        assert wire.Decoder(wire.TO_WORKER).feed(stream) == [{"type": "stop"}]
        return
    with pytest.raises(wire.ProtocolError):
        wire.Decoder(wire.TO_WORKER).feed(stream)


@pytest.mark.parametrize("length", [wire.FRAME_BYTES_MAX + 1, 512 * 2**20, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_anything_is_kept(length: int) -> None:
    for stream in (length.to_bytes(4, "big"), length.to_bytes(4, "big") + b"x" * 100):
        decoder = wire.Decoder(wire.TO_DAEMON)
        with pytest.raises(wire.ProtocolError):
            decoder.feed(stream)
        assert decoder.pending_bytes <= len(stream)


def test_the_longest_frame_passes_and_one_byte_more_does_not() -> None:
    spare = wire.FRAME_BYTES_MAX - len(wire.encode({**ANSWER, "body": b"x" * 2**20})) + wire.HEADER_BYTES + 2**20
    longest = wire.encode({**ANSWER, "body": bytes(spare)})
    assert len(longest) == wire.FRAME_BYTES_MAX + wire.HEADER_BYTES
    assert len(wire.Decoder(wire.TO_DAEMON).feed(longest)) == 1
    with pytest.raises(wire.ProtocolError):
        wire.encode({**ANSWER, "body": bytes(spare + 1)})


@pytest.mark.parametrize("value", [object(), 2**64, {1, 2}, "\ud800"], ids=repr)
def test_what_msgpack_cannot_hold_is_a_protocol_error(value: object) -> None:
    with pytest.raises(wire.ProtocolError):
        wire.encode({"type": "stop", "x": value})
