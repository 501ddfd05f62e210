"""Real processes that are killed, stopped and restarted while calls run. Nothing is lost."""

import asyncio
import contextlib
import itertools
import re
import signal
import time
import uuid

import httpx
import psutil
import pytest

from dash_dispatch.relay import FALLBACK_S
from tests.chaos.leftovers import tell
from tests.client import LongPollClient, WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.scale import scaled
from tests.stack import Proc, RedisServer, Stack, eventually, serves, wait_for

pytestmark = pytest.mark.faults

LEASE_S = float(scaled(2, 10))
"""The shortest time in which a test can tell a lost worker from a slow machine; in full, the
default."""
NOTICED_S = max(LEASE_S, 8.0)
"""A call of a worker that is killed has its outcome within this; less than the default, which a
setting that is not heard of would take."""
TOLD_S = 2 * NOTICED_S
"""What a test waits at most."""


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


def noted(stack: Stack, tag: str, what: str) -> list[int]:
    """The processes in which this has happened."""
    path = stack.folder / f"{tag}.{what}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def notes(stack: Stack, tag: str, what: str = "started") -> int:
    """Wait until it has happened; where."""
    found: list[int] = await eventually(lambda: noted(stack, tag, what), f"{tag} {what}")
    return found[0]


def go(stack: Stack, *tags: str) -> None:
    for tag in tags:
        (stack.folder / f"{tag}.go").touch()


def descendants(proc: Proc) -> list[int]:
    return [child.pid for child in psutil.Process(proc.pid).children(recursive=True)]


