"""The client: HTTP and websocket over bare asyncio, lean enough never to be what is measured."""

import asyncio
import base64
import itertools
import os
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson

ACK_S = 0.5
ACK_ENTRIES = 64
"""When the browser script acknowledges, and so this client."""

SOCKET_PING_S = 25.0
"""How long the browser script leaves a silent connection alone."""

LOST_S = 20.0
"""A background callback that has not come by then does not come any more."""

_values = itertools.count(1)


class WrongAnswer(Exception):
    """A server answered something else than what the callback returns."""


def next_value() -> int:
    """A value that no request had before: stock background callbacks share results by value."""
    return next(_values)


def body(output: str, value: Any) -> dict[str, Any]:
    """A callback request, as Dash's renderer makes it: ``output`` is an id, its input is ``in``."""
    return {
        "output": f"{output}.children",
        "outputs": {"id": output, "property": "children"},
        "inputs": [{"id": "in", "property": "data", "value": value}],
        "changedPropIds": ["in.data"],
        "parsedChangedPropsIds": ["in.data"],
    }


def check(answer: Any, output: str, value: Any) -> None:
    """Every benchmarked callback returns its input.

    Raises:
        WrongAnswer: It did not.
    """
    try:
        if answer["response"][output]["children"] == value:
            return
    except (KeyError, TypeError):
        pass
    raise WrongAnswer(f"{output}({value!r}) answered {answer!r}")


BROWSER = (
    "Pragma: no-cache\r\nCache-Control: no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/140.0.0.0 Safari/537.36\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
)
"""What Chromium says besides when it opens a websocket. A server may keep all of it, and what it
takes to compress, for as long as the page is open."""


