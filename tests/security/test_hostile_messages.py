"""Hostile messages over each transport: the server goes on to serve, holds nothing, says little.

``make chaos`` sends 10 000 per transport.
"""

import asyncio
import json
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from dash_dispatch.errors import ProtocolError
from dash_dispatch.protocol import PingMessage, decode_client_message
from tests.client import LongPollClient, WebsocketClient, http
from tests.scale import scaled
from tests.security import hostile
from tests.security.conftest import STATE, Site
from tests.stack import body

COUNT = scaled(400, 10_000)
LANES = 8
"""Browsers at once."""

GROWTH_MB = 64.0

WITHIN_S = 900

REFUSALS = re.compile(
    r"! refused: .*"
    r"|! websocket closed: .*"
    r"|! \d+ more refusals.*"
    r"|\[[^]]*\] \[\d+\] \[INFO\] Running on http://127\.0\.0\.1:\d+ \(CTRL \+ C to quit\)"
)
"""All that may stand in a web process' log."""


async def held(site: Site) -> dict[str, Any]:
    """What the web process holds."""
    async with http(site.address) as client:
        found: dict[str, Any] = (await client.get("/held")).json()
    return found


@pytest.fixture
async def unharmed(site: Site) -> AsyncIterator[None]:
    """Whatever the test does, the site is afterwards as it was before."""
    await use(site)
    before = await held(site)
    said = len(site.stack.webs[0].log)

    yield

    await use(site)
    await eventually_like(site, before)
    lines = site.stack.webs[0].log[said:].splitlines()
    strange = [line for line in lines if not REFUSALS.fullmatch(line)]
    assert not strange, "\n".join(strange[:40])
    _, traceback, more = site.stack.workers[0].log.partition("Traceback")
    assert not traceback, more[:4000]
    after = await held(site)
    assert after["pid"] == before["pid"]
    assert after["settled"] > 10_000, "objects that the garbage collector leaves alone"
    assert after["rss_mb"] < before["rss_mb"] + GROWTH_MB
    note(
        f"{before['rss_mb']:.0f} MB before, {after['rss_mb']:.0f} MB after, {len(lines)} log lines"
    )


def note(text: str) -> None:
    """A figure, for whoever looks at the output."""
    sys.stdout.write(f"\n{COUNT} messages: {text}\n")


async def use(site: Site) -> None:
    """Real calls of every kind on every transport."""
    for transport in (WebsocketClient, LongPollClient):
        async with transport(site.address) as client:
            names = ("offloaded", "in-process", "local", "local-def")
            for name in names:
                await client.call(name, f"{name}.children", name, state=STATE)
            for name in names:
                assert await client.children(name) == name
    async with http(site.address) as plain:
        for name in hostile.OUTPUTS:
            request = body(f"{name}.children", {"in.data": name}, state=STATE)
            answer = await plain.post("/_dash-update-component", json=request)
            assert answer.json()["response"] == {name: {"children": name}}


async def eventually_like(site: Site, before: dict[str, Any]) -> None:
    """Tasks and files are those of before, but for a few that come and go."""
    after: dict[str, Any] = {}
    async with http(site.address) as client:
        # Over one connection: each is a file and some tasks itself, for a while.
        for _ in range(300):
            after = (await client.get("/held")).json()
            more = len(after["tasks"]) - len(before["tasks"])
            if more <= 3 and after["files"] <= before["files"] + 10:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"{before}\n{after}")


async def lanes(attack: Callable[[random.Random, int], Awaitable[None]]) -> None:
    """Run it for all numbers, from several browsers at once."""

    async def lane(first: int) -> None:
        for number in range(first, COUNT, LANES):
            await attack(random.Random(number), number)

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        for first in range(LANES):
            group.create_task(lane(first))


# --- the websocket ------------------------------------------------------------------------------


