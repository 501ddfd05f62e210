"""A random mix of faults from a fixed seed, while browsers ask for calls of every kind.

A short one with every run of the tests; ``make chaos SEED=7 CALLS=3000`` for a long one.
"""

import asyncio
import math
import os
import random
import time
from collections import Counter

import pytest

from tests.chaos import leftovers
from tests.chaos.browsers import KINDS, Browser
from tests.chaos.faults import LEASE_S, Fault, Site, schedule
from tests.conftest import StackFactory
from tests.faults.test_faults import without_server_noise
from tests.scale import scaled
from tests.stack import RedisServer, Stack, eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(150, 1800))]

# Of the first seeds the one whose first seconds have every kind of fault that matters most.
SEED = int(os.environ.get("SEED", "24"))
CALLS = int(os.environ.get("CALLS") or scaled(120, 2400))
CALLS_PER_S = 10.0
FAULT_EVERY_S = scaled(1, 3)
BROWSERS = 6
SESSION_TTL_S = 60.0
"""Longer than any browser is away here: a call that is sent again after this is a new one."""
SETTLE_S = 60.0
"""No call may take longer than this after the last fault."""

CALLBACKS = {
    "loop": 4, "thread": 3, "process": 3, "stream": 3, "stream-process": 2, "stream-retried": 2,
    "retried": 3, "fails": 1, "limited": 3, "web": 2, "shared": 2,
}  # fmt: skip
CANCELLED = 0.05
"""This share of the calls is cancelled after a moment."""


class Mix:
    """One run of it: who asks, what goes wrong, and what came of it."""

    def __init__(self, site: Site, stack: Stack) -> None:
        self._site = site
        self._stack = stack
        self._lasts_s = CALLS / CALLS_PER_S
        rng = random.Random(SEED + 1)
        self.faults = schedule(SEED, self._lasts_s, FAULT_EVERY_S)
        addresses = [proxy.address for proxy in site.proxies]
        self.browsers = [
            Browser(KINDS[n % len(KINDS)], addresses, random.Random(SEED + n))
            for n in range(BROWSERS)
        ]
        self._rng = rng
        self.violations: list[str] = []

    async def play(self) -> None:
        """All calls and all faults, until the last outcome."""
        await asyncio.gather(*(browser.start() for browser in self.browsers))
        await asyncio.gather(self._site.suffer(self.faults), self._ask())
        healed_s = time.monotonic()
        pending = [1]
        while pending and time.monotonic() < healed_s + SETTLE_S:
            await asyncio.sleep(0.05)
            pending = [1 for browser in self.browsers if browser.client.pending]
        self.settled_s = time.monotonic() - healed_s
        # What comes a second time has a moment to come.
        await asyncio.sleep(1)
        for browser in self.browsers:
            await browser.end()

    async def _ask(self) -> None:
        names, weights = list(CALLBACKS), list(CALLBACKS.values())
        cancels = set()
        for number in range(CALLS):
            browser = self._rng.choice(self.browsers)
            (kind,) = self._rng.choices(names, weights)
            lasts_s = self._rng.choice((0.0, 0.05, 0.5, 1.5))
            request = f"{kind}-{number}"
            await browser.call(request, kind, lasts_s)
            if self._rng.random() < CANCELLED:
                cancels.add(asyncio.create_task(self._cancel(browser, request)))
            await asyncio.sleep(self._rng.expovariate(CALLS_PER_S))
        await asyncio.gather(*cancels)

    async def _cancel(self, browser: Browser, request: str) -> None:
        await asyncio.sleep(0.3)
        await browser.cancel(request)

    def check(self) -> None:
        """Find what must not be."""
        lines = (self._stack.folder / "runs").read_text().splitlines()
        runs = Counter(line.split()[0] for line in lines)
        for browser in self.browsers:
            self.violations += browser.violations(runs)
        for proc in self._stack.webs:
            log = without_server_noise(proc.log)
            if "Traceback" in log:
                at = log.index("Traceback")
                self.violations.append(f"{proc.name}: {log[max(0, at - 500) : at + 3000]}")

    def report(self) -> str:
        """What was done, and what came of it."""
        asked = [browser.asked[one][0] for browser in self.browsers for one in browser.asked]
        outcomes = Counter(b.status(request) for b in self.browsers for request in b.asked)
        waits_s = sorted(s for browser in self.browsers for s in browser.took_s.values())
        lines = [
            f"seed {SEED}: {len(asked)} calls in {self._lasts_s:.0f} s, {len(self.faults)} faults",
            "calls     " + _counts(Counter(asked)),
            "faults    " + _counts(self._site.done),
            "outcomes  " + _counts(outcomes),
            f"to outcome  p50 {_quantile(waits_s, 0.5):.2f} s  p99 {_quantile(waits_s, 0.99):.2f} s"
            f"  longest {_quantile(waits_s, 1):.2f} s;"
            f" all of them {self.settled_s:.1f} s after the last fault",
            f"connections {sum(browser.connections for browser in self.browsers)}"
            f" of {len(self.browsers)} browsers;"
            f" sent again {sum(len(b.client.seen.duplicates) for b in self.browsers)}",
            f"violations  {len(self.violations)}",
            *(f"  {violation}" for violation in self.violations),
        ]
        return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0


async def test_nothing_is_lost_or_doubled_whatever_happens(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """Each accepted call has one outcome, its own, in order, and leaves nothing behind."""
    stack = make_stack(
        "chaotic",
        redis_server=own_redis,
        lease_s=str(LEASE_S),
        grace_s="5",
        poll_hold_s="5",
        concurrency="16",
        session_ttl_s=str(SESSION_TTL_S),
        result_ttl_s=str(SESSION_TTL_S),
    )
    site = Site(stack, own_redis)
    try:
        mix = Mix(site, stack)
        await mix.play()
    finally:
        site.end()
    mix.check()
    redis, name = own_redis.client(), stack.namespace
    try:
        await eventually(lambda: not leftovers.held(redis, name), "slots, claims and places", 15)
    except AssertionError:
        mix.violations += [f"held: {key}" for key in leftovers.held(redis, name)]
    mix.violations += [f"endless: {key}" for key in leftovers.endless(redis, name, SESSION_TTL_S)]
    if scaled(0, 1) and not mix.violations:
        fading = leftovers.FADING
        await eventually(
            lambda: not fading & leftovers.kinds(redis, name).keys(), "all fades", SESSION_TTL_S + 5
        )
    leftovers.tell(f"{mix.report()}\nleft in Redis  {leftovers.counted(redis, name)}")
    assert not mix.violations, f"{mix.report()}\n{schedule_text(mix.faults)}"


def schedule_text(faults: list[Fault]) -> str:
    return "\n".join(f"{at_s:8.3f} s  {what} {which}" for at_s, what, which, _ in faults)


def test_the_same_seed_is_the_same_schedule() -> None:
    assert schedule(7, 60, 1) == schedule(7, 60, 1)
    assert schedule(7, 60, 1) != schedule(8, 60, 1)
    assert all(isinstance(fault, Fault) for fault in schedule(7, 60, 1))