class _Frames(asyncio.Protocol):
    """The client's half of RFC 6455. It can be sent compressed messages, and sends none.

    The mask is zero, which every server undoes like any other: it is there against caches between
    client and server, and there is none.
    """

    def __init__(self, request: bytes, on_text: Any) -> None:
        self._request = request
        self._on_text = on_text
        self._buffer = bytearray()
        self._parts = bytearray()
        self._compressed = False
        self._inflate: Any = None
        self._keeps_window = True
        self._upgraded = False
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc}")

    def _end(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
        if not self.closed.done():
            self.closed.set_result(reason)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded and not self._upgrade():
            return
        while self._frame():
            pass

    def _upgrade(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            self._end(f"no websocket: {bytes(head[:200])!r}")
            return False
        self._keeps_window = b"server_no_context_takeover" not in head
        self._buffer = rest
        self._upgraded = True
        self.opened.set_result(None)
        return True

    def _frame(self) -> bool:
        """Take one frame from the buffer; False when there is no whole one."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return False
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return False
        kind, last = buffer[0] & 0x0F, buffer[0] & 0x80
        if kind in (1, 2):
            self._compressed = bool(buffer[0] & 0x40)
        payload = bytes(buffer[start : start + size])
        del buffer[: start + size]
        self._take(kind, bool(last), payload)
        return True

    def _take(self, kind: int, last: bool, payload: bytes) -> None:
        if kind == 8:
            self._end(f"closed by the server: {payload[2:].decode(errors='replace')}")
        elif kind == 9:
            self.send(payload, 10)
        elif kind in (0, 1, 2):
            self._parts += payload
            if last:
                text, self._parts = bytes(self._parts), bytearray()
                self._on_text(self._inflated(text) if self._compressed else text)

    def _inflated(self, message: bytes) -> bytes:
        self._inflate = self._inflate or zlib.decompressobj(-zlib.MAX_WBITS)
        text: bytes = self._inflate.decompress(message + b"\0\0\xff\xff")
        if not self._keeps_window:
            self._inflate = None
        return text

    def send(self, payload: bytes, kind: int = 1) -> None:
        assert self._transport is not None
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | kind, 0x80 | size)
        elif size < 65_536:
            head = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, size)
        self._transport.write(head + b"\0\0\0\0" + payload)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class CallSocket:
    """Callbacks over one websocket, many at a time. Subclasses know a protocol each."""

    def __init__(self) -> None:
        self.page = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._frames: _Frames | None = None

    async def open(self, address: str, headers: str = "") -> None:
        """Connect, and say what has to be said first, with more ``headers``."""
        host = urlsplit(address).netloc
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /_dash-ws-callback HTTP/1.1\r\nHost: {host}\r\nOrigin: {address}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\n{headers}"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        name, _, port = host.partition(":")
        _, self._frames = await loop.create_connection(
            lambda: _Frames(request.encode(), self._on_text), name, int(port)
        )
        await self._frames.opened
        self._frames.closed.add_done_callback(self._on_close)
        await self._greet()

    async def __aenter__(self) -> "CallSocket":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._frames is None or self._frames.closed.done()

    def close(self) -> None:
        """Close the connection; pending calls fail."""
        if self._frames is not None:
            self._frames.close()

    def _on_close(self, closed: "asyncio.Future[str]") -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionError(closed.result()))

    def _send(self, message: dict[str, Any]) -> None:
        assert self._frames is not None
        if self.closed:
            raise ConnectionError(self._frames.closed.result())
        self._frames.send(orjson.dumps(message))

    async def call(self, output: str, value: Any) -> None:
        """Run a callback and wait for its answer, which is checked."""
        check(await self.ask(output, value), output, value)

    async def ask(self, output: str, value: Any) -> Any:
        """Run a callback; returns its answer."""
        request = f"{self.page}-{next(self._numbers)}"
        future = self._pending[request] = asyncio.get_running_loop().create_future()
        try:
            self._send(self._request(request, body(output, value)))
            payload = await future
        finally:
            del self._pending[request]
        if payload["status"] != "ok":
            raise WrongAnswer(f"{output}({value!r}): {payload}")
        return payload["data"]

    def _answered(self, message: dict[str, Any]) -> None:
        future = self._pending.get(message.get("requestId", ""))
        if future is not None and not future.done():
            future.set_result(message["payload"])

    async def _greet(self) -> None:
        """Before the first call."""

    def _request(self, request: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _on_text(self, text: bytes) -> None:
        raise NotImplementedError


def _ignore(_: object) -> None:
    """For updates that nobody counts."""


class DispatchSocket(CallSocket):
    """dash_dispatch's protocol, acknowledgements included."""

    def __init__(self) -> None:
        super().__init__()
        self._cursor: str | None = None
        self._direct = 0
        self._unacked = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pieces: list[bytes] = []
        self.on_props: Callable[[dict[str, Any]], None] = _ignore
        self.token = ""
        self._welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def _greet(self) -> None:
        self._send({"type": "hello", "version": 1, "session": None, "cursor": None, "pieces": True})
        await self._welcome

    def _request(self, request: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"type": "call", "page": self.page, "request": request, "payload": payload}

    def _on_text(self, text: bytes) -> None:
        if text[:1] in (b"+", b"="):
            self._pieces.append(text[1:])
            if text[:1] == b"+":
                return
            text = b"".join(self._pieces)
            self._pieces.clear()
        for mark, message in orjson.loads(text):
            if mark is not None:
                self._received(mark)
            if message["type"] == "callback_response":
                self._answered(message)
            elif message["type"] == "set_props":
                self.on_props(message["payload"]["props"])
            elif message["type"] == "welcome":
                self.token = message["session"]
                self._welcome.set_result(None)

    def ping(self) -> None:
        """Say that this browser is still there."""
        self._send({"type": "ping"})

    def _received(self, mark: str | int) -> None:
        if isinstance(mark, str):
            self._cursor = mark
        else:
            self._direct = mark
        self._unacked += 1
        if self._unacked >= ACK_ENTRIES:
            self._acknowledge()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unacked = 0
        if not self.closed:
            self._send({"type": "ack", "cursor": self._cursor, "direct": self._direct})

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


async def beat(sockets: list[DispatchSocket], every_s: float) -> None:
    """Ping as browsers do, each page at a moment of its own. Until it is cancelled."""
    started = asyncio.get_running_loop().time()
    for number in itertools.count():
        due = started + number * every_s / len(sockets)
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        sockets[number % len(sockets)].ping()


class StockSocket(CallSocket):
    """Dash's own protocol."""

    def _request(self, request: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "callback_request",
            "rendererId": self.page,
            "requestId": request,
            "payload": payload,
        }

    def _on_text(self, text: bytes) -> None:
        found = orjson.loads(text)
        for message in found if isinstance(found, list) else [found]:
            if message["type"] == "callback_response":
                self._answered(message)


class HungUp(ConnectionError):
    """A server closed the connection instead of answering a request."""

    def __init__(self, *, nothing_said: bool) -> None:
        super().__init__("the server closed the connection before it had answered")
        self.nothing_said = nothing_said


class _Connection:
    """One HTTP/1.1 connection, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reusable = True

    @property
    def alive(self) -> bool:
        """Whether the server has not closed it while it was idle."""
        return self.reusable and not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body."""
        self.reusable = False
        self._writer.write(request)
        try:
            return await self._answer()
        except asyncio.IncompleteReadError as error:
            # It is an EOFError, too, which click takes for somebody who pressed Ctrl-D.
            raise HungUp(nothing_said=not error.partial) from error
        except ConnectionError as error:
            raise HungUp(nothing_said=True) from error

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        found = head.partition(b"\r\ncontent-length:")[2]
        if not found and status != 204:
            raise WrongAnswer(f"a response without Content-Length: {head!r}")
        size = int(found.split(b"\r\n", 1)[0]) if found else 0
        answer = await self._reader.readexactly(size) if size else b""
        self.reusable = b"\r\nconnection: close" not in head
        return status, answer

    def close(self) -> None:
        self._writer.close()


class Http:
    """Callbacks over HTTP. Each request has a connection to itself, taken from those that idle."""

    def __init__(self, address: str, limit: int = 4000) -> None:
        self._host = urlsplit(address).netloc
        self._idle: list[_Connection] = []
        self._limit = asyncio.Semaphore(limit)

    async def __aenter__(self) -> "Http":
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    async def post(self, payload: bytes, query: str = "") -> tuple[int, bytes]:
        """POST to ``_dash-update-component``; returns status and body."""
        head = (
            f"POST /_dash-update-component{query} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        return await self._exchange(head.encode() + payload)

    async def get(self, path: str) -> Any:
        """GET something that is JSON."""
        request = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n"
        status, answer = await self._exchange(request.encode())
        if status != 200:
            raise WrongAnswer(f"GET {path}: HTTP {status}")
        return orjson.loads(answer)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        async with self._limit:
            while (connection := self._kept()) is not None:
                try:
                    return await self._over(connection, request)
                except HungUp as error:
                    # It was closed for having idled, as the request was on its way. Browsers
                    # send it again then.
                    if not error.nothing_said:
                        raise
            return await self._over(await self._new(), request)

    async def _over(self, connection: _Connection, request: bytes) -> tuple[int, bytes]:
        try:
            return await connection.exchange(request)
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
            connection.close()
        return None

    async def _new(self) -> _Connection:
        name, _, port = self._host.partition(":")
        return _Connection(*await asyncio.open_connection(name, int(port)))

    async def call(self, output: str, value: Any) -> None:
        """Run a callback and wait for its answer, which is checked."""
        status, answer = await self.post(orjson.dumps(body(output, value)))
        if status != 200:
            raise WrongAnswer(f"{output}({value!r}): HTTP {status} {answer[:300]!r}")
        check(orjson.loads(answer), output, value)

    async def background(self, output: str, value: Any, interval_s: float) -> bool:
        """Run a stock background callback, polled as Dash's renderer polls.

        The first request starts it; each further one comes ``interval_s`` after the last answer,
        with the job's handles in the query and the inputs emptied.

        Returns:
            False when the result got lost: a 204 or a 500 came in its place, or nothing did.
            Dash's manager for Celery sometimes deletes a result, and that for Diskcache stumbles
            over a process that has ended already.
        """
        status, answer = await self.post(orjson.dumps(body(output, value)))
        poll = orjson.dumps(body(output, None))
        query = ""
        given_up = time.perf_counter() + LOST_S
        while status == 200 and time.perf_counter() < given_up:
            found = orjson.loads(answer)
            if "response" in found:
                check(found, output, value)
                return True
            query = query or f"?cacheKey={found['cacheKey']}&job={found['job']}"
            await asyncio.sleep(interval_s)
            status, answer = await self.post(poll, query)
        if status in (200, 204, 500):
            return False
        raise WrongAnswer(f"{output}({value!r}): HTTP {status} {answer[:300]!r}")
