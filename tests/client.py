"""A browser's script, as far as the wire goes: keeps its session, cursor and pending calls.

Speaks both transports, can be cut off, and comes back, to another web process too.
"""

import asyncio
import contextlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, cast

import httpx
from itsdangerous import URLSafeTimedSerializer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from dash_dispatch.protocol import call_id
from tests.stack import body, eventually

WITHIN_S = 20.0
NO_TLS = False
"""For clients of httpx: no certificates are read for what is plain HTTP, which takes 30 ms."""
Message = dict[str, Any]


class Received(NamedTuple):
    """One message as it came."""

    mark: str | int | None
    message: Message


def order(entry: str) -> tuple[int, int]:
    """Where an entry stands in its mailbox."""
    time_ms, _, sequence = entry.partition("-")
    return int(time_ms), int(sequence)


@dataclass
class Seen:
    """What a client has been sent, duplicates left out as the browser script leaves them out."""

    received: list[Received] = field(default_factory=list)
    outcomes: dict[str, Message] = field(default_factory=dict)
    updates: list[Message] = field(default_factory=list)
    questions: list[Message] = field(default_factory=list)
    controls: list[Message] = field(default_factory=list)
    duplicates: list[Received] = field(default_factory=list)
    """Mailbox entries that came again."""
    strays: list[Message] = field(default_factory=list)
    """Outcomes of requests that were not pending (any more)."""


class Client(ABC):
    """One browser with one page.

    Args:
        address: A web process: ``http://127.0.0.1:8050``.
        prefix: The app's pathname prefix.
        headers: Sent with every request; an ``Origin`` of None leaves that out.
    """

    def __init__(
        self, address: str, *, prefix: str = "/", headers: dict[str, str | None] | None = None
    ) -> None:
        self.address = address
        self.prefix = prefix
        self._headers = headers or {}
        self.page = uuid.uuid4().hex
        self.session: str | None = None
        self.cursor: str | None = None
        self.direct = 0
        self.pending: dict[str, Message] = {}
        self.seen = Seen()
        self.welcomes: list[Message] = []
        self.on_message: Callable[[Message], None] | None = None
        self._reading: asyncio.Task[None] | None = None

    def call_id(self, request: str, page: str | None = None) -> str:
        """The id of one of its calls, as it stands in Redis and in logs."""
        return call_id(self.session_id, page or self.page, request)

    @property
    def session_id(self) -> str:
        """Its session, as it stands in Redis."""
        assert self.session is not None
        return str(URLSafeTimedSerializer("").loads_unsafe(self.session)[1])

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        given: dict[str, str | None] = {"Origin": self.address, **self._headers}
        return {name: value for name, value in given.items() if value is not None}

    async def connect(self, address: str | None = None, *, again: bool = True) -> Message:
        """Come (back), to this web process or to another.

        Args:
            address: The other web process.
            again: Send pending calls again, as the protocol wants it.

        Returns:
            The ``welcome``.
        """
        self.address = address or self.address
        self.direct = 0
        count = len(self.welcomes)
        await self._open()
        await self.until(lambda: len(self.welcomes) > count, "welcome")
        if again and self.pending:
            await self.say(*self.pending.values())
        return self.welcomes[-1]

    async def call(self, request: str, output: str, value: Any = 0, **more: Any) -> None:
        """Ask for a callback whose one input is ``in.data``."""
        payload = body(output, {"in.data": value}, **more)
        await self.ask(request, payload)

    async def ask(self, request: str, payload: Message) -> None:
        """Ask for a callback."""
        message = {"type": "call", "page": self.page, "request": request, "payload": payload}
        self.pending[request] = message
        await self.say(message)

    async def cancel(self, request: str, page: str | None = None) -> None:
        """Want the answer no longer."""
        await self.say({"type": "cancel", "page": page or self.page, "request": request})

    async def outcome(self, request: str, within_s: float = WITHIN_S) -> Message:
        """The outcome of a call: ``{"status": "ok", "data": …}`` and so on."""
        await self.until(lambda: request in self.seen.outcomes, f"outcome of {request}", within_s)
        return self.seen.outcomes[request]

    async def children(self, request: str, within_s: float = WITHIN_S) -> Any:
        """What a call wrote into the ``children`` of its one output."""
        outcome = await self.outcome(request, within_s)
        assert outcome["status"] == "ok", outcome
        (props,) = outcome["data"]["response"].values()
        return props["children"]

    async def until(
        self, condition: Callable[[], Any], what: str, within_s: float = WITHIN_S
    ) -> None:
        """Wait for something to have come; fails at once when reading has failed."""

        def come() -> bool:
            if condition():
                return True
            if self._reading is not None and self._reading.done():
                self._reading.result()
            return False

        await eventually(come, what, within_s)

    @property
    def props(self) -> list[Any]:
        """The values of all updates, in order."""
        return [next(iter(update["payload"]["props"].values())) for update in self.seen.updates]

    @abstractmethod
    async def _open(self) -> None:
        """Open the transport and say hello."""

    @abstractmethod
    async def say(self, *messages: Message) -> None:
        """Send messages."""

    @abstractmethod
    async def ack(self) -> None:
        """Confirm all that came."""

    @abstractmethod
    async def cut(self) -> None:
        """Lose the connection without a word."""

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            # What it failed with was of the connection that is given up here.
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed, httpx.HTTPError):
                await reading

    def _take(self, frame: str | bytes) -> None:
        for mark, message in json.loads(frame):
            self._take_one(Received(mark, message))

    def _take_one(self, received: Received) -> None:
        mark, message = received
        self.seen.received.append(received)
        if isinstance(mark, str):
            if self.cursor is not None and order(mark) <= order(self.cursor):
                self.seen.duplicates.append(received)
                return
            self.cursor = mark
        elif isinstance(mark, int):
            assert mark == self.direct + 1, f"direct message {mark} after {self.direct}"
            self.direct = mark
        self._sort(message)

    def _sort(self, message: Message) -> None:
        if self.on_message is not None:
            self.on_message(message)
        seen = self.seen
        match message["type"]:
            case "welcome":
                if not message["resumed"]:
                    self.cursor = None
                self.session = message["session"]
                self.welcomes.append(message)
            case "callback_response":
                request = message["requestId"]
                if self.pending.pop(request, None) is None:
                    seen.strays.append(message)
                else:
                    assert message["rendererId"] == self.page
                    seen.outcomes[request] = message["payload"]
            case "set_props":
                seen.updates.append(message)
            case "get_props_request":
                seen.questions.append(message)
            case _:
                seen.controls.append(message)


