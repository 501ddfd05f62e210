"""Tells pages how far their calls have come in the queue (``queued=``)."""

import asyncio
import contextlib
import logging
from typing import Any

from dash_dispatch import bridge, tasks
from dash_dispatch.errors import DecodeError, StoreError
from dash_dispatch.protocol import CallbackBody, CallSpec, decode_callback_body
from dash_dispatch.store import Store
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
"""Between two looks: what a position on a page may be behind."""

IDLE_S = 5.0
"""The same when nobody waits: another web process may have died with those who do. What this one
accepts is looked at as soon as it is."""

MAX_TOLD = 1000
"""Calls that are told their position, the oldest first; those behind hear of it later."""


class Positions:
    """Looks at the queues, and tells those who wait that they have come forward.

    Every web process of an app with ``queued=`` has one. The store sends a position only once and
    only forward, whoever reports it.
    """

    def __init__(self, app: Any, store: Store, threads: Threads) -> None:
        self._app = app
        self._store = store
        # The texts may be made by functions of the user.
        self._threads = threads
        self._task: asyncio.Task[None] | None = None
        self._announced = asyncio.Event()
        self._specs: dict[str, CallSpec] = {}
        self._bodies: dict[str, CallbackBody] = {}
        self._told: dict[str, int] = {}

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="positions")

    def wake(self) -> None:
        """A call has been accepted that wants to know."""
        self._announced.set()

    async def close(self) -> None:
        """End."""
        await tasks.end([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreError as error:
                logger.debug("positions put off: %s", error)
            if not self._specs:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._announced.wait()
            self._announced.clear()
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """One look at the calls that wait to be told."""
        calls = await self._store.announced(MAX_TOLD)
        for known in self._specs.keys() - set(calls):
            self._forget(known)
        for call in calls:
            await self._learn(call)
        specs = [self._specs[call] for call in calls if call in self._specs]
        if not specs:
            return
        durations, capacity = await self._store.rates()
        for spec, rank in zip(specs, await self._store.ranks(specs), strict=True):
            if rank is None:
                # It runs, or waits behind an earlier run of its own.
                await self._learn_again(spec)
            elif rank + 1 < self._told.get(spec.id, rank + 2):
                await self._tell(spec, rank + 1, _estimate_s(spec, rank + 1, durations, capacity))

    async def _learn(self, call: str) -> None:
        if call in self._specs:
            return
        spec = await self._store.announced_spec(call)
        # A callback that only another release knows is told by a web process of that one.
        if spec is None or bridge.entry_of(self._app, spec.output) is None:
            return
        try:
            self._bodies[call] = decode_callback_body(spec.payload)
        except DecodeError:
            return
        self._specs[call] = spec

    async def _learn_again(self, spec: CallSpec) -> None:
        if not await self._store.tell_position(spec, 2**31, ()):
            self._forget(spec.id)

    async def _tell(self, spec: CallSpec, position: int, estimate_s: float | None) -> None:
        entry = bridge.entry_of(self._app, spec.output)
        assert entry is not None
        try:
            words = self._threads.wrap(bridge.queued_props)
            updates = await words(entry, self._bodies[spec.id], position, estimate_s)
        except Exception:
            # The user's own function. The page shows what it showed; the call goes on.
            logger.exception("! queued= of %s failed", spec.output, extra={"call_id": spec.id})
            updates = []
        if await self._store.tell_position(spec, position, updates):
            self._told[spec.id] = position
        else:
            self._forget(spec.id)

    def _forget(self, call: str) -> None:
        self._specs.pop(call, None)
        self._bodies.pop(call, None)
        self._told.pop(call, None)


def _estimate_s(
    spec: CallSpec, position: int, durations: dict[str, float], capacity: dict[str, int]
) -> float | None:
    """How long until it starts; None where nobody can know.

    As if all before it took as long as this callback usually does, from the start of a run.
    """
    usual_s = durations.get(spec.output)
    at_once = capacity.get(spec.lane, 0)
    if spec.gate:
        at_once = min(at_once, spec.limit)
    return None if usual_s is None or at_once == 0 else usual_s * position / at_once
