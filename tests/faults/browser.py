"""A browser that loses its connections and comes back by itself, as the browser script does."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from typing import Any, Self

import httpx
from websockets.exceptions import WebSocketException

from tests.client import Client, Message, WebsocketClient
from tests.stack import body, eventually

LOST = (OSError, httpx.HTTPError, WebSocketException)
"""What a client's own words fail with when its connection is gone, or none can be had."""

ACKNOWLEDGED = 16
"""Entries after which the browser says what it has."""

PAUSE_S = 0.02


class Browser:
    """One page in one browser: keeps what it asks for until it is answered, whatever is cut.

    Args:
        client: Its transport, with the first address.
        addresses: Web processes that it comes back to, in turns; one for a proxy's.
    """

    def __init__(self, client: Client, addresses: Sequence[str]) -> None:
        self.client = client
        self._addresses = itertools.cycle(addresses)
        self._keeping: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._up = False
        self.returns = 0
        self.marks: dict[str, list[Any]] = {}
        """What the updates of each request said, in the order in which they came."""
        client.on_message = self._note

    async def __aenter__(self) -> Self:
        await self._come()
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping
        await self._lose()

    async def call(self, output: str, value: Any) -> str:
        """Ask for a callback; its request's name. Without a connection it is asked for later."""
        request = f"r{next(self._numbers)}"
        payload = body(output, {"in.data": value})
        page = self.client.page
        message = {"type": "call", "page": page, "request": request, "payload": payload}
        self.client.pending[request] = message
        if self._up:
            with contextlib.suppress(*LOST):
                await self.client.say(message)
        return request

    async def children(self, request: str, within_s: float = 60.0) -> Any:
        """What the call wrote into its output."""
        assert self._keeping is not None
        keeping = self._keeping
        found = self.client.seen.outcomes

        def come() -> bool:
            if request not in found and keeping.done():
                keeping.result()
            return request in found

        await eventually(come, f"outcome of {request}", within_s)
        assert found[request]["status"] == "ok", found[request]
        (props,) = found[request]["data"]["response"].values()
        return props["children"]

    def cut(self) -> None:
        """The cable is pulled, in whatever state the connection is."""
        if isinstance(self.client, WebsocketClient) and hasattr(self.client, "connection"):
            self.client.connection.transport.abort()

    async def _keep(self) -> None:
        while True:
            reading = self.client._reading
            assert reading is not None
            await asyncio.wait([reading])
            self._up = False
            await self._lose()
            await self._come()
            self.returns += 1

    async def _come(self) -> None:
        while True:
            try:
                async with asyncio.timeout(10):
                    known = set(self.client.pending)
                    await self.client.connect(next(self._addresses))
                    self._up = True
                    # Those that were asked for while this was on its way.
                    later = self.client.pending.keys() - known
                    await self.client.say(*(self.client.pending[name] for name in later))
            except (*LOST, TimeoutError):
                self._up = False
                await self._lose()
                await asyncio.sleep(random.uniform(PAUSE_S, 5 * PAUSE_S))
            else:
                return

    async def _lose(self) -> None:
        # What is lost was perhaps never there.
        with contextlib.suppress(*LOST, AttributeError, RuntimeError):
            await self.client.cut()

    def _note(self, message: Message) -> None:
        if message["type"] == "set_props":
            (value,) = message["payload"]["props"].values()
            self.marks.setdefault(message["requestId"], []).append(value)
