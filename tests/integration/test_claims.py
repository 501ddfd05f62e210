"""How a worker takes calls: each once, no more than it has slots for, and lets go of what ended."""

import asyncio
import uuid
from pathlib import Path

import pytest

from dash_dispatch import Settings, StoreUnavailable
from dash_dispatch.engine import Claims
from dash_dispatch.protocol import Executor, Outcome, Status, call_id
from dash_dispatch.store import Claimed, Store
from tests.client import WebsocketClient
from tests.conftest import StackFactory
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import spec
from tests.stack import eventually


def claims_of(store: Store, slots: int) -> Claims:
    return Claims(store, "w1", ["default"], {Executor.LOOP: slots})


async def test_a_retry_does_not_meet_the_run_before_it(store: Store) -> None:
    """The run that was put off has a last step to do, and its retry may come to the same worker."""
    await store.renew("w1", join=True)
    claims = claims_of(store, 2)
    claims.start()
    call = spec(retries=1)
    await store.create(call)
    assert await claims.next() == [b"c1"]
    assert await store.retry("w1", call, 0) == "ok"
    assert await store.requeue("c1")
    async with asyncio.timeout(10):
        while [attempt for _, _, attempt in await store.claimed_by("w1")] != [2]:
            await asyncio.sleep(0.01)
            assert claims.take("c1") == (Claimed(call, 1), Executor.LOOP)
    assert claims.take("c1") == (Claimed(call, 1), Executor.LOOP)
    claims.ended("c1")
    claims.settled("c1")
    assert await claims.next() == [b"c1"]
    assert claims.take("c1") == (Claimed(call, 2), Executor.LOOP)
    assert not claims.drained.is_set()
    claims.ended("c1")
    claims.settled("c1")
    assert claims.drained.is_set()
    await claims.stop()


class Interrupted(Store):
    """Redis goes away between the starts of two calls that were claimed together."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.failed = asyncio.Event()
        self.go = asyncio.Event()

    async def start(self, worker: str, call: str) -> Claimed | None:
        if call == "c1" and not self.failed.is_set():
            self.failed.set()
            raise StoreUnavailable("away")
        if call == "c2":
            await self.go.wait()
        return await super().start(worker, call)


async def test_an_interrupted_start_makes_no_slots(
    make_settings: SettingsFactory, make_store: StoreFactory, caplog: pytest.LogCaptureFixture
) -> None:
    store = Interrupted(make_settings())
    await store.renew("w1", join=True)
    for n in range(1, 6):
        await store.create(spec(f"c{n}"))
    claims = claims_of(store, 2)
    claims.start()
    await store.failed.wait()
    for _ in range(100):
        # As long as it is under way, its slot is not given to another.
        await asyncio.sleep(0.01)
        assert "claiming interrupted" not in caplog.text
    store.go.set()
    ids = await claims.next()
    while len(ids) < 2:
        ids += await claims.next()
    assert ids == [b"c2", b"c3"], "two slots, two calls"
    for call in ("c2", "c3"):
        claims.ended(call)
    ids = await claims.next()
    while len(ids) < 2:
        ids += await claims.next()
    assert ids == [b"c4", b"c5"]
    await claims.stop()
    await store.close()


async def test_a_worker_stops_what_has_ended_though_nobody_said_so(
    make_stack: StackFactory, make_settings: SettingsFactory
) -> None:
    """Whoever cancelled it died before the worker was told."""
    stack = make_stack("leaving", lease_s="1")
    (address,) = stack.up()
    store = Store(make_settings(namespace=stack.namespace))
    tag = uuid.uuid4().hex
    async with WebsocketClient(address) as client:
        await client.call("r", "stays.children", tag)
        await eventually(Path(stack.folder, f"{tag}.started").exists, "it runs")
        call = await store._spec(call_id(client.page, "r"))
        assert call is not None
        await store._finish(call, "", Outcome(Status.CANCELLED))
        await eventually(Path(stack.folder, f"{tag}.cancelled").exists, "it is stopped", 5)
    await store.close()
