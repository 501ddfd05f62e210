"""Looks for what the decoders do not expect, led by coverage, for as long as it is let.

pip install atheris      # CPython 3.11 to 3.13 on Linux; no part of the lock
python -m tests.security.coverage_fuzz -max_total_time=600
"""

import random
import sys

import atheris

with atheris.instrument_imports(include=["dash_dispatch"]):
    from tests.security import hostile
    from tests.security.decoders import DECODERS, feed

NAMES = sorted(DECODERS)


def one_input(data: bytes) -> None:
    """The first byte chooses the decoder; some inputs are valid ones that were spoilt."""
    if not data:
        return
    name, rest = NAMES[data[0] % len(NAMES)], data[1:]
    feed(name, rest)
    if len(rest) == 8:
        rng = random.Random(rest)
        feed(name, hostile.spoil(rng, hostile.send_body(rng, "e30.x.y")))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