class WebsocketClient(Client):
    """Over the websocket."""

    connection: ClientConnection

    async def _open(self) -> None:
        await self.open_socket()
        self._reading = asyncio.create_task(self._read(self.connection))
        await self.say(self.hello())

    async def open_socket(self) -> None:
        """The handshake alone."""
        headers = self.headers
        origin = headers.pop("Origin", None)
        self.connection = await connect(
            f"ws{self.address.removeprefix('http')}{self.prefix}_dash-ws-callback",
            origin=cast(Origin | None, origin),
            additional_headers=headers,
            max_size=None,
            ping_interval=None,
            proxy=None,
        )

    def hello(self) -> Message:
        """First words."""
        return {"type": "hello", "version": 1, "session": self.session, "cursor": self.cursor}

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            self._take(await connection.recv())

    async def say(self, *messages: Message) -> None:
        for message in messages:
            await self.connection.send(json.dumps(message))

    async def ack(self) -> None:
        await self.say({"type": "ack", "cursor": self.cursor, "direct": self.direct})

    async def cut(self) -> None:
        await self._stop_reading()
        # As when the cable is pulled: no closing handshake.
        self.connection.transport.abort()
        await self.connection.wait_closed()

    async def close_code(self, within_s: float = WITHIN_S) -> tuple[int, str]:
        """Wait for the server to close; its code and reason."""
        await eventually(lambda: self.connection.close_code, "the server closes", within_s)
        return self.connection.close_code or 0, self.connection.close_reason or ""


class LongPollClient(Client):
    """Over ``send`` and ``poll``."""

    http: httpx.AsyncClient

    async def _open(self) -> None:
        self.http = self.open_http()
        await self.say()
        self._reading = asyncio.create_task(self._poll(self.http))

    def open_http(self) -> httpx.AsyncClient:
        """A client of this session's address and headers."""
        return httpx.AsyncClient(
            base_url=f"{self.address}{self.prefix}_dash-dispatch/",
            headers=self.headers,
            timeout=60,
            trust_env=False,
            verify=NO_TLS,
            # The server may close a kept connection in the moment in which it is used again.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def say(self, *messages: Message) -> None:
        answer = await self.send(*messages)
        answer.raise_for_status()
        self._take(answer.content)

    async def send(self, *messages: Message) -> httpx.Response:
        """``send``, whatever the answer."""
        return await self.http.post(
            "send", json={"version": 1, "session": self.session, "messages": messages}
        )

    async def poll(self) -> httpx.Response:
        """One ``poll``, whatever the answer."""
        return await self.http.post(
            "poll", json={"version": 1, "session": self.session, "cursor": self.cursor}
        )

    async def _poll(self, http: httpx.AsyncClient) -> None:
        while True:
            answer = await http.post(
                "poll", json={"version": 1, "session": self.session, "cursor": self.cursor}
            )
            answer.raise_for_status()
            self._take(answer.content)

    async def ack(self) -> None:
        # The next poll's cursor says it, and the one that is on its way began with the last frame.
        await asyncio.sleep(0)

    async def cut(self) -> None:
        await self._stop_reading()
        await self.http.aclose()


@contextlib.asynccontextmanager
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP, as of curl."""
    async with httpx.AsyncClient(
        base_url=address, timeout=60, trust_env=False, verify=NO_TLS
    ) as client:
        yield client


async def post(
    client: httpx.AsyncClient, output: str, value: Any = 0, prefix: str = "/", **more: Any
) -> httpx.Response:
    """Run a callback whose one input is ``in.data`` over plain POST."""
    payload = body(output, {"in.data": value}, **more)
    return await client.post(f"{prefix}_dash-update-component", json=payload)


def written(answer: httpx.Response) -> Any:
    """What a callback with one output ``….children`` wrote."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}"
    (props,) = answer.json()["response"].values()
    return props["children"]
