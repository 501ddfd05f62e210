"""Hostile input, made from valid input: truncated, garbled, reordered, repeated, or made up.

Seeded: the same numbers give the same bytes, so that what is found can be found again.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from tests.stack import body

OUTPUTS = ("offloaded", "in-process", "local", "local-def", "plain")

TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 10_000, b"1.5e-400",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\ufffe"', b"\xff\xfe", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x00", b"null", b"true", b"{}", b"[]",
    b"[" * 2000, b'{"a":' * 2000, b"[" * 3000 + b"]" * 3000, b'"' + b"x" * 5000 + b'"',
    b'"__proto__"', b'"constructor"', b'"../../etc/passwd"', b'"*"', b'"{namespace}:call:x"',
    b"/*", b"//", b"\\", b'"', b",", b":", b"}", b"]", b" " * 3000, b"\r\n\r\n", b"%n%s%x",
    b"${jndi:ldap://x}", b"{{7*7}}", b"'; DROP TABLE calls; --",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 1.5, -1e308, "", " ",
    "\0", "x" * 300, "\u202e\ufeff", "😀" * 70, [], {}, [[]], [None], {"": ""}, {"id": {}},
    {"type": "hello"}, "hello", "call", "0-0", "18446744073709551615-18446744073709551615",
    "99999999999999999999999-1", "-1--1", "$", ">", "+", "\n", {"__proto__": {"x": 1}},
    "e30.aaaa.bbbb", "." * 50, ["a"] * 100, {"namespace": "dash_html_components", "type": "X"},
)  # fmt: skip


def callback_request(rng: random.Random) -> dict[str, Any]:
    """What the renderer posts."""
    value: Any = rng.choice([1, "text", [1, 2], {"a": {"b": None}}, "ü€😀"])
    state = [{"id": "in", "property": "id", "value": "in"}]
    return body(f"{rng.choice(OUTPUTS)}.children", {"in.data": value}, state=state)


def client_message(rng: random.Random, session: str | None) -> dict[str, Any]:
    """One valid message of the browser script."""
    page, request = f"page{rng.randrange(5)}", f"{rng.randrange(10**6)}"
    cursor = f"{rng.randrange(2**41)}-{rng.randrange(3)}"
    kinds: list[dict[str, Any]] = [
        {"type": "hello", "version": 1, "session": session, "cursor": cursor, "pieces": True},
        {"type": "call", "page": page, "request": request, "payload": callback_request(rng)},
        {"type": "call", "page": page, "request": request, "payload": callback_request(rng)},
        {"type": "cancel", "page": page, "request": request},
        {"type": "ack", "cursor": cursor, "direct": rng.randrange(5)},
        {"type": "props", "page": page, "request": request, "payload": {"children": "x"}},
        {"type": "bye", "page": page},
        {"type": "ping"},
    ]
    return rng.choice(kinds)


def send_body(rng: random.Random, session: str | None) -> dict[str, Any]:
    """A valid body of ``send``."""
    messages = [client_message(rng, session) for _ in range(rng.randrange(4))]
    return {"version": 1, "session": session, "messages": messages}


def poll_body(rng: random.Random, session: str | None) -> dict[str, Any]:
    """A body of ``poll`` that a server answers at once: its session is not valid."""
    return {"version": 1, "session": f"{session}x", "cursor": f"{rng.randrange(2**41)}-0"}


def spoil(rng: random.Random, valid: dict[str, Any]) -> bytes:
    """One to three things done to a valid message. It may come out valid, too."""
    data: Any = valid
    if rng.random() < 0.5:
        data = _with_other_value(rng, data)
    wire = json.dumps(data, ensure_ascii=rng.random() < 0.5).encode()
    for _ in range(rng.randrange(3)):
        wire = rng.choice(_BYTES)(rng, wire)
    return wire


def _with_other_value(rng: random.Random, value: Any) -> Any:
    """A copy in which something, anywhere, is another value, missing, or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[str(rng.choice(VALUES))[:100]] = changed.pop(key)
            case _:
                changed[key] = _with_other_value(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        more = [_with_other_value(rng, value[place])] * rng.choice([1, 1, 1, 0, 2, 50])
        return [*value[:place], *more, *value[place + 1 :]]
    return rng.choice(VALUES)


def _cut(rng: random.Random, wire: bytes) -> bytes:
    return wire[: rng.randrange(len(wire) + 1)]


def _flip(rng: random.Random, wire: bytes) -> bytes:
    changed = bytearray(wire)
    for _ in range(rng.randrange(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _graft(rng: random.Random, wire: bytes) -> bytes:
    place = rng.randrange(len(wire) + 1)
    return wire[:place] + rng.choice(TOKENS) + wire[place + rng.randrange(4) :]


def _repeat(rng: random.Random, wire: bytes) -> bytes:
    start, end = sorted((rng.randrange(len(wire) + 1), rng.randrange(len(wire) + 1)))
    return wire[:end] + wire[start:end] * rng.randrange(1, 4) + wire[end:]


def _twice(rng: random.Random, wire: bytes) -> bytes:
    return wire + rng.choice([b"", b"\n", b",", b"\0"]) + wire


def _noise(rng: random.Random, _wire: bytes) -> bytes:
    return rng.randbytes(rng.randrange(200))


_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut, _cut, _flip, _flip, _graft, _graft, _repeat, _twice, _noise,
)  # fmt: skip
