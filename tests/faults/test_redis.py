"""Redis that is paused, full, cut off, failing over: both sides come back by themselves."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.chaos.browsers import KINDS, Browser
from tests.chaos.faults import cut_clients
from tests.chaos.leftovers import tell
from tests.client import LongPollClient, WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.programs import require_program
from tests.scale import scaled
from tests.stack import Proc, RedisServer, Stack, eventually, free_port, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(90, 900))]


def begun(stack: Stack, *tags: str) -> bool:
    return all((stack.folder / f"{tag}.started").exists() for tag in tags)


def go(stack: Stack, *tags: str) -> None:
    for tag in tags:
        (stack.folder / f"{tag}.go").touch()


def ran(stack: Stack, tag: str) -> int:
    """How often it was started."""
    return len((stack.folder / f"{tag}.started").read_text().split())


# --- away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [WebsocketClient, LongPollClient])
async def test_calls_that_redis_has_lost_are_told(
    make_stack: StackFactory,
    own_redis: RedisServer,
    transport: type[WebsocketClient | LongPollClient],
) -> None:
    """One that was restarted without its file knows of nothing any more. No page waits for ever."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="2", poll_hold_s="1")
    address = stack.web()
    async with transport(address) as client:
        await client.call("lost", "echo.children", "x")
        queue = f"{stack.namespace}:waiting:default:loop"
        await eventually(lambda: own_redis.client().zcard(queue), "it waits")
        # As after such a restart, without the time that it takes: a browser that comes back from
        # that sends the call again.
        own_redis.client().flushall()

        outcome = await client.outcome("lost", 60)

        assert outcome["status"] == "error"
        assert "Redis has lost this call" in outcome["message"]
        stack.worker()
        await client.call("next", "echo.children", "y")
        assert await client.children("next") == "y"


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_worker_is_asked_to_stop_while_redis_is_away(
    make_stack: StackFactory, own_redis: RedisServer, how: str
) -> None:
    """It ends in time and in words; what it ran is settled by the others when Redis is back."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="2", grace_s="0.5")
    (address,) = stack.up(workers=2)
    async with WebsocketClient(address) as client:
        await client.call("one", "held-async.children", "one")
        await client.call("two", "held.children", "two")
        await eventually(lambda: begun(stack, "one", "two"), "both run")
        assert own_redis.proc is not None
        own_redis.proc.kill() if how == "killed" else own_redis.proc.signal(signal.SIGSTOP)

        for worker in stack.workers:
            worker.signal(signal.SIGTERM)

        both = [worker.process for worker in stack.workers]
        await eventually(lambda: None not in [process.poll() for process in both], "they end", 25)
        for worker in stack.workers:
            assert worker.process.returncode == 0
            assert "Traceback" not in worker.log, worker.log
            assert "ends without a word to Redis" in worker.log
            assert worker.log.rstrip().endswith("ended")
        own_redis.start() if how == "killed" else own_redis.proc.signal(signal.SIGCONT)
        if client.connection.close_code is not None:
            await client.cut()
            await client.connect()
        for request in ("one", "two"):
            outcome = await client.outcome(request, 15)
            assert outcome["status"] == "error"
            assert ran(stack, request) == 1
        assert not client.seen.strays


async def test_redis_pauses(make_stack: StackFactory, own_redis: RedisServer) -> None:
    """Pages are served meanwhile; a new call waits or is refused, and nothing is lost."""
    pause_s = scaled(3, 10)
    stack = make_stack("wire", redis_server=own_redis, lease_s="2", processes="1")
    (address,) = stack.up()
    async with http(address) as plain, WebsocketClient(address) as client:
        for request in ("one", "two"):
            await client.call(request, "held-async.children", request)
        await client.call("three", "held.children", "three")
        await eventually(lambda: begun(stack, "one", "two", "three"), "they run")
        await client.call("queued", "held.children", "queued")
        waiting = f"{stack.namespace}:waiting:default:process"
        await eventually(lambda: own_redis.client().zcard(waiting), "it waits")

        own_redis.client().client_pause(1000 * pause_s)
        go(stack, "one", "three")
        asked_s = time.monotonic()
        meanwhile = asyncio.create_task(post(plain, "echo.children", 1))
        assert (await plain.get("/_dash-layout")).status_code == 200
        assert written(await post(plain, "local-plain.children", 7)) == 7
        assert time.monotonic() - asked_s < min(pause_s, 3), "nothing waits for Redis that need not"
        answer = await meanwhile
        if answer.status_code == 503:
            assert float(answer.headers["Retry-After"]) > 0
        else:
            assert written(answer) == 1
        go(stack, "two", "queued")

        if client.connection.close_code is not None:
            await client.cut()
            await client.connect()
        for request in ("one", "two", "three", "queued"):
            assert (await client.children(request, 30)).startswith(request)
            assert ran(stack, request) == 1
        assert not client.seen.strays


async def test_calls_while_connections_to_redis_are_reset_at_random(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """N accepted calls have N outcomes, each seen once, and each has run once."""
    count = scaled(200, 3000)
    rng = random.Random(3)
    stack = make_stack("chaotic", redis_server=own_redis, lease_s="10", concurrency="16")
    addresses = stack.up(webs=2, workers=2)
    browsers = [Browser(kind, addresses, random.Random(n)) for n, kind in enumerate(KINDS)]
    await asyncio.gather(*(browser.start() for browser in browsers))
    cuts = 0
    for number in range(count):
        kind = rng.choice(("loop", "thread", "process", "stream", "limited"))
        await rng.choice(browsers).call(f"{kind}-{number}", kind, rng.choice((0, 0, 0.05)))
        await asyncio.sleep(rng.uniform(0, 0.03))
        if rng.random() < 0.06:
            await asyncio.to_thread(cut_clients, own_redis)
            cuts += 1
    try:
        await eventually(
            lambda: not any(browser.client.pending for browser in browsers), "all outcomes", 40
        )
    finally:
        pending = [request for browser in browsers for request in browser.client.pending]
        for browser in browsers:
            await browser.end()
    runs = Counter(line.split()[0] for line in (stack.folder / "runs").read_text().splitlines())
    assert [found for browser in browsers for found in browser.violations(runs)] == []
    statuses = Counter(b.status(request) for b in browsers for request in b.asked)
    tell(f"{count} calls, {cuts} times all connections reset: {dict(statuses)}, pending {pending}")
    # A command whose connection is lost is repeated: nobody hears of it.
    assert statuses == {"ok": count}


# --- full ---------------------------------------------------------------------------------------


async def test_redis_is_full(make_stack: StackFactory, own_redis: RedisServer) -> None:
    """New calls are refused in words; what runs ends when there is memory again, and once."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="2", processes="1")
    (address,) = stack.up()
    raw = own_redis.client()
    async with http(address) as plain, WebsocketClient(address) as client:
        await client.call("loop", "held-async.children", "loop")
        await client.call("process", "held.children", "process")
        await client.call("many", "many.children", ["many", 20])
        await eventually(lambda: begun(stack, "loop", "process", "many"), "they run")
        await client.call("queued", "held.children", "queued")
        waiting = f"{stack.namespace}:waiting:default:process"
        await eventually(lambda: raw.zcard(waiting), "it waits")

        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", 1)
        full_s = time.monotonic()
        refused = await post(plain, "echo.children", 1)
        assert refused.status_code == 503
        assert float(refused.headers["Retry-After"]) > 0
        assert (await plain.get("/_dash-layout")).status_code == 200
        await client.call("new", "echo.children", 1)
        outcome = await client.outcome("new")
        assert outcome["status"] == "error"
        assert "Redis is not available" in outcome["message"]
        assert "memory" in outcome["message"]
        go(stack, "loop", "process", "many", "queued")
        # For longer than the lease: nobody is given up for it.
        await eventually(lambda: time.monotonic() - full_s > 3, "time passes")
        assert client.pending.keys() == {"loop", "process", "many", "queued"}
        raw.config_set("maxmemory", 0)

        for request in ("loop", "process", "queued"):
            assert (await client.children(request, 15)).startswith(request)
            assert ran(stack, request) == 1
        assert await client.children("many", 15) == "40 steps"
        assert client.props == list(range(40))
        assert written(await post(plain, "echo.children", 2)) == 2
        assert not client.seen.strays
        for proc in [*stack.webs, *stack.workers]:
            assert proc.process.poll() is None
            assert "Traceback" not in proc.log, proc.log
            assert "is lost" not in proc.log


