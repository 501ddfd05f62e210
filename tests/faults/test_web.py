"""Web processes that are killed and replaced, and connections that are cut, while calls run."""

import asyncio
import contextlib
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed

from tests import deployment
from tests.client import LongPollClient, WebsocketClient, http
from tests.conftest import StackFactory
from tests.faults.browser import Browser
from tests.programs import require_program
from tests.scale import scaled
from tests.stack import Stack, eventually, free_port, serves, wait_for

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1200),
    # The client's own sockets: one whose connecting is cut short is closed by the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEED = 20
STEPS = 8
EXECUTORS = ("loop", "thread", "process", "loop")


def tell(figures: str) -> None:
    """What was seen, for ``docs/guarantees.md``: shown by ``pytest -s``."""
    sys.stdout.write(f"{figures}\n")


def runs(folder: Path) -> Counter[str]:
    """How often each tag was run."""
    path = folder / "runs"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.split()[0] for line in lines)


class Site(NamedTuple):
    """nginx as it is deployed, two web processes behind it, and a worker."""

    stack: Stack
    address: str
    ports: list[int]

    @property
    def webs(self) -> list[str]:
        """The addresses of the web processes."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    settings = {"processes": "2", "concurrency": "64", "poll_hold_s": "5"}
    stack = make_shared_stack("enduring", lease_s="10", **settings)
    ports, port = [free_port(), free_port()], free_port()
    for web in ports:
        stack.web(web, wait=False)
    stack.worker(wait=False)
    stack.run("nginx", _nginx(stack.folder, port, ports))
    address = f"http://127.0.0.1:{port}"
    all_of_them = [address, *(f"http://127.0.0.1:{web}" for web in ports)]
    wait_for(lambda: all(serves(f"{each}/_dash-layout") for each in all_of_them), "up")
    wait_for(lambda: " ready: " in stack.workers[0].log, "the worker is ready")
    yield Site(stack, address, ports)
    assert "Traceback" not in stack.workers[0].log, stack.workers[0].log


def _nginx(folder: Path, port: int, webs: list[int]) -> list[str]:
    config = deployment.proxy_config(listen=f"127.0.0.1:{port}", web="web", folder=folder)
    # In compose the name "web" has one address per process; here they differ in the port.
    servers = " ".join(f"server 127.0.0.1:{web};" for web in webs)
    config = config.replace("server {", f"upstream web {{ {servers} }}\n    server {{", 1)
    (folder / "nginx.conf").write_text(config)
    words = [require_program("nginx"), "-e", "stderr", "-g", "daemon off;"]
    return [*words, "-c", str(folder / "nginx.conf")]


class Answered:
    """What the pages asked for, and whether they were told it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Browser, str, str]] = []
        self.local: set[str] = set()

    async def ask(self, browser: Browser, output: str, pause_s: float) -> str:
        tag = f"{browser.client.page[:8]}-{len(self.asked)}"
        request = await browser.call(f"{output}.children", [tag, STEPS, pause_s])
        self.asked.append((browser, request, tag))
        if output == "local":
            self.local.add(tag)
        return request

    def goes_on(self, count: int, loading: asyncio.Task[None]) -> bool:
        """Whether so many calls have been asked for; fails when no more will be."""
        if loading.done():
            loading.result()
        return len(self.asked) >= count

    async def check(self, folder: Path) -> None:
        """Every call was answered once, after all its updates, in order; none ran twice."""
        for browser, request, tag in self.asked:
            assert await browser.children(request) == tag
        count = runs(folder)
        for browser, request, tag in self.asked:
            if tag in self.local:
                # A callback of the web process itself ends with it, and is run again by another.
                assert count[tag] >= 1
            else:
                assert browser.marks[request] == list(range(STEPS)), (tag, browser.marks[request])
                assert count[tag] == 1, (tag, count[tag])
            strays = {message["requestId"] for message in browser.client.seen.strays}
            assert tag in self.local or request not in strays, "an outcome came twice"
            assert not browser.client.pending


# --- web processes --------------------------------------------------------------------------------


