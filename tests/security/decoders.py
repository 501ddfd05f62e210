"""Everything of the package that decodes what others have written, as functions of bytes.

Each either returns, or raises what its callers expect; anything else is a finding.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
from werkzeug.datastructures import Headers

from dash_dispatch import guards
from dash_dispatch.config import Settings
from dash_dispatch.connection import UNREADABLE
from dash_dispatch.errors import DispatchError
from dash_dispatch.protocol import (
    Outcome,
    RequestSnapshot,
    decode_callback_body,
    decode_client_message,
    decode_poll,
    decode_send,
    decode_spec,
    legible,
)
from dash_dispatch.relay import is_cursor
from dash_dispatch.remote import decode_arguments
from dash_dispatch.session import Signer
from dash_dispatch.store import ActiveCall, Store

SECRET = "a secret for tests only"
_signer = Signer(SECRET, "app")
_store = Store(Settings(redis_url=cast(Any, "redis://localhost:1"), secret_key=cast(Any, SECRET)))


class _App:
    _websocket_allowed_origins = ("https://partner.example",)


def _handle(data: bytes) -> None:
    assert _signer.verify(data.decode("latin1")) is None


def _cursor(data: bytes) -> None:
    if is_cursor(data.decode("latin1")):
        time_ms, _, sequence = data.decode().partition("-")
        assert max(int(time_ms), int(sequence)) < 2**64 - 1


def _origin(data: bytes) -> None:
    text = data.decode("latin1").replace("\n", "").replace("\r", "")
    refused = guards.refuse_origin(_App(), Headers({"Origin": text, "Host": "app.example"}))
    assert refused is not None or "app.example" in text or text == "https://partner.example"


def _form(data: bytes) -> None:
    kind = data.decode("latin1").replace("\n", "").replace("\r", "")
    if guards.refuse_form(Headers({"Content-Type": kind})) is None:
        assert kind.lower().lstrip().startswith("application/json")


def _log(data: bytes) -> None:
    line = legible(data.decode("latin1"))
    assert line.isprintable()
    assert len(line) < 2000


def _mail(data: bytes) -> None:
    """An entry whose fields are these bytes, cut where they say."""
    size = data[0] % 8 + 1 if data else 1
    parts = [data[place : place + size] for place in range(1, len(data), size)]
    names = [b"p", b"r", b"c", b"s", b"b", b"d", b"q", b"n", b"h"]
    fields = dict(zip(names, parts, strict=False))
    coroutine = _store._entry("1-0", fields)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    finally:
        coroutine.close()
        asyncio.iscoroutine(coroutine)


DECODERS: dict[str, tuple[Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "client message": (decode_client_message, (DispatchError,)),
    "send": (decode_send, (DispatchError,)),
    "poll": (decode_poll, (DispatchError,)),
    "callback request": (decode_callback_body, (DispatchError,)),
    "call": (decode_spec, (DispatchError,)),
    "outcome": (lambda data: msgspec.msgpack.decode(data, type=Outcome), UNREADABLE),
    "snapshot": (lambda data: msgspec.json.decode(data, type=RequestSnapshot), UNREADABLE),
    "active call": (lambda data: msgspec.json.decode(data, type=ActiveCall), UNREADABLE),
    "arguments": (decode_arguments, UNREADABLE),
    "mailbox entry": (_mail, UNREADABLE),
    "handle": (_handle, ()),
    "cursor": (_cursor, ()),
    "origin": (_origin, ()),
    "content type": (_form, ()),
    "log line": (_log, ()),
}


def feed(name: str, data: bytes) -> None:
    """Let a decoder read it."""
    decode, expected = DECODERS[name]
    try:
        decode(data)
    except expected:
        return