def without_server_noise(log: str) -> str:
    """A web's log without what asyncio of Python 3.11 says of Hypercorn's cancelled tasks."""
    return "".join(
        part for part in re.split(r"(?m)^(?=Exception in callback|\[20)", log)
        if not part.startswith("Exception in callback StreamReaderProtocol")
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- workers ------------------------------------------------------------------------------------


async def test_calls_of_a_killed_worker(make_stack: StackFactory, tag: str) -> None:
    """Started ones end as *worker lost* within the lease; queued ones run elsewhere."""
    stack = make_stack("wire", lease_s=str(LEASE_S), processes="1", concurrency="1")
    (address,) = stack.up(webs=1, workers=1)
    (victim,) = stack.workers
    async with WebsocketClient(address) as client:
        await client.call("process", "held.children", f"{tag}p")
        await client.call("loop", "held-async.children", f"{tag}l")
        await notes(stack, f"{tag}p")
        await notes(stack, f"{tag}l")
        for number in range(3):
            await client.call(f"queued {number}", "held.children", f"{tag}q{number}")
        go(stack, *(f"{tag}q{number}" for number in range(3)))
        below = descendants(victim)
        rescuer = stack.worker()

        victim.kill()
        killed = time.monotonic()

        for request in ("process", "loop"):
            outcome = await client.outcome(request, TOLD_S)
            assert outcome["status"] == "error"
            assert "lost" in outcome["message"]
        took_s = time.monotonic() - killed
        tell(
            f"both lost calls had their outcome {took_s:.2f} s after the kill (lease {LEASE_S:g} s)"
        )
        assert took_s < NOTICED_S
        for number in range(3):
            assert (await client.children(f"queued {number}")).startswith(f"{tag}q{number}")
        assert rescuer.process.poll() is None
        assert not client.seen.strays
        assert not noted(stack, tag, "cancelled")
        # Nothing of it is left running.
        await eventually(lambda: not any(alive(pid) for pid in below), "its children end", 10)


async def test_the_only_worker_is_killed(make_stack: StackFactory, tag: str) -> None:
    """The web processes notice as well; what waited runs when there is a worker again."""
    stack = make_stack("wire", lease_s=str(LEASE_S), processes="1")
    (address,) = stack.up()
    async with LongPollClient(address) as client:
        await client.call("started", "held.children", f"{tag}s")
        await notes(stack, f"{tag}s")
        await client.call("queued", "held.children", f"{tag}q")
        go(stack, f"{tag}q")

        stack.workers[0].kill()

        outcome = await client.outcome("started", TOLD_S)
        assert "lost" in outcome["message"]
        assert "queued" in client.pending
        stack.worker()
        assert (await client.children("queued")).startswith(f"{tag}q")
        assert len(noted(stack, f"{tag}s", "started")) == 1


async def test_claimed_calls_of_a_killed_worker_run_elsewhere(make_stack: StackFactory) -> None:
    """Between claim and start a call is the worker's, and nothing of it has happened yet."""
    stack = make_stack("wire", lease_s=str(LEASE_S))
    address = stack.web()
    async with WebsocketClient(address) as client:
        await client.call("one", "echo.children", "x")
        redis = stack.redis.client()
        waiting = f"{stack.namespace}:waiting:default:loop"
        (call,) = await eventually(lambda: redis.zrange(waiting, 0, -1), "it waits")
        # A worker that claims it and dies.
        redis.zadd(f"{stack.namespace}:workers", {"dead": time.time() * 1000 + 500})
        redis.zrem(waiting, call)
        redis.hset(f"{stack.namespace}:running:dead", call, "")

        stack.worker()

        assert await client.children("one") == "x"


async def test_claims_whose_reply_was_lost_are_handed_back(make_stack: StackFactory) -> None:
    """A worker that lives does not know that it has them: the connection broke at that moment."""
    stack = make_stack("wire", lease_s=str(LEASE_S))
    address = stack.web(wait=False)
    stack.worker(queues="other")
    wait_for(lambda: serves(f"{address}/_dash-layout"), "the web serves")
    redis = stack.redis.client()
    async with WebsocketClient(address) as client:
        for request in ("claimed", "started"):
            await client.call(request, "echo.children", request)
        waiting = f"{stack.namespace}:waiting:default:loop"
        await eventually(lambda: redis.zcard(waiting) == 2, "they wait")
        claimed, begun = redis.zrange(waiting, 0, -1)
        (worker,) = redis.zrange(f"{stack.namespace}:workers", 0, -1)
        running = f"{stack.namespace}:running:{worker.decode()}"
        with redis.pipeline() as pipe:
            pipe.zrem(waiting, claimed, begun)
            pipe.hset(running, mapping={claimed: "", begun: ""})
            record = f"{stack.namespace}:call:{begun.decode()}"
            pipe.hset(record, mapping={"status": "started", "worker": worker})
            pipe.execute()

        stack.worker()

        for request in ("claimed", "started"):
            assert await client.children(request) == request


async def test_a_worker_that_was_stopped_for_too_long(make_stack: StackFactory, tag: str) -> None:
    """Its late outcomes are dropped: the page sees *worker lost*, once. Then it works again."""
    stack = make_stack("wire", lease_s=str(LEASE_S))
    (address,) = stack.up()
    (worker,) = stack.workers
    async with WebsocketClient(address) as client:
        await client.call("loop", "held-async.children", f"{tag}l")
        await client.call("process", "held.children", f"{tag}p")
        await notes(stack, f"{tag}l")
        await notes(stack, f"{tag}p")

        worker.signal(signal.SIGSTOP)
        go(stack, f"{tag}p")  # its process returns meanwhile
        for request in ("loop", "process"):
            outcome = await client.outcome(request, TOLD_S)
            assert "lost" in outcome["message"]
        go(stack, f"{tag}l")
        worker.signal(signal.SIGCONT)

        await client.call("after", "echo.children", "again")
        assert await client.children("after") == "again"
        dropped = "had its outcome already"
        await eventually(lambda: worker.log.count(dropped) == 2, "late outcomes are dropped", 10)
        assert not client.seen.strays
        assert len([m for _, m in client.seen.received if m["type"] == "callback_response"]) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_asked_to_stop(
    make_stack: StackFactory, tag: str, number: signal.Signals
) -> None:
    """A deploy: what runs is finished, what waits is another's, and nothing fails."""
    stack = make_stack("wire", lease_s="5", processes="1", concurrency="1")
    (address,) = stack.up()
    (old,) = stack.workers
    async with WebsocketClient(address) as client:
        outputs = {"l": "held-async.children", "p": "held.children", "t": "held-thread.children"}
        for kind, output in outputs.items():
            await client.call(kind, output, f"{tag}{kind}")
        for kind in outputs:
            await notes(stack, f"{tag}{kind}")
        for request in ("q1", "q2"):
            await client.call(request, "held.children", f"{tag}{request}")
        go(stack, f"{tag}q1", f"{tag}q2")

        old.signal(number)
        await eventually(lambda: "stops:" in old.log, "it has heard")
        # A slot that becomes free is not filled again.
        await client.call("q3", "held-async.children", f"{tag}q3")
        go(stack, f"{tag}l")
        assert (await client.children("l")).startswith(tag)
        new = await asyncio.to_thread(stack.worker)
        below = descendants(new)
        assert await notes(stack, f"{tag}q3") == new.pid
        go(stack, f"{tag}q3")

        # The new one takes what waits while the old one still finishes.
        for request in ("q1", "q2"):
            assert int((await client.children(request)).split()[-1]) in below
        assert old.process.poll() is None
        go(stack, *(f"{tag}{kind}" for kind in outputs))
        for kind in outputs:
            assert (await client.children(kind)).startswith(f"{tag}{kind}")
        wait_for(lambda: old.process.poll() is not None, "the old one ends", 10)
        assert old.process.returncode == 0
        assert "Traceback" not in old.log
        assert not client.seen.strays


async def test_a_worker_whose_grace_ends(make_stack: StackFactory, tag: str) -> None:
    """What does not finish in time has its outcome, at once and not after the lease."""
    stack = make_stack("wire", lease_s="60", grace_s="0.5")
    (address,) = stack.up()
    async with WebsocketClient(address) as client:
        await client.call("loop", "held-async.children", f"{tag}l")
        await client.call("process", "held.children", f"{tag}p")
        await notes(stack, f"{tag}l")
        pid = await notes(stack, f"{tag}p")

        status = stack.workers[0].terminate()

        assert status == 0
        for request in ("loop", "process"):
            outcome = await client.outcome(request)
            assert outcome["status"] == "error"
            assert "stopped" in outcome["message"]
        assert noted(stack, f"{tag}l", "cancelled")
        await eventually(lambda: not alive(pid), "its process ends")


@pytest.mark.timeout(scaled(120, 900))
async def test_a_rolling_deploy_under_steady_load_fails_no_call(make_stack: StackFactory) -> None:
    """Each worker in turn is replaced by a new one, and asked to stop; calls keep coming."""
    stack = make_stack("chaotic", lease_s="30", concurrency="4")
    (address,) = stack.up(workers=2)
    async with WebsocketClient(address) as client:
        load = asyncio.create_task(ask_steadily(client))
        for old in range(scaled(2, 12)):
            await asyncio.to_thread(stack.worker)
            process = stack.workers[old].process
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None, "it ends", 30)  # noqa: B023 - at once
            assert process.returncode == 0
        await client.until(lambda: len(client.seen.outcomes) > 100, "so many have been asked", 30)
        load.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await load
        await client.until(lambda: not client.pending, "all outcomes", 30)
        asked = list(client.seen.outcomes)
        for request in asked:
            assert await client.children(request) == request
        assert not client.seen.strays
        assert not client.seen.duplicates
    runs = [line.split()[0] for line in (stack.folder / "runs").read_text().splitlines()]
    assert sorted(runs) == sorted(asked), "each ran once"
    tell(f"{len(asked)} calls in {old + 1} deploys, all ok, each ran once")
    assert not any("Traceback" in worker.log for worker in stack.workers)


