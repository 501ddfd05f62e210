"""A large frame, sent in pieces, is the same frame."""

from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dash_dispatch.longpoll import SLICE_BYTES, SlicedResponse
from dash_dispatch.protocol import Hello, decode_client_message, encode_frame, pieces, slices


def together(parts: Iterable[str]) -> str:
    """As the browser script does it."""
    *more, last = parts
    assert all(part.startswith("+") for part in more)
    assert last.startswith("=")
    return "".join(part[1:] for part in (*more, last))


@given(st.text(min_size=1), st.integers(4, 50))
def test_pieces_are_put_together_to_the_frame(text: str, size: int) -> None:
    message = orjson.dumps({"type": "callback_response", "payload": text})

    frame = together(pieces("1-2", message, size))

    assert frame == encode_frame([("1-2", message)]).decode()


@pytest.mark.parametrize("size", [4, 100])
def test_no_piece_is_much_larger_than_asked_for(size: int) -> None:
    message = orjson.dumps("ä€😀" * 100)

    *more, last = pieces(7, message, size)

    assert max(len(part.encode()) for part in more) <= max(size + 1, len("+[[7,"))
    assert last == "=]]"


async def test_a_large_response_is_sent_in_slices() -> None:
    text = "ä€😀" * SLICE_BYTES
    response = SlicedResponse(text)

    async with response.response as body:
        sent = [part async for part in body]

    assert response.content_length == len(text.encode())
    assert max(map(len, sent)) <= SLICE_BYTES
    assert "".join(part.decode() for part in sent) == text == await response.get_data(as_text=True)


def test_text_that_is_none_is_passed_on() -> None:
    """Somebody else writes to this Redis. It must not hold up the loop for ever."""
    text = b"\x80" * 50

    assert b"".join(slices(text, 8)) == text


def test_a_script_of_before_takes_no_pieces() -> None:
    assert decode_client_message(b'{"type":"hello","version":1}') == Hello(1, pieces=False)
