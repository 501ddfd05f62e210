"""``queued=``: a page hears how far its call has come, forward only, and nothing once it runs."""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from dash import Input, Output, html

from dash_dispatch import Dash, Settings, bridge
from dash_dispatch.positions import Positions
from dash_dispatch.protocol import CallSpec, Overlap, Status
from dash_dispatch.store import Store
from dash_dispatch.threads import Threads
from tests.integration.conftest import SettingsFactory
from tests.integration.test_store import LANE, OK, spec, started
from tests.integration.worker import Worker, asked, outcomes

START = b'{"componentId":"place","props":{"children":""}}'


@pytest.fixture
def app() -> Dash:
    made = Dash("positions", dispatch_settings=Settings(redis_url=None))
    made.layout = html.Div()

    @made.callback(
        Output("waits", "children"),
        Input("in", "value"),
        offload=True,
        queued=[(Output("place", "children"), "{position} {estimate}", "")],
    )
    async def waits(value: Any) -> Any:
        return value

    @made.callback(
        Output("fails", "children"),
        Input("in", "value"),
        offload=True,
        queued=[(Output("place", "children"), lambda *_: 1 / 0, "")],
    )
    async def fails(value: Any) -> Any:
        return value

    bridge.ready(made)
    return made


@pytest.fixture
def positions(app: Dash, store: Store) -> Iterator[Positions]:
    threads = Threads(2)
    yield Positions(app, store, threads)
    threads.close()


def ask(name: str = "waits", **more: Any) -> CallSpec:
    return asked(name, **{"on_start": (START,), "user": "u"} | more)


async def told(store: Store, call: CallSpec) -> list[str]:
    """What the page was told of this call's place."""
    events = [entry.event for entry in await store.read("s", None, 1000)]
    updates = [orjson.loads(e.props)["props"] for e in events if e.call == call.id and e.props]
    return [str(update["children"]).strip() for update in updates]


async def claim(store: Store, count: int = 1) -> list[str]:
    await store.renew("w1", join=True)
    return await store.claim("w1", LANE, count)


# --- forward only --------------------------------------------------------------------------------


async def test_a_page_hears_that_its_call_comes_forward(store: Store, positions: Positions) -> None:
    calls = [ask() for _ in range(4)]
    for call in calls:
        await store.create(call)
    for _ in range(2):
        await positions.look()
    assert [await told(store, call) for call in calls] == [["1"], ["2"], ["3"], ["4"]]
    assert await claim(store, 2) == [calls[0].id, calls[1].id]
    await positions.look()
    assert await told(store, calls[3]) == ["4", "2"]


async def test_it_never_goes_backwards(store: Store, positions: Positions) -> None:
    """Others may come in before it: of higher priority, or users with less work."""
    call = ask()
    await store.create(call)
    await positions.look()
    for n in range(3):
        await store.create(spec(f"urgent{n}", priority=5))
    await positions.look()
    assert await told(store, call) == ["1"]
    await claim(store, 2)
    await positions.look()
    assert await told(store, call) == ["1"], "a later place 2 is no news"


async def test_whichever_process_tells_it(app: Dash, store: Store, positions: Positions) -> None:
    threads = Threads(1)
    other = Positions(app, store, threads)
    call = ask()
    await store.create(call)
    await positions.look()
    await other.look()
    assert await told(store, call) == ["1"]
    assert await store.tell_position(call, 3, [b"{}"])
    assert len(await store.read("s", None, 10)) == 1
    threads.close()


async def test_a_call_that_waits_for_its_instance_hears_later(
    store: Store, positions: Positions
) -> None:
    meets = {"instance": "i", "overlap": Overlap.QUEUE}
    first = await started(store, spec("first", session="s", **meets))
    second = ask(**meets)
    await store.create(second)
    await positions.look()
    assert await told(store, second) == []
    await store.finish("w1", first, OK)
    await positions.look()
    assert await told(store, second) == ["1"]