# --- failing over -------------------------------------------------------------------------------


class Sentinels(RedisServer):
    """A primary, a replica and Sentinels that fail over; stands for the primary in a stack."""

    COUNT = 3
    SERVICE = "main"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--appendonly", "yes")
        spare = folder / "replica"
        spare.mkdir()
        self.replica = RedisServer(
            spare, "--appendonly", "yes", "--replicaof", f"127.0.0.1 {self.port}"
        )
        self._sentinels: list[RedisServer] = []
        self._env = dict(os.environ)
        ports = [self._start_sentinel(folder / f"sentinel-{n}") for n in range(self.COUNT)]
        self.primary = f"redis://127.0.0.1:{self.port}/0"
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.url = f"redis+sentinel://{hosts}/{self.SERVICE}/0"
        wait_for(lambda: all(map(self._sees_all, ports)), "the Sentinels know each other")

    def _start_sentinel(self, folder: Path) -> int:
        folder.mkdir()
        port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.port} 2\n"
            f"sentinel down-after-milliseconds {self.SERVICE} 500\n"
            f"sentinel failover-timeout {self.SERVICE} 3000\n"
        )
        command = [require_program("redis-server"), str(config), "--sentinel"]
        self._sentinels.append(_Plain(port, command, folder))
        return port

    def _sees_all(self, port: int) -> bool:
        with contextlib.suppress(redis.RedisError):
            client: Any = redis.Redis(port=port, socket_timeout=5)
            with client:
                (state,) = client.sentinel_masters().values()
                others, replicas = state["num-other-sentinels"], state["num-slaves"]
            return bool(others == self.COUNT - 1 and replicas == 1)
        return False

    def synced(self) -> bool:
        """Whether the replica has all there is: what is asked for before its primary dies."""
        return bool(self.client().wait(1, 15_000) == 1)

    def end(self) -> None:
        for server in [*self._sentinels, self.replica]:
            server.end()
        super().end()