async def ask_steadily(client: WebsocketClient) -> None:
    """Until cancelled: a call every 20 ms, of each kind in turn."""
    for number in itertools.count():
        kind = ("loop", "thread", "stream", "process", "limited", "stream-process")[number % 6]
        await client.call(f"{kind}-{number}", f"{kind}.children", [f"{kind}-{number}", 0.05])
        if number % 100 == 99:
            # As a page does; its mailbox would be full one day.
            await client.ack()
        await asyncio.sleep(0.02)


# --- web processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [WebsocketClient, LongPollClient])
async def test_a_web_process_is_killed(
    make_stack: StackFactory, tag: str, transport: type[WebsocketClient | LongPollClient]
) -> None:
    """Another one delivers: every update in order, every outcome once, whatever was running."""
    stack = make_stack("wire", poll_hold_s="5")
    first, second = stack.up(webs=2)
    async with transport(first) as client:
        await client.call("many", "many.children", [tag, 30])
        await client.call("held", "held.children", f"{tag}h")
        await client.call("local", "local-held.children", f"{tag}w")
        await notes(stack, tag)
        await notes(stack, f"{tag}h")
        await notes(stack, f"{tag}w")

        stack.webs[0].kill()
        await client.cut()
        go(stack, tag, f"{tag}h", f"{tag}w")
        await client.connect(second)

        assert await client.children("many") == "60 steps"
        assert client.props == list(range(60))
        assert (await client.children("held")).startswith(f"{tag}h")
        # A callback of the killed process itself is run again by the other.
        assert (await client.children("local")).endswith(str(stack.webs[1].pid))
        assert len(noted(stack, tag, "started")) == 1
        assert not client.seen.strays
        assert not client.seen.duplicates


