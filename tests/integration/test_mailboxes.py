"""The two sides of a mailbox in a web process: what goes in (outbox), and who is woken (relay)."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dash_dispatch import StoreUnavailable
from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import Event, Outcome, Status
from dash_dispatch.relay import BATCH_ENTRIES, MailboxReader, Relay
from dash_dispatch.store import Store
from tests.integration import test_store
from tests.integration.conftest import StoreFactory
from tests.stack import eventually, free_port


class Connection:
    """A connection (`outbox.Direct`) that keeps what it is sent."""

    def __init__(self, name: str = "n") -> None:
        self.name = name
        self.events: list[Event] = []

    def send(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events)


def props(n: int, call: str = "c", direct: str = "") -> Event:
    """An update. One that was sent directly before says so in the mail: connection and number."""
    return Event("page", "request", call, props=b"%d" % n, direct=direct)


def outcome(call: str = "c") -> Event:
    return Event("page", "request", call, Outcome(Status.OK, b"{}"))


async def mail(store: Store) -> list[Event]:
    return [entry.event for entry in await store.read("s", None, 20_000)]


async def mailed(store: Store, count: int) -> list[Event]:
    """The mailbox, as soon as it has this many entries."""
    return [entry.event for entry in await test_store.mailed(store, "s", count)]


@pytest.fixture
async def outbox(store: Store) -> AsyncIterator[Outbox]:
    made = Outbox(store, "s")
    yield made
    await made.close(5)


# --- outbox --------------------------------------------------------------------------------------


async def test_without_a_connection_all_goes_by_mail(store: Store, outbox: Outbox) -> None:
    events = [*(props(n) for n in range(20)), outcome()]
    for event in events:
        outbox.put(event)
    assert await mailed(store, 21) == events


async def test_with_a_connection_nothing_goes_by_mail(store: Store, outbox: Outbox) -> None:
    connection = Connection()
    outbox.connect(connection)
    connected = outbox.connected
    assert connected
    outbox.put(props(1))
    outbox.put(outcome())
    assert connection.events == [props(1), outcome()]
    outbox.confirm(connection, 2)
    outbox.disconnect(connection)
    assert not outbox.connected
    await outbox.close(5)
    assert await mail(store) == []


async def test_what_was_not_confirmed_goes_by_mail(store: Store, outbox: Outbox) -> None:
    connection = Connection()
    outbox.connect(connection)
    for n in range(5):
        outbox.put(props(n))
    outbox.confirm(connection, 2)
    outbox.disconnect(connection)
    outbox.put(outcome())
    assert await mailed(store, 4) == [
        props(2, direct="n:3"),
        props(3, direct="n:4"),
        props(4, direct="n:5"),
        outcome(),
    ]


async def test_a_call_that_went_by_mail_stays_with_the_mail(store: Store, outbox: Outbox) -> None:
    outbox.put(props(1))
    connection = Connection()
    outbox.connect(connection)
    outbox.put(props(2))
    outbox.put(props(1, "another"))
    outbox.put(outcome())
    assert await mailed(store, 3) == [props(1), props(2), outcome()]
    assert connection.events == [props(1, "another")]


async def test_a_connection_takes_anothers_place(store: Store, outbox: Outbox) -> None:
    old, new = Connection("old"), Connection("new")
    outbox.connect(old)
    outbox.put(props(1))
    outbox.connect(new)
    outbox.disconnect(old)
    outbox.confirm(old, 1)
    outbox.put(props(1, "another"))
    assert await mailed(store, 1) == [props(1, direct="old:1")]
    assert new.events == [props(1, "another")]


async def test_more_than_may_wait_for_confirmation_goes_by_mail(
    store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dash_dispatch.outbox.MAX_UNCONFIRMED", 3)
    connection = Connection()
    outbox.connect(connection)
    for n in range(5):
        outbox.put(props(n))
    outbox.put(outcome())
    assert connection.events == [props(0), props(1), props(2)]
    # The unconfirmed ones go with them, by their numbers, so that all stays in order.
    repeated = [props(n, direct=f"n:{n + 1}") for n in range(3)]
    assert await mailed(store, 6) == [*repeated, props(3), props(4), outcome()]


async def test_an_outcome_stays_last_when_the_connection_breaks_behind_it(
    store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent directly and not confirmed belongs before what went by mail meanwhile."""
    monkeypatch.setattr("dash_dispatch.outbox.MAX_UNCONFIRMED", 3)
    connection = Connection()
    outbox.connect(connection)
    for n in range(4):
        outbox.put(props(n))
    outbox.put(outcome())
    await mailed(store, 5)
    outbox.disconnect(connection)
    await outbox.close(5)
    assert (await mail(store))[-1] == outcome()


