"""Finds what nobody looks after any more, and deals with it. Every process has one; one acts."""

import asyncio
import logging

from dash_dispatch import tasks
from dash_dispatch.config import Settings
from dash_dispatch.errors import StoreError, StoreUnavailable
from dash_dispatch.protocol import CallSpec, OnLeave, retry_pause_s
from dash_dispatch.store import BEAT_SHARE, Overdue, Store

logger = logging.getLogger(__name__)


class Sweeper:
    """Looks several times per ``lease_s`` for ended leases, due retries and absent browsers.

    Web processes sweep as well as workers, so that the death of the only worker is noticed, too.
    A worker asks what is overdue along with its heartbeat, and has it taken up here.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._interval_s = settings.lease_s * BEAT_SHARE
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    def take_up(self, overdue: Overdue) -> None:
        """Deal with this, beside whoever asked. What comes before it is done is asked for again."""
        if any(overdue) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._try(overdue), name="sweeper")

    async def close(self) -> None:
        """End."""
        await tasks.end([self._task])

    async def _run(self) -> None:
        while True:
            await self._try()
            await asyncio.sleep(self._interval_s)

    async def _try(self, overdue: Overdue | None = None) -> None:
        try:
            await self._deal_with(overdue or await self._store.overdue())
        except StoreUnavailable as error:
            # Leases do not run out meanwhile in a way that anybody could see.
            logger.debug("sweep put off: %s", error)
        except StoreError:
            logger.exception("! sweep given up")

    async def sweep(self) -> int:
        """One look. Returns how many calls were ended, handed back or put into their queue."""
        return await self._deal_with(await self._store.overdue())

    async def _deal_with(self, overdue: Overdue) -> int:
        count = 0
        for worker in overdue.workers:
            logger.warning("! worker %s is lost", worker)
            try:
                count += await self._give_up(worker)
            except StoreUnavailable:
                raise
            except StoreError:
                # It stays listed. What it had waits for its end; what others had does not.
                logger.exception("! the calls of %s cannot be settled", worker)
        for call in overdue.calls:
            # Whoever let it wait has a timer for this, if it lives.
            count += await self._store.requeue(call)
        for session in overdue.sessions:
            count += await self._see_off(session)
        return count

    async def _give_up(self, worker: str) -> int:
        count = 0
        for call, spec, attempt in await self._store.claimed_by(worker):
            if not await self._store.is_given_up(worker):
                # Another sweeper was faster, and what the worker has now is its own.
                break
            if spec is None:
                await self._store.forget(worker, call)
            else:
                count += await self._settle(worker, call, spec, attempt)
        await self._store.dismiss(worker)
        return count

    async def _settle(self, worker: str, call: str, spec: CallSpec, attempt: int) -> int:
        extra = {"call_id": call}
        # Claimed and not started: it waits again, nothing of it has happened.
        if await self._store.release(worker, call, spec) == "queued":
            logger.info("↻ %s handed back", call, extra=extra)
            return 1
        if spec.retries >= attempt:
            pause_s = retry_pause_s(spec.backoff_s, attempt)
            if await self._store.retry(worker, spec, pause_s) == "ok":
                logger.warning("↻ %s lost with its worker, again soon", call, extra=extra)
                return 1
        if await self._store.lose(call, worker):
            logger.warning("! %s lost with its worker", call, extra=extra)
            return 1
        return 0

    async def _see_off(self, session: str) -> int:
        """A session that may have left: when its connection ended, or since it was looked for."""
        calls = await self._store.active(session)
        ends = [call for call in calls if call.on_leave is OnLeave.CANCEL]
        if ends and await self._store.is_present(session):
            # Its web process may die together with it, and then nobody says that it has left.
            await self._store.absent(session)
            return 0
        count = 0
        for call in ends:
            if await self._store.cancel(call.id):
                logger.info("⊘ %s: its page has gone", call.id, extra={"call_id": call.id})
                count += 1
        await self._store.forget_absence(session)
        return count