async def test_web_processes_are_replaced_one_by_one_under_load(site: Site) -> None:
    """Killed and asked to end, in turns: every call's result reaches its page, once."""
    numbers = [signal.SIGKILL, signal.SIGTERM] * scaled(1, 10)
    answered, ended = Answered(), asyncio.Event()
    kinds = (WebsocketClient, LongPollClient) * 3
    async with contextlib.AsyncExitStack() as stay:
        browsers = [
            await stay.enter_async_context(Browser(kind(site.address), [site.address]))
            for kind in kinds
        ]
        loading = asyncio.create_task(_load(answered, browsers, ended))
        for turn, number in enumerate(numbers):
            goal = len(answered.asked) + 20
            await eventually(partial(answered.goes_on, goal, loading), "there is load")
            await asyncio.to_thread(_replace, site.stack, site.ports[turn % 2], number)
        ended.set()
        await loading
        await answered.check(site.stack.folder)
        returns = sum(browser.returns for browser in browsers)
        assert returns >= len(numbers)
    tell(f"{len(answered.asked)} calls, {len(numbers)} web processes replaced, {returns} returns")


async def _load(answered: Answered, browsers: list[Browser], ended: asyncio.Event) -> None:
    chance = random.Random(SEED)
    while not ended.is_set():
        for browser in browsers:
            output = chance.choice([*EXECUTORS, "local"])
            await answered.ask(browser, output, chance.uniform(0.005, 0.05))
        await asyncio.sleep(0.15)


def _replace(stack: Stack, port: int, number: int) -> None:
    old = next(proc for proc in reversed(stack.webs) if proc.name == f"web-{port}")
    old.signal(number)
    old.process.wait(30)
    stack.web(port)


# --- websockets -----------------------------------------------------------------------------------

CUTS = 3
BROWSERS = 20


async def test_every_websocket_is_cut_at_random_moments(site: Site) -> None:
    """None to three times per call: every outcome is seen once, and all updates in order."""
    answered, cuts = Answered(), Counter[int]()

    async def play(number: int) -> None:
        chance = random.Random(SEED + number)
        client = WebsocketClient(site.webs[number % 2])
        async with Browser(client, site.webs) as browser:
            for _ in range(scaled(60, 1000) // BROWSERS):
                count = chance.randint(0, CUTS)
                pause_s = chance.uniform(0.0, 0.04)
                request = await answered.ask(browser, chance.choice(EXECUTORS), pause_s)
                for _ in range(count):
                    # Anywhere: in a call, in a handshake, between two frames.
                    await asyncio.sleep(chance.uniform(0.0, STEPS * pause_s / count))
                    browser.cut()
                cuts[count] += 1
                await browser.children(request)

    await asyncio.gather(*(play(number) for number in range(BROWSERS)))
    await answered.check(site.stack.folder)
    assert len(answered.asked) == scaled(60, 1000)
    tell(f"{len(answered.asked)} calls; cuts per call: {dict(sorted(cuts.items()))}")


# --- requests that are too large ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["_dash-update-component", "_dash-dispatch/send"])
async def test_a_body_far_over_the_limit_is_refused_in_words(site: Site, path: str) -> None:
    """And not by a reset while it is still sent, which would be taken for a bad network."""
    async with http(site.webs[0]) as client:
        answer = await client.post(
            path,
            content=b" " * (60 * 2**20),
            headers={"Content-Type": "application/json", "Origin": site.webs[0]},
        )
    assert answer.status_code == 413
    assert "DASH_DISPATCH_MAX_REQUEST_BYTES" in answer.json()["error"]


async def test_a_message_over_the_limit_of_the_server_says_so(site: Site) -> None:
    """By its code, on which the browser script ends the call in words and goes on with others."""
    client = WebsocketClient(site.webs[0])
    await client.connect()
    await client.call("small", "loop.children", ["small", STEPS, 0.02])
    large = {"type": "ping", "text": "x" * (17 * 2**20)}
    with contextlib.suppress(ConnectionClosed):
        await client.say(large)
    assert (await client.close_code())[0] == 1009
    await client.cut()
    await client.connect()
    assert await client.children("small") == "small"
    await client.cut()
