"""Cursors, as browsers send them. What needs a mailbox is in ``tests/integration``."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dash_dispatch.relay import is_cursor

LARGEST = 2**64 - 1
"""Of either half of a stream id in Redis."""


@pytest.mark.parametrize("value", ["0-0", "1732280000000-3", "5-1", f"{LARGEST - 1}-{LARGEST - 1}"])
def test_an_entry_id_is_a_cursor(value: str) -> None:
    assert is_cursor(value)


@pytest.mark.parametrize(
    "value",
    ["", "-", "5", "5-", "-5", "5-x", "x-5", " 5-1", "5-1 ", "5-1-1", "(5-1", "+", "$", "5.0-1",
     "-1-1", "٣-٣", "²-1", "1_0-1", "5-1\n"],
)  # fmt: skip
def test_anything_else_is_not(value: str) -> None:
    assert not is_cursor(value)


@pytest.mark.parametrize("value", [f"{LARGEST + 1}-0", f"0-{LARGEST + 1}", f"0-{LARGEST}"])
def test_what_redis_cannot_hold_is_not(value: str) -> None:
    """It would be answered with an error, and the browser would send it again for ever."""
    assert not is_cursor(value)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_not(value: str) -> None:
    if is_cursor(value):
        time_ms, _, sequence = value.partition("-")
        assert 0 <= int(time_ms) <= LARGEST
        assert 0 <= int(sequence) < LARGEST


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(0, LARGEST - 1), st.integers(0, LARGEST - 1))
def test_every_entry_id_is_a_cursor(time_ms: int, sequence: int) -> None:
    assert is_cursor(f"{time_ms}-{sequence}")