async def test_a_web_process_that_stops_sends_what_it_has_by_mail(
    make_stack: StackFactory, tag: str
) -> None:
    """A deploy of the web: its websockets are closed, and their pages go elsewhere."""
    stack = make_stack("wire")
    first, second = stack.up(webs=2)
    async with WebsocketClient(first) as client:
        await client.call("held", "held.children", tag)
        await notes(stack, tag)
        await client.call("local", "local.children", "x")
        await client.outcome("local")
        del client.seen.outcomes["local"]  # as if it had been lost on its way
        stack.webs[0].signal(signal.SIGTERM)
        await client.close_code(10)
        client.pending["local"] = {}
        await client.cut()

        await client.connect(second, again=False)

        assert (await client.children("local")).endswith(" x")
        go(stack, tag)
        assert (await client.children("held")).startswith(tag)
        wait_for(lambda: stack.webs[0].process.poll() is not None, "it ends", 15)
        assert "Traceback" not in without_server_noise(stack.webs[0].log)


# --- Redis --------------------------------------------------------------------------------------


async def test_redis_is_killed_and_comes_back(
    make_stack: StackFactory, own_redis: RedisServer, tag: str
) -> None:
    """What was accepted is not lost; what comes meanwhile is refused in words; all mends itself."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="10", processes="1")
    first, second = stack.up(webs=2)
    async with http(first) as plain, WebsocketClient(first) as client:
        await client.call("loop", "held-async.children", f"{tag}l")
        await client.call("process", "held.children", f"{tag}p")
        await notes(stack, f"{tag}l")
        await notes(stack, f"{tag}p")
        await client.call("queued", "held.children", f"{tag}q")
        await client.call("local", "local-held.children", f"{tag}w")
        await notes(stack, f"{tag}w")
        key = f"{stack.namespace}:waiting:default:process"
        await eventually(lambda: own_redis.client().zcard(key), "it waits")

        assert own_redis.proc is not None
        own_redis.proc.kill()

        # A page without Redis: its own callbacks and its layout.
        assert (await plain.get("/_dash-layout")).status_code == 200
        assert written(await post(plain, "local-plain.children", 7)) == 7
        refused = await post(plain, "echo.children", 1)
        assert refused.status_code == 503
        assert float(refused.headers["Retry-After"]) > 0
        poller = LongPollClient(second)
        async with poller.open_http() as poller.http:
            await poller.say()
            answer = await poller.poll()
            assert answer.status_code == 503
            assert float(answer.headers["Retry-After"]) > 0
        go(stack, f"{tag}l", f"{tag}p", f"{tag}q", f"{tag}w")

        own_redis.start()

        await client.cut()
        await client.connect()
        for request, suffix in (("loop", "l"), ("process", "p"), ("queued", "q"), ("local", "w")):
            assert (await client.children(request, 30)).startswith(f"{tag}{suffix}")
        assert written(await post(plain, "echo.children", 2)) == 2
        assert not client.seen.strays
        # Cancels are heard again, too: at once, or when the worker's subscription is back.
        await client.call("later", "held-async.children", f"{tag}c")
        await notes(stack, f"{tag}c")
        await client.cancel("later")
        await client.outcome("later")
        await notes(stack, f"{tag}c", "cancelled")
        for proc in [*stack.webs, *stack.workers]:
            assert proc.process.poll() is None


async def test_an_idle_worker_and_an_idle_page_outlive_redis(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """Nobody does anything while Redis is away; then everything works on the same connection."""
    stack = make_stack("wire", redis_server=own_redis)
    (address,) = stack.up()
    async with WebsocketClient(address) as client:
        assert own_redis.proc is not None
        own_redis.proc.kill()
        await eventually(lambda: "interrupted" in stack.workers[0].log, "the worker notices")
        own_redis.start()
        if client.connection.close_code is not None:
            await client.cut()
            await client.connect()

        await client.call("one", "echo.children", "x")

        assert await client.children("one", 15) == "x"


async def test_a_worker_outlives_a_long_absence_of_redis(
    make_stack: StackFactory, own_redis: RedisServer, tag: str
) -> None:
    """Longer than any client tries again by itself, and than arq's health check waits."""
    stack = make_stack("wire", redis_server=own_redis, lease_s="10")
    (address,) = stack.up()
    async with WebsocketClient(address) as client:
        await client.call("one", "held-async.children", tag)
        await notes(stack, tag)
        assert own_redis.proc is not None
        own_redis.proc.kill()
        gone = time.monotonic()
        go(stack, tag)
        await eventually(lambda: time.monotonic() - gone > 12, "a long time passes")
        own_redis.start()
        await client.cut()
        await client.connect()

        assert (await client.children("one", 30)).startswith(tag)
        assert stack.workers[0].process.poll() is None, stack.workers[0].log[-2000:]


