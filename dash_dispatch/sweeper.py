"""Finds workers that died, and gives their calls an end. Every process has one; one acts."""

import asyncio
import logging

from dash_dispatch import tasks
from dash_dispatch.config import Settings
from dash_dispatch.errors import StoreError
from dash_dispatch.store import BEAT_SHARE, Store

logger = logging.getLogger(__name__)


class Sweeper:
    """Looks for ended leases several times per ``lease_s``.

    Web processes sweep as well as workers, so that the death of the only worker is noticed, too.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._interval_s = settings.lease_s * BEAT_SHARE
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def close(self) -> None:
        """End."""
        await tasks.end([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                # Redis is away: leases do not run out meanwhile in a way that anybody could see.
                logger.debug("sweep put off: %s", error)
            await asyncio.sleep(self._interval_s)

    async def sweep(self) -> int:
        """One look. Returns how many calls were ended or handed back."""
        count = 0
        for worker in await self._store.lost_workers():
            logger.warning("! worker %s is lost", worker)
            for call, lane in await self._store.claimed_by(worker):
                count += await self._settle(worker, call, lane)
            await self._store.leave(worker)
        return count

    async def _settle(self, worker: str, call: str, lane: str) -> int:
        # Claimed and not started: it waits again, nothing of it has happened.
        if await self._store.release(worker, call, lane) == "queued":
            logger.info("↻ %s handed back", call, extra={"call_id": call})
            return 1
        if await self._store.lose(call, worker):
            logger.warning("! %s lost with its worker", call, extra={"call_id": call})
            return 1
        return 0
