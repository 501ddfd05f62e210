"""The ways of a page to stock Dash and to dash_dispatch."""

import asyncio
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from tests.client import NO_TLS, Client, Message
from tests.parity.page import Answer, Payload, Props, Transport

_TITLE = re.compile(r'<p class="errormsg">(.*?)</p>', re.DOTALL)
_DETAILS = re.compile(r"\n\n(?:call |Traceback)")
AT_ONCE = 24
"""HTTP requests of one transport under way at the same time."""

Update = Callable[[str, Props], None]


class Post(Transport):
    """Plain POST, as of stock Dash's renderer."""

    streams = False

    def __init__(self, client: httpx.AsyncClient, query: str = "") -> None:
        self._client = client
        self._url = f"/_dash-update-component{query}"
        self._room = asyncio.Semaphore(AT_ONCE)

    async def ask(
        self,
        page: str,  # noqa: ARG002 - nothing comes before the answer
        payload: Payload,
        update: Update,  # noqa: ARG002
    ) -> Answer:
        async with self._room:
            answer = await self._client.post(self._url, json=payload)
        headers = [
            (name, value)
            for name, value in answer.headers.multi_items()
            if name.startswith(("set-cookie", "x-"))
            # Not the time that the server took.
            or (name == "server-timing" and not value.startswith("__dash"))
        ]
        match answer.status_code:
            case 200:
                return Answer("ok", answer.json(), headers=headers)
            case 204:
                return Answer("prevented", headers=headers)
        return Answer("error", error=error_in(answer.text), headers=headers)


def error_in(text: str) -> str:
    """Kind and message of the error that a page is told of, with the dev tools on."""
    found = _TITLE.search(text)
    # Stock writes it into its page as it is, whatever is in it.
    told = found.group(1) if found else _DETAILS.split(text, maxsplit=1)[0]
    return told.strip().encode(errors="backslashreplace").decode()


class Streaming(Transport):
    """A client of dash_dispatch's own protocol, for all pages of a test at once.

    Components' ids differ from page to page, so that updates find their way.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._room = asyncio.Semaphore(AT_ONCE)
        self._names = itertools.count()
        self._updates: dict[str, Update] = {}
        self._outcomes: dict[str, asyncio.Future[Message]] = {}
        client.on_message = self._take

    async def ask(self, page: str, payload: Payload, update: Update) -> Answer:
        name = f"r{next(self._names)}"
        self._updates[page] = update
        outcome = self._outcomes[name] = asyncio.get_running_loop().create_future()
        async with self._room:
            await self._client.ask(name, payload)
        return answer_of(await outcome)

    def _take(self, message: Message) -> None:
        match message["type"]:
            case "set_props":
                told = message["payload"]
                update = self._updates.get(_page_of(told["componentId"]))
                assert update is not None, told
                update(told["componentId"], told["props"])
            case "callback_response":
                outcome = self._outcomes.pop(message["requestId"], None)
                # One that came too late is the failure of its own form, and of no other.
                if outcome is not None and not outcome.done():
                    outcome.set_result(message["payload"])


class StockWebsocket(Transport):
    """Stock Dash's own websocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._updates: dict[str, Update] = {}
        self._outcomes: dict[str, asyncio.Future[Message]] = {}
        self._page = uuid.uuid4().hex

    async def ask(self, page: str, payload: Payload, update: Update) -> Answer:
        name = uuid.uuid4().hex
        self._updates[page] = update
        outcome = self._outcomes[name] = asyncio.get_running_loop().create_future()
        request = {"rendererId": self._page, "requestId": name, "payload": payload}
        await self._connection.send(json.dumps({"type": "callback_request", **request}))
        return answer_of(await outcome)

    async def read(self) -> None:
        """Take all that comes."""
        async for frame in self._connection:
            messages = json.loads(frame)
            for message in messages if isinstance(messages, list) else [messages]:
                self._take(message)

    def _take(self, message: Message) -> None:
        if message["type"] == "set_props":
            told = message["payload"]
            self._updates[_page_of(told["componentId"])](told["componentId"], told["props"])
        elif message["type"] == "callback_response":
            outcome = self._outcomes.pop(message["requestId"])
            if not outcome.done():
                outcome.set_result(message["payload"])


def answer_of(payload: Message) -> Answer:
    """What the renderer makes of a ``callback_response``."""
    match payload["status"]:
        case "ok":
            return Answer("ok", payload["data"])
        case "prevent_update":
            return Answer("prevented")
    return Answer("error", error=error_in(payload["message"]))


_PAGE = re.compile(r"[\w-]+~\w+(?=~)")


def _page_of(text: str) -> str:
    found = _PAGE.search(text)
    return found.group() if found else ""


@contextlib.asynccontextmanager
async def stock_websocket(address: str, headers: dict[str, str]) -> AsyncIterator[StockWebsocket]:
    """A connection to stock Dash."""
    url = f"ws{address.removeprefix('http')}/_dash-ws-callback"
    async with connect(
        url, origin=Origin(address), additional_headers=headers, max_size=None, proxy=None
    ) as connection:
        transport = StockWebsocket(connection)
        reading = asyncio.create_task(transport.read())
        try:
            yield transport
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def streaming(
    kind: type[Client], address: str, headers: dict[str, str]
) -> AsyncIterator[Streaming]:
    """A websocket or a long-poll connection to dash_dispatch."""
    async with kind(address, headers=dict(headers)) as client:
        yield Streaming(client)


@contextlib.asynccontextmanager
async def post(address: str, headers: dict[str, str], query: str = "") -> AsyncIterator[Post]:
    """Plain POST to either."""
    headers = {"Origin": address, **headers}
    # The server may close a kept connection in the moment in which it is used again.
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=address, headers=headers, timeout=60, trust_env=False, verify=NO_TLS, limits=limits
    ) as client:
        yield Post(client, query)
