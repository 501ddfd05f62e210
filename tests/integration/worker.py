"""A worker in miniature: what claims and what runs calls, without arq, signals and processes."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from dash_dispatch import Dash, Settings, tasks
from dash_dispatch.caller import Caller
from dash_dispatch.engine import Claims
from dash_dispatch.execution import Execution
from dash_dispatch.processes import ProcessPool
from dash_dispatch.protocol import CallSpec, Executor, Outcome, RequestSnapshot
from dash_dispatch.store import Entry, Store
from tests.integration.test_store import LANE, mailed

_numbers: Iterator[int] = itertools.count(1)


def asked(name: str, value: Any = None, **more: Any) -> CallSpec:
    """A call of the callback ``Output(name, "children")`` with ``Input("in", "value")``."""
    payload = orjson.dumps(
        {
            "output": f"{name}.children",
            "outputs": {"id": name, "property": "children"},
            "inputs": [{"id": "in", "property": "value", "value": value}],
            "changedPropIds": ["in.value"],
        }
    )
    snapshot = msgspec.json.encode(RequestSnapshot())
    number = next(_numbers)
    made = CallSpec(
        f"{name}{number}", "s", "p", f"r{number}", f"{name}.children", LANE, 20, payload, snapshot
    )
    return msgspec.structs.replace(made, **more)


class Worker:
    """Claims and runs the calls of one lane, with 32 slots; or one, in a pool of processes."""

    def __init__(
        self,
        app: Dash,
        store: Store,
        settings: Settings,
        name: str = "w1",
        executor: Executor = Executor.LOOP,
        pool: ProcessPool | None = None,
    ) -> None:
        self.store = store
        self.name = name
        caller = Caller(store, settings)
        self.execution = Execution(app, store, settings, name, pool, caller)
        run, ahead = self.execution.run, self.execution.ahead
        slots = {executor: 32 if pool is None else 1}
        self.claims = Claims(store, name, ["default"], slots, run, self.execution, ahead)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Worker":
        await self.store.renew(self.name, join=True)
        self.claims.start()
        self._tasks.append(asyncio.create_task(self._run()))
        return self

    async def _run(self) -> None:
        while True:
            for call in await self.claims.next():
                self._tasks.append(asyncio.create_task(self._call(call.decode())))

    async def _call(self, call: str) -> None:
        try:
            await self.claims.join(call)
        finally:
            self.claims.settled(call)

    async def __aexit__(self, *_: object) -> None:
        await self.claims.stop()
        await self.claims.end()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks.end(self._tasks)
        await self.execution.close()


async def outcomes(store: Store, count: int, *, others: int = 0) -> dict[str, Outcome]:
    """Outcomes in the mailbox ``s`` by call, as soon as there are so many.

    Args:
        store: Where it is.
        count: How many outcomes.
        others: How many other entries come before the last of them.
    """
    entries: list[Entry] = await mailed(store, "s", count + others)
    events = [entry.event for entry in entries]
    found = {event.call: event.outcome for event in events if event.outcome is not None}
    assert len(found) == count == sum(event.outcome is not None for event in events)
    return found
