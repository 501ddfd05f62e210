"""Machines whose clocks are wrong by an hour: no call is lost, ended too early, or endless."""

import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from tests.client import WebsocketClient
from tests.conftest import StackFactory
from tests.stack import Stack, eventually

pytestmark = pytest.mark.faults

LEASE_S = 2.0
HOUR_S = 3600
SHIFT = """
import datetime, os, time
shift_s = float(os.environ["SHIFT_S"])
clock, clock_ns, Real = time.time, time.time_ns, datetime.datetime
time.time = lambda: clock() + shift_s
time.time_ns = lambda: clock_ns() + int(shift_s * 10**9)


class Shifted(Real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)


datetime.datetime = Shifted
"""
"""The monotonic clock is nobody's to set, and stays."""


class Site(NamedTuple):
    stack: Stack
    ahead: str
    behind: str


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    """Web processes and workers an hour ahead and an hour behind; Redis has the right time."""
    stack = make_shared_stack("chaotic", lease_s=str(LEASE_S), processes="1")
    (stack.folder / "sitecustomize.py").write_text(SHIFT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIFT_S", str(HOUR_S))
        (ahead,) = stack.up()
        patch.setenv("SHIFT_S", str(-HOUR_S))
        (behind,) = stack.up()
        yield Site(stack, ahead, behind)


def runs(stack: Stack, tag: str) -> int:
    lines = (stack.folder / "runs").read_text().splitlines()
    return sum(line.split()[0] == tag for line in lines)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[WebsocketClient]:
    async with WebsocketClient(site.ahead) as made:
        yield made


async def test_the_clocks_are_wrong(site: Site) -> None:
    """Of the processes themselves: what the workers log has their time in it."""
    hours = {worker.log.partition(":")[0][-2:] for worker in site.stack.workers}
    assert len(hours) == 2


async def test_calls_run_and_none_is_given_up(site: Site, client: WebsocketClient) -> None:
    """For longer than the lease, in workers of either clock."""
    kinds = ("loop", "thread", "process", "stream", "limited")
    for kind, number in itertools.product(kinds, range(4)):
        await client.call(f"{kind}{number}", f"{kind}.children", [f"{kind}{number}", 0.7 * LEASE_S])
    for kind, number in itertools.product(kinds, range(4)):
        assert await client.children(f"{kind}{number}") == f"{kind}{number}"
        assert runs(site.stack, f"{kind}{number}") == 1
    assert not any("is lost" in proc.log for proc in [*site.stack.workers, *site.stack.webs])


async def test_a_time_limit_is_kept(client: WebsocketClient) -> None:
    """Neither at once nor never."""
    asked_s = time.monotonic()
    for number in range(4):
        await client.call(f"late{number}", "late.children", [f"late{number}", 100])
    for number in range(4):
        outcome = await client.outcome(f"late{number}", 10)
        assert "did not end within 1.5 s" in outcome["message"]
    assert 1.4 < time.monotonic() - asked_s < 6


async def test_a_retry_waits_for_its_pause(site: Site, client: WebsocketClient) -> None:
    for number in range(4):
        await client.call(f"again{number}", "retried.children", [f"again{number}", 0])
    for number in range(4):
        assert await client.children(f"again{number}") == f"again{number}"
        assert runs(site.stack, f"again{number}") == 2


async def test_a_session_goes_on_at_any_web_process(site: Site, client: WebsocketClient) -> None:
    """The handle was signed an hour or two ahead, or behind: it is the same session."""
    await client.call("held", "loop.children", ["held", 1.5])
    for address in (site.behind, site.ahead, site.behind):
        await client.cut()
        assert (await client.connect(address))["resumed"]
    assert await client.children("held") == "held"
    assert runs(site.stack, "held") == 1


async def test_what_is_kept_is_kept_for_as_long_as_it_says(
    site: Site, client: WebsocketClient
) -> None:
    """Redis' own clock ends it."""
    await client.call("kept", "loop.children", ["kept", 0])
    await client.outcome("kept")
    redis = site.stack.redis.client()
    name = f"{site.stack.namespace}:call:"
    (record, *_) = redis.scan_iter(f"{name}*", count=1000)
    assert 3500 < redis.ttl(record) <= 3600


async def test_a_worker_that_dies_is_noticed_in_time(site: Site, client: WebsocketClient) -> None:
    """Neither sooner nor an hour later. (The last test here: it takes a worker.)"""
    for number in range(6):
        await client.call(f"dies{number}", "loop.children", [f"dies{number}", 3 * LEASE_S])
    await eventually(lambda: all(runs(site.stack, f"dies{n}") for n in range(6)), "they run")
    site.stack.workers[0].kill()
    killed_s = time.monotonic()
    outcomes = [await client.outcome(f"dies{number}") for number in range(6)]
    lost = [outcome for outcome in outcomes if outcome["status"] == "error"]
    assert all("lost" in outcome["message"] for outcome in lost)
    assert time.monotonic() - killed_s < 4 * LEASE_S
