"""What goes wrong, and when: drawn from a seed, so that the same seed is the same schedule."""

import asyncio
import contextlib
import random
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.browser.proxy import Proxy
from tests.stack import Proc, RedisServer, Stack, eventually

LEASE_S = 2.0
WORKERS = 3
WEBS = 2
BACK_S = 120.0
"""A web process starts within this, on a machine that has much else to do."""

WEIGHTS = {
    "worker killed": 3,
    "worker asked to stop": 3,
    "worker stopped": 2,
    "web killed": 1,
    "web asked to stop": 1,
    "redis killed": 1,
    "redis paused": 1,
    "redis connections cut": 4,
    "browser connections cut": 4,
}


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        at_s: After the start.
        what: One of `WEIGHTS`.
        which: Of several processes.
        lasts_s: Until it is mended, where that is for the test to do.
    """

    at_s: float
    what: str
    which: int
    lasts_s: float


def schedule(seed: int, lasts_s: float, every_s: float) -> list[Fault]:
    """The faults of a run."""
    rng = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    at_s, found = 0.0, []
    while (at_s := at_s + rng.uniform(0.5, 1.5) * every_s) < lasts_s:
        (what,) = rng.choices(names, weights)
        lasts = rng.uniform(0.2, 1.5 * LEASE_S)
        found.append(Fault(round(at_s, 3), what, rng.randrange(1000), round(lasts, 3)))
    return found


class Site:
    """A deployment that is being hurt: workers, web processes behind proxies, and a Redis."""

    def __init__(self, stack: Stack, own_redis: RedisServer) -> None:
        self._stack = stack
        self._redis = own_redis
        addresses = stack.up(webs=WEBS, workers=WORKERS)
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        self._webs = dict(zip(ports, stack.webs, strict=True))
        self._workers = list(stack.workers)
        self.proxies = [Proxy(port) for port in ports]
        self._redis_is_hurt = asyncio.Lock()
        self._web_is_hurt = asyncio.Lock()
        self.done: Counter[str] = Counter()
        self._doing: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "worker killed": self._kill_worker,
            "worker asked to stop": self._end_worker,
            "worker stopped": self._stop_worker,
            "web killed": self._kill_web,
            "web asked to stop": self._end_web,
            "redis killed": self._kill_redis,
            "redis paused": self._pause_redis,
            "redis connections cut": self._cut_redis,
            "browser connections cut": self._cut_browsers,
        }

    async def suffer(self, faults: list[Fault]) -> None:
        """All of them, each at its time; returns when all is mended."""
        start_s = asyncio.get_running_loop().time()

        async def one(fault: Fault) -> None:
            await asyncio.sleep(start_s + fault.at_s - asyncio.get_running_loop().time())
            await self._doing[fault.what](fault)
            self.done[fault.what] += 1

        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(one(fault))

    def end(self) -> None:
        """The proxies; the rest is the stack's."""
        for proxy in self.proxies:
            proxy.end()

    # --- workers -------------------------------------------------------------------------------

    def _take_worker(self, fault: Fault) -> Proc:
        """One that is to go; another comes for it at once."""
        worker = self._choose_worker(fault)
        self._workers.remove(worker)
        self._workers.append(self._stack.worker(wait=False))
        return worker

    def _choose_worker(self, fault: Fault) -> Proc:
        """One that has calls to lose, and not one that only starts."""
        ready = [worker for worker in self._workers if " ready: " in worker.log]
        candidates = ready or self._workers
        return candidates[fault.which % len(candidates)]

    async def _kill_worker(self, fault: Fault) -> None:
        await asyncio.to_thread(self._take_worker(fault).kill)

    async def _end_worker(self, fault: Fault) -> None:
        worker = self._take_worker(fault)
        worker.signal(signal.SIGCONT)
        worker.signal(signal.SIGTERM)

    async def _stop_worker(self, fault: Fault) -> None:
        worker = self._choose_worker(fault)
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.lasts_s)
        worker.signal(signal.SIGCONT)

    # --- web processes -------------------------------------------------------------------------

    async def _kill_web(self, fault: Fault) -> None:
        await self._replace_web(fault, signal.SIGKILL)

    async def _end_web(self, fault: Fault) -> None:
        await self._replace_web(fault, signal.SIGTERM)

    async def _replace_web(self, fault: Fault, number: int) -> None:
        """Another process on the same port. One at a time, as people do: some page is served."""
        async with self._web_is_hurt:
            port = sorted(self._webs)[fault.which % len(self._webs)]
            web = self._webs[port]
            web.signal(number)
            await asyncio.to_thread(web.process.wait, 40)
            address = await asyncio.to_thread(self._stack.web, port, wait=False)
            self._webs[port] = self._stack.webs[-1]
            await eventually(lambda: listens(port), f"{address} is back", BACK_S)

    # --- Redis and connections -----------------------------------------------------------------

    async def _kill_redis(self, fault: Fault) -> None:
        async with self._redis_is_hurt:
            assert self._redis.proc is not None
            await asyncio.to_thread(self._redis.proc.kill)
            await asyncio.sleep(fault.lasts_s)
            await asyncio.to_thread(self._redis.start)

    async def _pause_redis(self, fault: Fault) -> None:
        async with self._redis_is_hurt:
            assert self._redis.proc is not None
            self._redis.proc.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            self._redis.proc.signal(signal.SIGCONT)

    async def _cut_redis(self, _fault: Fault) -> None:
        async with self._redis_is_hurt:
            await asyncio.to_thread(cut_clients, self._redis)

    async def _cut_browsers(self, fault: Fault) -> None:
        await asyncio.to_thread(self.proxies[fault.which % len(self.proxies)].cut_all)


def listens(port: int) -> bool:
    """Whether somebody does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def cut_clients(server: RedisServer) -> None:
    """Drop every connection to Redis."""
    with contextlib.closing(server.client()) as client:
        for kind in ("pubsub", "normal"):
            client.client_kill_filter(_type=kind, skipme=True)
