"""How much of a thing a test does: a little in every run, all of it when asked to."""

import os


def scaled(small: int, full: int) -> int:
    """``full`` when ``TEST_SCALE=full`` is in the environment (``make chaos``), else ``small``."""
    return full if os.environ.get("TEST_SCALE") == "full" else small
