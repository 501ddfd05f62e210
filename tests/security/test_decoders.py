"""Whatever is decoded is read or refused, never anything else.

``python -m tests.security.coverage_fuzz`` looks further, by coverage.
"""

import json
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.security import hostile
from tests.security.decoders import DECODERS, feed

PIECES = st.sampled_from([*hostile.TOKENS, b"p", b"r", b"\x81", b"\xa2id", b"\xc4\xff", b"\x9f"])
ANYTHING = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=6).map(b"".join)
    | st.integers(0, 2**32).map(
        lambda seed: hostile.spoil(
            random.Random(seed), hostile.send_body(random.Random(seed), "e30.x.y")
        )
    )
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)


@settings(max_examples=scaled(60, 5000), deadline=None, derandomize=True, database=None)
@given(ANYTHING)
@example(b"http://[")
@example(b"")
@example(b"\x81\xa2zz" + b"\x91" * 5000 + b"\xc0")  # deep, where nobody looks
@example(b'{"zz":' + b"[" * 5000 + b"]" * 5000 + b"}")
@example(b'{"type":"' + b"\n" * 500 + b'"}')
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for name in DECODERS:
        feed(name, data)
