"""How a worker takes calls: each once, no more than it has slots for, and lets go of what ended."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from dash_dispatch import Settings, StoreUnavailable, connection
from dash_dispatch.engine import WAIT_S, ClaimingRedis, Claims
from dash_dispatch.protocol import Executor, Outcome, Status
from dash_dispatch.store import Claimed, Store
from tests.client import WebsocketClient
from tests.conftest import StackFactory
from tests.integration.conftest import SettingsFactory, StoreFactory
from tests.integration.test_store import spec
from tests.stack import eventually


class Runs:
    """What runs calls: notes that they have begun, and ends them when it is told to."""

    def __init__(self, store: Store, slots: int) -> None:
        self.begun: list[Claimed] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.claims = Claims(store, "w1", ["default"], {Executor.LOOP: slots}, self._run)

    async def _run(self, claimed: Claimed, executor: Executor) -> None:
        assert executor is Executor.LOOP
        end = self._ends[claimed.spec.id] = asyncio.Event()
        self.begun.append(claimed)
        await end.wait()

    @property
    def names(self) -> list[str]:
        """The ids of all that have begun."""
        return [claimed.spec.id for claimed in self.begun]

    async def end(self, call: str) -> None:
        """Let it end."""
        self._ends[call].set()
        await self.claims.join(call)

    async def stop(self) -> None:
        await self.claims.stop()
        await self.claims.end()


async def test_a_retry_does_not_meet_the_run_before_it(store: Store) -> None:
    """The run that was put off has a last step to do, and its retry may come to the same worker."""
    await store.renew("w1", join=True)
    runs = Runs(store, 2)
    claims = runs.claims
    claims.start()
    call = spec(retries=1)
    await store.create(call)
    assert await claims.next() == [b"c1"]
    assert await store.retry("w1", call, 0) == "ok"
    assert await store.requeue("c1")
    async with asyncio.timeout(10):
        while [attempt for _, _, attempt in await store.claimed_by("w1")] != [2]:
            await asyncio.sleep(0.01)
            assert runs.begun == [Claimed(call, 1)]
    await runs.end("c1")
    claims.settled("c1")
    assert await claims.next() == [b"c1"]
    await eventually(lambda: len(runs.begun) == 2, "it is run again")
    assert runs.begun[1] == Claimed(call, 2)
    assert not claims.drained.is_set()
    await runs.end("c1")
    assert not claims.drained.is_set(), "arq has a last step to do"
    claims.settled("c1")
    assert claims.drained.is_set()
    await runs.stop()


async def test_arq_is_not_told_of_what_has_ended_by_then(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dash_dispatch.engine.ARQ_AFTER_S", 60.0)
    await store.renew("w1", join=True)
    runs = Runs(store, 1)
    runs.claims.start()
    await store.create(spec("c1"))
    await eventually(lambda: runs.names == ["c1"], "it begins")
    assert not runs.claims.drained.is_set()
    await runs.end("c1")
    assert runs.claims.drained.is_set()
    monkeypatch.setattr("dash_dispatch.engine.ARQ_AFTER_S", 0.0)
    await store.create(spec("c2"))
    assert await runs.claims.next() == [b"c2"], "the first one it hears of"
    await runs.end("c2")
    runs.claims.settled("c2")
    await runs.stop()


async def test_at_the_end_nothing_runs(store: Store) -> None:
    """Also not what arq was ended before it came to."""
    await store.renew("w1", join=True)
    runs = Runs(store, 1)
    runs.claims.start()
    await store.create(spec("c1"))
    await eventually(lambda: runs.names == ["c1"], "it begins")
    joined = asyncio.create_task(runs.claims.join("c1"))
    await runs.stop()
    with pytest.raises(asyncio.CancelledError):
        await joined


async def test_an_idle_worker_is_known_to_live_between_its_notes(
    make_settings: SettingsFactory, raw: Any
) -> None:
    """``arq --check`` looks for the note, which an idle worker makes every ``WAIT_S``."""
    client: ClaimingRedis = connection.connect(make_settings(), client=ClaimingRedis)
    await client.psetex("health", 11_000, b"lives")
    assert await raw.get("health") == b"lives"
    assert await raw.pttl("health") > 2 * WAIT_S * 1000
    await client.aclose()


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
    runs = Runs(store, 2)
    runs.claims.start()
    await store.failed.wait()
    for _ in range(100):
        # As long as it is under way, its slot is not given to another.
        await asyncio.sleep(0.01)
        assert "claiming interrupted" not in caplog.text
    store.go.set()
    await eventually(lambda: len(runs.begun) == 2, "both slots are used")
    assert runs.names == ["c2", "c3"], "two slots, two calls"
    for call in ("c2", "c3"):
        await runs.end(call)
    await eventually(lambda: len(runs.begun) == 4, "both slots are used again")
    assert runs.names[2:] == ["c4", "c5"]
    await runs.stop()
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
        call = await store._spec(client.call_id("r"))
        assert call is not None
        await store._finish(call, "", Outcome(Status.CANCELLED))
        await eventually(Path(stack.folder, f"{tag}.cancelled").exists, "it is stopped")
    await store.close()
