"""What there is in Redis when nothing runs any more."""

import sys
from collections import Counter
from typing import Any

FIXED = {
    "callbacks", "capacity", "clock", "durations", "gates", "health", "lanes", "libraries",
    "limits", "swept", "sweeper", "turns", "wake", "workers",
}  # fmt: skip
"""Kinds of keys of which there are as many as processes, lanes and callbacks: not as calls."""
FADING = {"call", "mailbox", "result", "cached"}
"""Kept for a while, for a browser that comes back."""


def kinds(redis: Any, namespace: str) -> dict[str, list[str]]:
    """All keys of a namespace, by their kind."""
    found: dict[str, list[str]] = {}
    for key in redis.scan_iter(f"{namespace}:*", count=1000):
        name = key.decode()
        found.setdefault(name.removeprefix(f"{namespace}:").partition(":")[0], []).append(name)
    return found


def held(redis: Any, namespace: str) -> list[str]:
    """Keys that stand for a call that has not ended: a slot, a place, a claim."""
    found = kinds(redis, namespace)
    return sorted(key for kind in found.keys() - FIXED - FADING for key in found[kind])


def endless(redis: Any, namespace: str, within_s: float) -> list[str]:
    """What is kept for a while, and has no end within this time."""
    found = kinds(redis, namespace)
    names = [key for kind in found.keys() & FADING for key in found[kind]]
    return [
        key for key in names if not 0 <= redis.pttl(key) <= 1000 * within_s and redis.exists(key)
    ]


def counted(redis: Any, namespace: str) -> dict[str, int]:
    """How many keys there are of each kind."""
    return dict(sorted(Counter({k: len(v) for k, v in kinds(redis, namespace).items()}).items()))


def tell(text: str) -> None:
    """Figures, for those who ran the test to see them (``pytest -s``)."""
    sys.stdout.write(f"\n{text}\n")