async def test_redis_pauses_for_longer_than_the_lease(
    make_stack: StackFactory, own_redis: RedisServer, tag: str
) -> None:
    """Time in which nobody could renew a lease does not count against the workers."""
    # Each of the workers has calls to lose, whichever is heard first afterwards.
    stack = make_stack("wire", redis_server=own_redis, lease_s=str(LEASE_S), concurrency="3")
    (address,) = stack.up(workers=2)
    async with WebsocketClient(address) as client:
        for number in range(4):
            await client.call(f"{number}", "held-async.children", f"{tag}{number}")
        for number in range(4):
            await notes(stack, f"{tag}{number}")
        assert own_redis.proc is not None

        own_redis.proc.signal(signal.SIGSTOP)
        paused = time.monotonic()
        await eventually(lambda: time.monotonic() - paused > 1.5 * LEASE_S, "the pause")
        own_redis.proc.signal(signal.SIGCONT)

        await client.call("after", "echo.children", "x")
        assert await client.children("after") == "x"
        continued = time.monotonic()
        await eventually(lambda: time.monotonic() - continued > LEASE_S, "sweeps")
        go(stack, *(f"{tag}{number}" for number in range(4)))
        for number in range(4):
            assert (await client.children(f"{number}")).startswith(f"{tag}{number}")
        # And a worker that dies afterwards is noticed as ever.
        await client.call("last", "held.children", f"{tag}k")
        pid = await notes(stack, f"{tag}k")
        (owner,) = [worker for worker in stack.workers if pid in descendants(worker)]
        owner.kill()
        assert "lost" in (await client.outcome("last", TOLD_S))["message"]


async def test_redis_connections_are_reset(
    make_stack: StackFactory, own_redis: RedisServer, tag: str
) -> None:
    """Every connection is dropped, again and again, while calls run.

    Each call has its result, or was refused in words when it came at the wrong moment.
    """
    stack = make_stack("wire", redis_server=own_redis, lease_s="10", concurrency="8")
    (address,) = stack.up(workers=2)
    redis = own_redis.client()
    refused = 0
    async with WebsocketClient(address) as client:

        async def stay() -> None:
            if client.connection.close_code is not None:
                await client.cut()
                await client.connect()

        for number in range(200):
            await stay()
            await client.call(f"{number}", "echo.children", number)
            if number % 20 == 10:
                for kind in ("normal", "pubsub"):
                    redis.client_kill_filter(_type=kind)
        for number in range(200):
            await stay()
            outcome = await client.outcome(f"{number}", 15)
            if outcome["status"] == "error":
                assert "Redis is not available" in outcome["message"]
                refused += 1
            else:
                assert await client.children(f"{number}") == number
        assert refused < 50
        answered = {m["requestId"] for m in client.seen.strays}
        assert len(answered) == len(client.seen.strays) <= refused


async def test_hints_that_are_missed_cost_nothing(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """A mailbox entry whose notification found no listener is read after the reconnect."""
    stack = make_stack("wire", redis_server=own_redis)
    address = stack.web()
    redis = own_redis.client()
    async with WebsocketClient(address) as client:
        for number in range(5):
            await client.call(f"{number}", "echo.children")
            (session,) = await eventually(
                lambda: redis.keys(f"{stack.namespace}:active:*"), "it is accepted"
            )
            name = session.decode().rpartition(":")[2]
            entry = {"p": client.page, "r": f"{number}", "c": "x", "s": "no_update", "b": ""}

            redis.xadd(f"{stack.namespace}:mailbox:{name}", entry)
            redis.client_kill_filter(_type="pubsub")

            assert (await client.outcome(f"{number}", FALLBACK_S / 2))["status"] == "prevent_update"


async def test_the_processes_start_without_redis(
    make_stack: StackFactory, own_redis: RedisServer
) -> None:
    """The web serves its pages before Redis is there."""
    assert own_redis.proc is not None
    own_redis.proc.kill()
    stack = make_stack("wire", redis_server=own_redis)
    address = stack.web()
    async with http(address) as plain:
        refused: httpx.Response = await post(plain, "echo.children", 1)
        assert refused.status_code == 503
        own_redis.start()
        stack.worker()
        assert written(await post(plain, "echo.children", 2)) == 2
