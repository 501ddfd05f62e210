"""Session handles: what is not good gets nothing and learns nothing, whatever is wrong with it."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from dash_dispatch.session import TOKEN_AGE_S, Signer
from tests.client import Client, LongPollClient, WebsocketClient, http, post, written
from tests.security.conftest import STATE, Site
from tests.stack import SECRET

FLIPS = 24
TRANSPORTS = pytest.mark.parametrize("kind", [WebsocketClient, LongPollClient])


def signed(session: object, *, namespace: str, secret: str = SECRET, age_s: float = 0.0) -> str:
    """A handle as somebody else might make it, or as we made it some time ago."""
    at = int(time.time() - age_s)

    class Earlier(TimestampSigner):
        def get_timestamp(self) -> int:
            return at

    salt = f"{namespace}.session"
    return str(URLSafeTimedSerializer(secret, salt=salt, signer=Earlier).dumps(session))


async def raw_answers(site: Site, handle: str) -> tuple[bytes, ...]:
    """All that anybody gets for a handle: on the websocket, for ``send`` and for ``poll``."""
    client = WebsocketClient(site.address)
    client.session = handle
    await client.open_socket()
    await client.say(client.hello())
    frame = await client.connection.recv()
    await client.cut()
    poller = LongPollClient(site.address)
    poller.session = handle
    poller.cursor = "1-0"
    async with poller.open_http() as poller.http:
        answers = (await poller.send(), await poller.poll())
    return str(frame).encode(), *(b"%d %b" % (a.status_code, a.content) for a in answers)


async def test_all_handles_that_are_not_good_are_answered_alike(site: Site) -> None:
    """Byte for byte: nobody learns whether the session exists, or how far a forgery came."""
    async with WebsocketClient(site.address) as owner:
        assert owner.session is not None
        good = owner.session
        rng = random.Random(4)
        namespace = site.stack.namespace
        handles = {
            "empty": "",
            "nonsense": "nonsense",
            "no signature": good.rpartition(".")[0],
            "no time": ".".join((good.split(".")[0], good.split(".")[2])),
            "of another secret": signed("x", namespace=namespace, secret="some other secret"),
            "of another app": Signer(SECRET, "another").sign("x"),
            "expired": signed("x", namespace=namespace, age_s=TOKEN_AGE_S + 60),
            "expired, of this session": signed(
                session_of(good), namespace=namespace, age_s=TOKEN_AGE_S + 60
            ),
            "of the future": f"{good.split('.')[0]}.zzzzzz.{good.split('.')[2]}",
            "no name": signed({"session": "x"}, namespace=namespace),
        }
        for number in range(FLIPS):
            # The last character has bits that say nothing.
            place, bit = rng.randrange(len(good) - 1), 1 << rng.randrange(7)
            handles[f"flip {number}"] = (
                good[:place] + chr(ord(good[place]) ^ bit) + good[place + 1 :]
            )
        answers = {name: await raw_answers(site, handle) for name, handle in handles.items()}

        reset = b'[[null,{"type":"reset","reason":"the session is not valid any more"}]]'
        gone = b'410 {"error":"the session is not valid any more"}'
        assert {name: a for name, a in answers.items() if a != (reset, gone, gone)} == {}
        await owner.call("still", "local.children", 1, state=STATE)
        assert await owner.children("still") == "1"


def session_of(handle: str) -> str:
    found = Signer(SECRET, "")._serializer.loads_unsafe(handle)[1]
    return str(found)


@TRANSPORTS
async def test_a_handle_is_good_for_so_long(site: Site, kind: Callable[..., Client]) -> None:
    """And renewed by each connection."""
    client = kind(site.address)
    client.session = old = signed("mine", namespace=site.stack.namespace, age_s=TOKEN_AGE_S - 60)
    welcome = await client.connect()
    assert welcome["resumed"] is True
    assert welcome["session"] != old
    await client.cut()


@TRANSPORTS
async def test_a_stranger_with_a_cursor_reads_and_removes_nothing(
    site: Site, kind: Callable[..., Client]
) -> None:
    """Cursors are positions, not keys: they say something about one's own mailbox alone."""
    owner, stranger = WebsocketClient(site.address), kind(site.address)
    await owner.connect()
    await owner.call("one", "offloaded.children", "private", state=STATE)
    assert await owner.children("one") == "private"

    stranger.cursor = owner.cursor
    await stranger.connect()
    stranger.cursor = owner.cursor
    if isinstance(stranger, WebsocketClient):
        await stranger.ack()
    await stranger.call("own", "offloaded.children", "own", state=STATE)
    assert await stranger.children("own") == "own"
    assert "private" not in str(stranger.seen.received)

    await owner.cut()
    owner.cursor = None
    del owner.seen.outcomes["one"]
    owner.pending["one"] = {"type": "ping"}
    await owner.connect()
    assert await owner.children("one") == "private", "still there for its owner"
    await stranger.cut()
    await owner.cut()


@TRANSPORTS
async def test_a_strangers_words_have_no_effect_and_no_answer(
    site: Site, kind: Callable[..., Client]
) -> None:
    """Whether what they are about exists or not."""
    heard = []
    async with WebsocketClient(site.address) as owner:
        await owner.call("asks", "asks.children", state=STATE)
        await owner.until(lambda: owner.seen.questions, "a question")
        question = owner.seen.questions[0]["requestId"]
        for page, request, answered in (
            (owner.page, "asks", question),
            (uuid.uuid4().hex, "nothing", uuid.uuid4().hex),
        ):
            async with kind(site.address) as stranger:
                said = len(stranger.seen.received)
                await stranger.say(
                    {"type": "cancel", "page": page, "request": request},
                    {"type": "props", "page": page, "request": answered, "payload": {"data": 666}},
                    {"type": "bye", "page": page},
                )
                await stranger.call("end", "offloaded.children", "end", state=STATE)
                await stranger.children("end")
                # What `send` says and what `poll` says may come in either order.
                heard.append(sorted(kind_of(m) for m in stranger.seen.received[said:]))
        assert heard[0] == heard[1]

        answer = {"type": "props", "page": owner.page, "request": question}
        await owner.say({**answer, "payload": {"data": "of the page"}})
        assert await owner.children("asks") == "of the page"


def kind_of(received: Any) -> str:
    message = dict(received.message)
    message.pop("session", None)
    message.pop("rendererId", None)
    return json.dumps(message, sort_keys=True)


async def test_a_plain_post_has_no_handle_to_steal(site: Site) -> None:
    """What it waits for is named by the server, anew for each, and gone when it is answered."""
    redis, prefix = site.stack.redis.client(), f"{site.stack.namespace}:"

    async with http(site.address) as client:
        answers = await asyncio.gather(
            *(
                post(client, "offloaded.children", n, state=STATE, session="x", page="p", request=1)
                for n in range(5)
            )
        )
        assert [written(answer) for answer in answers] == list("01234")
    assert not redis.exists(f"{prefix}mailbox:x", f"{prefix}active:x")
