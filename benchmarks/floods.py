"""Clients that ask for as much as a server gives: the next request goes out with each answer.

They keep a fixed number of requests in flight, check every answer, and spend as little as they
can: no task, no future, no parsing where comparing does. What they use is printed with each figure.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from arq.connections import RedisSettings, create_pool
from arq.constants import default_queue_name

from benchmarks.clients import (
    CallSocket,
    DispatchSocket,
    StockSocket,
    WrongAnswer,
    body,
    check,
)

# What Chromium sends along. Servers differ in what a header costs them.
HEADERS = (
    "Connection: keep-alive\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/140.0.0.0 Safari/537.36\r\n"
    "Accept: application/json\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n"
    "Content-Type: application/json\r\n"
)


class Flood:
    """Something that counts its answers while it is open."""

    def __init__(self) -> None:
        self.answered = 0
        self.error: Exception | None = None

    async def open(self) -> None:
        """Begin."""
        raise NotImplementedError

    async def close(self) -> None:
        """End, and wait until all is answered.

        Raises:
            WrongAnswer, ConnectionError: Whatever went wrong meanwhile.
        """
        raise NotImplementedError


class _Exchange(asyncio.Protocol):
    """One HTTP/1.1 connection, with one request in flight."""

    def __init__(self, flood: "HttpFlood", request: bytes, expected: bytes) -> None:
        self._flood = flood
        self._request = request
        self._expected = expected
        self._buffer = b""
        self._transport: Any = None
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n") + 4
        whole = end >= 4 and len(self._buffer) >= end + len(self._expected)
        if not whole and self._buffer[9:12] in (b"200", b""):
            return
        if self._buffer[9:12] != b"200" or self._buffer[end:] != self._expected:
            self._end(WrongAnswer(f"answered {self._buffer[:300]!r}"))
            return
        self._buffer = b""
        self._flood.answered += 1
        if self._flood.stopping:
            self._end(None)
        else:
            self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(f"connection lost: {exc}"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            self._flood.error = self._flood.error or error
            self.done.set_result(None)
            self._transport.abort()


class HttpFlood(Flood):
    """A callback over HTTP, on ``connections`` connections at once."""

    def __init__(self, address: str, output: str, connections: int) -> None:
        super().__init__()
        self._host = urlsplit(address).netloc
        self._output = output
        self._connections = connections
        self._exchanges: list[_Exchange] = []
        self.stopping = False

    def _exchange(self, value: int) -> _Exchange:
        payload = orjson.dumps(body(self._output, value))
        head = (
            f"POST /_dash-update-component HTTP/1.1\r\nHost: {self._host}\r\n{HEADERS}"
            f"Origin: http://{self._host}\r\nReferer: http://{self._host}/\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        answer = {"multi": True, "response": {self._output: {"children": value}}}
        return _Exchange(self, head.encode() + payload, orjson.dumps(answer))

    async def open(self) -> None:
        self.stopping = False
        name, _, port = self._host.partition(":")
        loop = asyncio.get_running_loop()
        for number in range(self._connections):
            _, exchange = await loop.create_connection(
                lambda number=number: self._exchange(number), name, int(port)
            )
            self._exchanges.append(exchange)

    async def close(self) -> None:
        self.stopping = True
        for exchange in self._exchanges:
            await exchange.done
        self._exchanges.clear()
        if self.error is not None:
            raise self.error


class SocketFlood(Flood):
    """A callback over ``sockets`` websockets, ``in_flight`` at once on each."""

    def __init__(
        self, address: str, protocol: type[CallSocket], output: str, *, sockets: int, in_flight: int
    ) -> None:
        super().__init__()
        self._address = address
        self._protocol = FLOODING[protocol]
        self._output = output
        self._counts = sockets, in_flight
        self._sockets: list[Any] = []

    async def open(self) -> None:
        sockets, in_flight = self._counts
        for _ in range(sockets):
            socket = self._protocol()
            await socket.open(self._address)
            self._sockets.append(socket)
        for socket in self._sockets:
            socket.flood(self._output, in_flight, self._count)

    def _count(self) -> None:
        self.answered += 1

    async def close(self) -> None:
        for socket in self._sockets:
            await socket.drain()
            socket.close()
        self._sockets.clear()


class ArqFlood(Flood):
    """Jobs of plain arq: what has ended is replaced every ``LOOK_S``."""

    LOOK_S = 0.01

    def __init__(self, port: int, database: int, job: str, in_flight: int) -> None:
        super().__init__()
        self._where = RedisSettings(port=port, database=database, conn_timeout=30)
        self._job = job
        self._in_flight = in_flight
        self._sent = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._pool = await create_pool(self._where)
        self._task = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        while True:
            left = await self._pool.zcard(default_queue_name)
            self.answered = self._sent - left
            new = self._in_flight - left
            for _ in range(new):
                await self._pool.enqueue_job(self._job, 0)
                self._sent += 1
            await asyncio.sleep(self.LOOK_S)

    async def close(self) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()
        async with asyncio.timeout(30):
            while await self._pool.zcard(default_queue_name):  # noqa: ASYNC110 - arq tells nobody
                await asyncio.sleep(self.LOOK_S)
        self._sent = self.answered = 0
        await self._pool.aclose()


class _Flooding(CallSocket):
    """Asks again with each answer."""

    def flood(self, output: str, in_flight: int, count: Callable[[], None]) -> None:
        self._output = output
        self._count = count
        self._values: dict[str, int] = {}
        self._next = itertools.count(1)
        self._stopping = False
        self._drained = asyncio.get_running_loop().create_future()
        for _ in range(in_flight):
            self._ask()

    def _ask(self) -> None:
        value = next(self._next)
        request = f"{self.page}-{value}"
        self._values[request] = value
        self._send(self._request(request, body(self._output, value)))

    def _answered(self, message: dict[str, Any]) -> None:
        try:
            value = self._values.pop(message["requestId"])
            if message["payload"]["status"] != "ok":
                raise WrongAnswer(f"answered {message}")
            check(message["payload"]["data"], self._output, value)
        except (WrongAnswer, KeyError) as error:
            self._fail(error)
            return
        self._count()
        if not self._stopping:
            self._ask()
        elif not self._values:
            self._drained.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._drained.done():
            self._drained.set_exception(error)

    def _on_close(self, closed: "asyncio.Future[str]") -> None:
        super()._on_close(closed)
        self._fail(ConnectionError(closed.result()))

    async def drain(self) -> None:
        """Ask no more, and wait until all is answered."""
        self._stopping = True
        async with asyncio.timeout(30):
            await self._drained


class _DispatchFlooding(_Flooding, DispatchSocket):
    """Over our protocol."""


class _StockFlooding(_Flooding, StockSocket):
    """Over Dash's own."""


FLOODING: dict[type[CallSocket], Any] = {
    DispatchSocket: _DispatchFlooding,
    StockSocket: _StockFlooding,
}
