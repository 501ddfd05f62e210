"""Logins: who is behind each connection of this process, so that it ends when the login does."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from dash_dispatch.protocol import RequestSnapshot
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)

ENDED = "the login has ended"


class Login:
    """What one connection came in with.

    Attributes:
        user: Who it is, as of ``Dash(user=...)``; None when that is not known.
        snapshot: The request that it began with.
        ended: Set when it is not good any more.
        tell: Called then, for whoever waits for something else.
    """

    def __init__(self, user: str | None, snapshot: RequestSnapshot) -> None:
        self.user = user
        self.snapshot = snapshot
        self.ended = asyncio.Event()
        self.tell: Callable[[], None] = lambda: None

    def end(self) -> None:
        """It is not good any more."""
        self.ended.set()
        self.tell()


class Logins:
    """The logins behind this process' connections.

    Args:
        app: The user's app.
        threads: Where its ``Dash(user=...)`` runs.
    """

    def __init__(self, app: Any, threads: Threads) -> None:
        self._app = app
        self._threads = threads
        self._open: dict[str, set[Login]] = defaultdict(set)

    async def identify(self, snapshot: RequestSnapshot) -> str | None:
        """Who a request is from; None when the app does not say, or fails to."""
        if self._app.user_of is None:
            return None
        try:
            return str(await self._threads.wrap(self._app.user_of)(snapshot))
        except Exception:  # noqa: BLE001 - a page may be open to strangers; their calls are refused
            return None

    @contextlib.contextmanager
    def watch(self, user: str | None, snapshot: RequestSnapshot) -> Iterator[Login]:
        """For as long as a connection is open: `end` reaches it."""
        login = Login(user, snapshot)
        if user is None:
            yield login
            return
        self._open[user].add(login)
        try:
            yield login
        finally:
            self._open[user].discard(login)
            if not self._open[user]:
                del self._open[user]

    def end(self, user: str) -> None:
        """End all logins of a user: their connections close."""
        logins = list(self._open.get(user, ()))
        if logins:
            logger.info("⊘ a login has ended: %d connections", len(logins))
        for login in logins:
            login.end()

    async def is_good(self, login: Login) -> bool:
        """Whether the app still takes a connection for the same user as at its beginning."""
        return login.user is None or await self.identify(login.snapshot) == login.user