class Attacker:
    """A browser that says what it likes, and comes back when it is thrown out."""

    def __init__(self, address: str) -> None:
        self._client = WebsocketClient(address)
        self._open = False
        self.closes: Counter[int | str] = Counter()

    async def say(self, rng: random.Random, wire: bytes) -> None:
        if not self._open:
            await self._client.open_socket()
            self._open = True
            if rng.random() < 0.9:
                await self._client.say(self._client.hello())
        connection = self._client.connection
        # As a text message whatever it is, or as a binary one.
        as_text = rng.random() < 0.7
        try:
            await connection.send(wire, text=as_text)
            await connection.send('{"type":"ping"}')
            # All of them: who goes on at a pong that was owed for the message before speaks to a
            # server that may be about to close, and what is sent to a closed connection makes TCP
            # forget the server's last words (1006).
            async with asyncio.timeout(60):
                await self._until_pongs(1 + is_ping(wire))
        except ConnectionClosed:
            self._open = False
            code = connection.close_code or 0
            # Text that is not UTF-8 breaks the websocket's own rules: the server below us drops it.
            dropped = as_text and not is_utf8(wire)
            self.closes["dropped" if dropped and code != 4002 else code] += 1
            assert code in ((4002, 1006, 1007) if dropped else (4002,)), (code, wire)

    async def _until_pongs(self, due: int) -> None:
        while due > 0:
            frame = json.loads(await self._client.connection.recv())
            for _, message in frame:
                if message["type"] == "welcome":
                    self._client.session = message["session"]
                if message["type"] == "reset":
                    self._client.session = None
                    await self._client.say(self._client.hello())
                due -= message["type"] == "pong"

    @property
    def session(self) -> str | None:
        return self._client.session

    async def close(self) -> None:
        if self._open:
            await self._client.cut()


def is_ping(wire: bytes) -> bool:
    """Whether the server answers it with a pong as well."""
    try:
        return isinstance(decode_client_message(wire), PingMessage)
    except ProtocolError:
        return False


def is_utf8(wire: bytes) -> bool:
    try:
        wire.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.timeout(WITHIN_S + 60)
async def test_hostile_messages_on_the_websocket(site: Site, unharmed: None) -> None:
    attackers = [Attacker(site.address) for _ in range(LANES)]

    async def attack(rng: random.Random, number: int) -> None:
        attacker = attackers[number % LANES]
        wire = hostile.spoil(rng, hostile.client_message(rng, attacker.session))
        await attacker.say(rng, wire)

    await lanes(attack)
    for attacker in attackers:
        await attacker.close()
    closes = sum((attacker.closes for attacker in attackers), Counter[int | str]())
    note(f"closed {dict(closes)}")
    assert closes[4002] > COUNT / 5


# --- long-poll ----------------------------------------------------------------------------------


@pytest.mark.timeout(WITHIN_S + 60)
async def test_hostile_messages_on_long_poll(site: Site, unharmed: None) -> None:
    statuses: Counter[int] = Counter()
    sessions: list[str | None] = [None] * LANES
    async with http(site.address) as client:

        async def attack(rng: random.Random, number: int) -> None:
            session = sessions[number % LANES]
            send = rng.random() < 0.6
            valid = (hostile.send_body if send else hostile.poll_body)(rng, session)
            answer = await client.post(
                f"/_dash-dispatch/{'send' if send else 'poll'}",
                content=hostile.spoil(rng, valid),
                headers=_headers(rng, site.address),
            )
            statuses[answer.status_code] += 1
            assert answer.content
            assert "Traceback" not in answer.text
            if answer.status_code == 200 and answer.json():
                sessions[number % LANES] = answer.json()[0][1]["session"]

        await lanes(attack)
    note(f"answers {dict(sorted(statuses.items()))}")
    assert set(statuses) <= {200, 400, 403, 410, 413}, statuses
    assert statuses[400] > COUNT / 5


ODD_HEADERS = (
    b"", b"null", b"http://[", b"http://]x[", b"text/plain", b"application/json;charset=\\",
    b"http://127.0.0.1", b"http://a@b:c", b"x" * 2000, b"http://\xe9",
)  # fmt: skip


def _headers(rng: random.Random, address: str) -> dict[bytes, bytes]:
    headers = {b"Content-Type": b"application/json", b"Origin": address.encode()}
    if rng.random() < 0.1:
        headers[rng.choice(list(headers))] = rng.choice(ODD_HEADERS)
    return headers


# --- plain POST ---------------------------------------------------------------------------------


@pytest.mark.timeout(WITHIN_S + 60)
async def test_hostile_requests_for_callbacks(site: Site, unharmed: None) -> None:
    statuses: Counter[int] = Counter()
    async with http(site.address) as client:

        async def attack(rng: random.Random, number: int) -> None:
            wire = hostile.spoil(rng, hostile.callback_request(rng))
            answer = await client.post(
                f"/_dash-update-component{rng.choice(['', '', '?x=1'])}",
                content=wire,
                headers=_headers(rng, site.address),
            )
            statuses[answer.status_code] += 1
            assert "Traceback" not in answer.text

        await lanes(attack)
    note(f"answers {dict(sorted(statuses.items()))}")
    assert set(statuses) <= {200, 400, 403, 404, 413}, statuses
    assert statuses[400] > COUNT / 5