class _Plain(RedisServer):
    """A Sentinel."""

    def __init__(self, port: int, command: list[str], folder: Path) -> None:
        self.port = port
        self.proc = Proc("sentinel", command, dict(os.environ), folder)
        wait_for(self._answers, "the Sentinel answers")


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    folder = tmp_path / "primary"
    folder.mkdir()
    servers = Sentinels(folder)
    try:
        yield servers
    finally:
        servers.end()


async def test_a_failover_by_sentinel(make_stack: StackFactory, sentinels: Sentinels) -> None:
    """The primary dies; web and worker find the new one by themselves, and go on."""
    stack = make_stack("wire", redis_server=sentinels, lease_s="2", processes="1")
    (address,) = stack.up()
    async with http(address) as plain, WebsocketClient(address) as client:
        await client.call("loop", "held-async.children", "loop")
        await client.call("process", "held.children", "process")
        await eventually(lambda: begun(stack, "loop", "process"), "they run")
        await client.call("queued", "held.children", "queued")
        waiting = f"{stack.namespace}:waiting:default:process"
        await eventually(lambda: sentinels.client().zcard(waiting), "it waits")
        # What a container's health check runs asks the Sentinels, too.
        command = [sys.executable, "-m", "arq", "--check", "dash_dispatch.worker"]
        check = stack.run("check", command, stack.env(app="wire:app"))
        await eventually(lambda: check.process.poll() is not None, "the check ends")
        assert check.process.returncode == 0, check.log
        assert sentinels.synced()
        assert sentinels.proc is not None

        sentinels.proc.kill()
        killed_s = time.monotonic()
        refused = await post(plain, "echo.children", 1)
        assert refused.status_code in (200, 503)
        go(stack, "loop", "process", "queued")

        async def works() -> bool:
            return (await post(plain, "echo.children", 2)).status_code == 200

        while not await works():
            assert time.monotonic() - killed_s < 40, stack.logs()
        tell(f"works again {time.monotonic() - killed_s:.1f} s after the primary was killed")
        if client.connection.close_code is not None:
            await client.cut()
            await client.connect()
        for request in ("loop", "process", "queued"):
            assert (await client.children(request, 30)).startswith(request)
            assert ran(stack, request) == 1
        assert sentinels.replica.client().role()[0] == b"master"
        assert not client.seen.strays
        for proc in [*stack.webs, *stack.workers]:
            assert proc.process.poll() is None
            assert "Traceback" not in proc.log, proc.log


async def test_a_primary_that_is_demoted_and_promoted_again(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """Its connections stay, and say READONLY: as behind an address that moves."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="2")
    (address,) = stack.up()
    async with http(address) as plain, WebsocketClient(address) as client:
        await client.call("one", "held-async.children", "one")
        await eventually(lambda: begun(stack, "one"), "it runs")
        raw = own_redis.client()
        raw.replicaof("127.0.0.1", free_port())
        refused = await post(plain, "echo.children", 1)
        assert refused.status_code == 503
        go(stack, "one")
        raw.replicaof("NO", "ONE")

        if client.connection.close_code is not None:
            await client.cut()
            await client.connect()
        assert (await client.children("one", 20)).startswith("one")
        assert written(await post(plain, "echo.children", 2)) == 2
        assert ran(stack, "one") == 1
        assert not client.seen.strays