async def test_closing_sends_what_is_left(store: Store) -> None:
    outbox, connection = Outbox(store, "s"), Connection()
    outbox.connect(connection)
    for n in range(50):
        outbox.put(props(n))
    await outbox.close(5)
    assert await mail(store) == [props(n, direct=f"n:{n + 1}") for n in range(50)]


async def test_closing_does_not_wait_for_ever_for_redis(make_store: StoreFactory) -> None:
    outbox = Outbox(make_store(redis_url=f"redis://127.0.0.1:{free_port()}"), "s")
    outbox.put(props(1))
    async with asyncio.timeout(5):
        await outbox.close(0.1)


async def test_updates_are_dropped_and_outcomes_kept_while_redis_is_away(
    make_store: StoreFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("dash_dispatch.outbox.MAX_PENDING", 3)
    outbox = Outbox(make_store(redis_url=f"redis://127.0.0.1:{free_port()}"), "s")
    for n in range(5):
        outbox.put(props(n))
    outbox.put(outcome())
    assert list(outbox._mail) == [props(0), props(1), props(2), outcome()]
    assert caplog.messages == ["! update dropped, Redis is away"] * 2
    await outbox.close(0.05)


async def test_a_full_mailbox_takes_outcomes_and_keeps_what_it_has(
    make_store: StoreFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that updates a page for hours, which is away, costs no other call its outcome."""
    store = make_store(max_mailbox_entries=10)
    outbox = Outbox(store, "s")
    outbox.put(outcome("another"))
    for n in range(20):
        outbox.put(props(n))
    outbox.put(outcome())
    await outbox.close(5)

    assert await mail(store) == [outcome("another"), *(props(n) for n in range(9)), outcome()]
    assert caplog.text.count("DASH_DISPATCH_MAX_MAILBOX_ENTRIES") == 11


# --- relay ---------------------------------------------------------------------------------------


@pytest.fixture
async def relay(store: Store) -> AsyncIterator[Relay]:
    made = Relay(store)
    made.start()
    yield made
    await made.close()


async def test_a_reader_finds_what_came_before_it(store: Store, relay: Relay) -> None:
    await store.post("s", props(1))
    async with await relay.attach("s", None) as reader:
        assert await reader.news(5)
        assert [entry.event for entry in await reader.read()] == [props(1)]
        assert not reader.has_news
        assert await reader.read() == []


async def test_the_first_reader_after_the_start_is_woken(store: Store) -> None:
    """The subscription of the process and that of its first session are made at the same time."""
    for _ in range(10):
        relay = Relay(store)
        relay.start()
        async with await relay.attach("s", None) as reader:
            # What a reader is told at its beginning, and with the subscription.
            while await reader.news(0.1):
                await reader.read()
            await store.post("s", props(1))
            assert await reader.news(5), "the hint was lost"
        await relay.close()


async def test_every_reader_of_a_session_is_woken_and_no_other(store: Store, relay: Relay) -> None:
    woken: list[str] = []
    one = await relay.attach("s", None, lambda: woken.append("one"))
    two = await relay.attach("s", None, lambda: woken.append("two"))
    other = await relay.attach("another", None, lambda: woken.append("other"))
    for reader in (one, two, other):
        while await reader.news(0.1):
            await reader.read()
    woken.clear()
    await store.post("s", props(1))
    await eventually(lambda: len(woken) == 2, "both are woken")
    assert sorted(woken) == ["one", "two"]
    await one.close()
    await store.post("s", props(2))
    await eventually(lambda: len(woken) == 3, "the one that is left is woken")
    assert woken[2] == "two"
    await two.close()
    await other.close()


async def test_more_than_a_batch_is_read_in_parts(store: Store, relay: Relay) -> None:
    events = [props(n) for n in range(BATCH_ENTRIES + 5)]
    for event in events:
        await store.post("s", event)
    async with await relay.attach("s", None) as reader:
        first = await reader.read()
        assert len(first) == BATCH_ENTRIES
        assert reader.has_news
        assert [entry.event for entry in [*first, *await reader.read()]] == events
    async with await relay.attach("s", first[-1].id) as reader:
        assert len(await reader.read()) == 5, "a cursor passes over what the browser has"


async def test_an_acknowledged_large_result_is_not_kept(
    make_store: StoreFactory, relay: Relay
) -> None:
    small = make_store(inline_result_bytes=10)
    call = await test_store.started(small, test_store.spec(session="s"))
    await small.finish("w1", call, Outcome(Status.OK, b"x" * 20))
    async with await relay.attach("s", None) as reader:
        (entry,) = await reader.read()
        await reader.acknowledge(entry.id)
    assert await mail(small) == []


async def xranges(raw: Any) -> int:
    """How often a mailbox has been read, by this Redis' count."""
    found = await raw.info("commandstats")
    return int(found.get("cmdstat_xrange", {"calls": 0})["calls"])


async def settled(reader: MailboxReader) -> None:
    """Has read what a reader is told at its beginning, and with the subscription."""
    while await reader.news(0.1):
        await reader.read()


async def test_a_small_entry_comes_with_its_hint(store: Store, relay: Relay, raw: Any) -> None:
    """Most results need no question to Redis."""
    call = await test_store.started(store, test_store.spec(session="s"))
    async with await relay.attach("s", None) as reader:
        await settled(reader)
        asked = await xranges(raw)

        await store.emit("w1", call, 1, ['{"é":"ü"}'.encode()])
        assert await reader.news(5)
        (first,) = await reader.read()
        await reader.acknowledge(first.id)
        await store.finish("w1", call, Outcome(Status.OK, b"{}", b'{"cookies":[]}'))
        assert await reader.news(5)
        (second,) = await reader.read()

        assert await xranges(raw) == asked + 1, "but that of the acknowledgement"
        assert not reader.has_news
        assert [first, *await store.read("s", first.id, 10)] == [first, second]
        assert first.event.props == '{"é":"ü"}'.encode()
        assert second.event.outcome == Outcome(Status.OK, b"{}", b'{"cookies":[]}')


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_hints_say_all_is_read_once_and_in_order(
    make_store: StoreFactory, relay: Relay, seed: int
) -> None:
    """Entries alone and in groups, small, large and aside, hints that are lost and forged."""
    chance = random.Random(seed)
    store = make_store(inline_result_bytes=20_000)
    call = await test_store.started(store, test_store.spec(session="s"))
    sizes = {"small": 10, "large": 10_000}
    said: list[bytes] = []
    got: list[bytes] = []

    async def say() -> None:
        for _ in range(60):
            await asyncio.sleep(0)
            what = chance.choice(["small", "small", "small", "group", "large", "lost", "forged"])
            if what == "forged":
                await store._redis.publish(store.keys.hint("s"), chance.randbytes(30))
                continue
            numbers = range(len(said), len(said) + (3 if what == "group" else 1))
            new = [b"%d " % number + b"x" * sizes.get(what, 1) for number in numbers]
            if what == "lost":
                # Nobody is told of it, until the next hint.
                fields = {"p": "page", "r": "request", "c": call.id, "d": new[0]}
                await store._redis.xadd(store.keys.mailbox("s"), fields)
            else:
                number = int(await store._redis.hget(store.keys.call(call.id), "events") or 0)
                await store.emit("w1", call, number + 1, new)
            said.extend(new)
        await store.finish("w1", call, Outcome(Status.OK, b"x" * chance.choice([10, 30_000])))

    async with await relay.attach("s", None) as reader:
        saying = asyncio.create_task(say())
        done = False
        while not done:
            assert await reader.news(10), "news stopped coming"
            for entry in await reader.read():
                done = entry.event.outcome is not None
                if not done:
                    got.append(entry.event.props)
            if chance.random() < 0.3:
                await asyncio.sleep(0.001 * chance.random())
        await saying
    assert got == said


async def test_waiting_for_one_outcome(store: Store, relay: Relay) -> None:
    async with await relay.attach("s", None) as reader:
        waiting = asyncio.create_task(reader.outcome("c", 10))
        for event in (props(1), outcome("another"), props(2), outcome()):
            await store.post("s", event)
        assert await waiting == outcome()
        assert await reader.outcome("never", 0.1) is None


async def test_a_reader_cannot_be_had_without_redis(make_store: StoreFactory) -> None:
    relay = Relay(make_store(redis_url=f"redis://127.0.0.1:{free_port()}"))
    relay.start()
    with pytest.raises(StoreUnavailable):
        await relay.attach("s", None)
    assert relay._concerned(None) == []
    await relay.close()
