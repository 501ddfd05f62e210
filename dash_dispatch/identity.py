"""Who a call is for, as far as one user is told from another."""

from typing import Any

import msgspec
import orjson

from dash_dispatch.protocol import RequestSnapshot


class Identity(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        turns: For fairness: calls of one are served in turn with those of others.
        cache: For ``scope="user"``: results are shared within it.
    """

    turns: str = ""
    cache: str = ""

    @classmethod
    def of(cls, turns: str, snapshot: RequestSnapshot) -> "Identity":
        """A browser, as it is logged in: who logs in or out is somebody else."""
        login = [snapshot.cookies, _header(snapshot, "authorization")]
        return cls(turns, canonical([turns, login]))


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _header(snapshot: RequestSnapshot, name: str) -> str:
    return next((value for key, value in snapshot.headers.items() if key.lower() == name), "")