async def test_who_has_nobody_to_tell_waits_to_be_woken(
    store: Store, positions: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle web process asks nothing; the one that accepts a call looks after it."""
    monkeypatch.setattr("dash_dispatch.positions.IDLE_S", 3600.0)
    looked = asyncio.Event()
    look = positions.look

    async def looks() -> None:
        await look()
        looked.set()

    monkeypatch.setattr(positions, "look", looks)
    positions.start()
    async with asyncio.timeout(20):
        await looked.wait()
        call = ask()
        await store.create(call)
        positions.wake()
        while await told(store, call) != ["1"]:
            looked.clear()
            await looked.wait()
        await store.cancel(call.id)
        # It goes on to look until that one has gone, and only then waits again.
        while positions._specs:
            looked.clear()
            await looked.wait()
    await positions.close()


# --- nothing behind its start --------------------------------------------------------------------


async def test_a_call_that_runs_is_told_nothing(
    store: Store, positions: Positions, raw: Any
) -> None:
    call = await started(store, ask())
    assert not await store.tell_position(call, 1, [b"{}"])
    assert await store.read("s", None, 10) == []
    await store.create(ask())
    await claim(store)
    await positions.look()
    assert await store.read("s", None, 10) == [], "claimed is as good as started"
    assert await raw.zrange(store.keys.announced, 0, -1) != [call.id.encode()]


async def test_nor_one_that_has_ended(store: Store, positions: Positions, raw: Any) -> None:
    call = ask()
    await store.create(call)
    await positions.look()
    await store.cancel(call.id)
    await positions.look()
    assert not await raw.exists(store.keys.announced)
    assert await told(store, call) == ["1", ""]


async def test_a_started_call_says_so_first(
    app: Dash, store: Store, positions: Positions, make_settings: SettingsFactory
) -> None:
    call = ask()
    await store.create(call)
    await positions.look()
    async with Worker(app, store, make_settings()):
        await outcomes(store, 1, others=2)
    assert await told(store, call) == ["1", ""]


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.WORKER_LOST])
async def test_a_call_that_never_starts_says_so_too(store: Store, status: Status) -> None:
    call = ask()
    await store.create(call)
    await store.cancel(call.id, status)
    props, end = [entry.event for entry in await store.read("s", None, 10)]
    assert (props.props, props.page, props.request) == (START, call.page, call.request)
    assert end.outcome is not None


async def test_a_call_that_was_lost_at_its_start_says_so_too(store: Store) -> None:
    call = await started(store, ask())
    await store.lose(call.id, "w1")
    assert await told(store, call) == [""]


async def test_what_was_said_is_not_said_again(store: Store) -> None:
    call = await started(store, ask())
    await store.emit("w1", call, 1, [START])
    await store.finish("w1", call, OK)
    assert await told(store, call) == [""]


# --- how long it takes ---------------------------------------------------------------------------


async def test_an_estimate_as_soon_as_there_is_one(
    store: Store, positions: Positions, raw: Any
) -> None:
    await store.create(call := ask())
    await positions.look()
    assert await told(store, call) == ["1"], "nobody can know"
    await store.offer("w1", {LANE: 2})
    await raw.hset(store.keys.durations, "waits.children", 60_000)
    calls = [ask() for _ in range(3)]
    for call in calls:
        await store.create(call)
    await positions.look()
    assert await told(store, calls[2]) == ["4 about 2 min"]
    await store.create(gated := ask(gate="g", limit=1))
    await positions.look()
    assert await told(store, gated) == ["1 about 1 min"]
    await store.leave("w1")
    assert (await store.rates())[1] == {}


async def test_how_long_a_callback_runs_is_learnt(store: Store, raw: Any) -> None:
    for took_ms in (1000, 2000):
        call = await started(store, ask())
        seconds, micros = await raw.time()
        began_ms = seconds * 1000 + micros // 1000 - took_ms
        await raw.hset(store.keys.call(call.id), "started_ms", began_ms)
        await store.finish("w1", call, OK)
    usual_s = (await store.rates())[0]["waits.children"]
    assert 1.2 <= usual_s < 1.5, "a fifth of the way from one second to two"


# --- what else may happen ------------------------------------------------------------------------


async def test_a_text_that_cannot_be_made_does_no_harm(
    store: Store, positions: Positions, caplog: pytest.LogCaptureFixture
) -> None:
    broken, well = ask("fails"), ask()
    for call in (broken, well):
        await store.create(call)
    await positions.look()
    assert "queued= of fails.children failed" in caplog.text
    assert await told(store, well) == ["2"]
    caplog.clear()
    await positions.look()
    assert not caplog.text, "it is tried once per place"


async def test_a_call_of_another_release_is_left_to_it(
    store: Store, positions: Positions, raw: Any
) -> None:
    await store.create(ask("unknown"))
    await positions.look()
    assert await store.read("s", None, 10) == []
    assert await raw.zcard(store.keys.announced) == 1


async def test_calls_without_it_are_not_looked_at(store: Store, raw: Any) -> None:
    await store.create(ask(on_start=()))
    assert not await raw.exists(store.keys.announced)


async def test_it_looks_by_itself(store: Store, positions: Positions) -> None:
    call = ask()
    await store.create(call)
    positions.start()
    try:
        await outcomes(store, 0, others=1)
    finally:
        await positions.close()
    assert await told(store, call) == ["1"]
