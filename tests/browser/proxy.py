"""A reverse proxy that can misbehave: refuse websockets, cut connections, change its target."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

HEAD_END = b"\r\n\r\n"
CHUNK_BYTES = 64 * 1024
REFUSAL = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\nCache-Control: no-store"
    + HEAD_END
)


class Proxy:
    """One stable address in front of a web process that may be cut off or replaced.

    It passes bytes on as they come and reads only how each connection begins, which is enough to
    know a websocket: browsers open a fresh connection for every handshake. Runs on a loop and a
    thread of its own; its methods may be called from the test's thread. Holds no more in memory
    than what is on its way: reading stops while the other side does not take it.

    Args:
        target: Port on this machine that connections go to.
        refuse_upgrades: Answer websocket handshakes with 403, as some company proxies do.
    """

    def __init__(self, target: int, *, refuse_upgrades: bool = False) -> None:
        self.target = target
        self.refuse_upgrades = refuse_upgrades
        self.connections = 0
        """Connections that browsers have opened."""
        self.upgrades = 0
        """Websockets that were passed on."""
        self.refusals = 0
        """Websocket handshakes that were refused."""
        # Of every connection that is not closed yet, also of those that only flush what they have:
        # the loop holds them, and the one who reads them may never come back.
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def cut_all(self) -> int:
        """Reset every open connection, on both sides; returns how many browsers' there were."""
        return self._run(self._cut_all())

    def end(self) -> None:
        """Close everything."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _cut_all(self) -> int:
        for transport in list(self._transports):
            transport.abort()
        return len(self._tasks)

    async def _end(self) -> None:
        self._server.close()
        # A connection that was accepted just now comes to be handled some turns of the loop later.
        for _ in range(5):
            await asyncio.sleep(0)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cut_all()
        # What was closed says good-bye in the turns that follow.
        for _ in range(5):
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Here and not in the task: one that is cancelled before its first step closes nothing.
        self._transports.add(writer.transport)
        task = asyncio.create_task(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A side that resets its connection, or a target that is not there (any more), ends this
        # connection: the browser sees it closed.
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = await reader.readuntil(HEAD_END)
        if b"\r\nupgrade: websocket\r\n" in head.lower():
            if self.refuse_upgrades:
                self.refusals += 1
                writer.write(REFUSAL)
                await writer.drain()
                return
            self.upgrades += 1
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target)
        self._transports.add(upstream.transport)
        try:
            upstream.write(head)
            both = {
                asyncio.create_task(_pass_on(reader, upstream)),
                asyncio.create_task(_pass_on(upstream_reader, writer)),
            }
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            upstream.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
