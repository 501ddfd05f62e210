"""Every example of the docs is served for real, played, and compared with what its page says."""

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.client import WebsocketClient
from tests.docs.pages import ROOT, documents, with_examples
from tests.docs.visit import Visit
from tests.stack import RedisServer, Stack

Play = Callable[[Visit], Awaitable[None]]

AHEAD = 3
"""So many apps are being started or played at a time."""


@dataclass(frozen=True)
class Example:
    """What to do with an app.

    Attributes:
        play: What its visitor does. What is shown is compared with the page's words.
        said: These words, for an app that stands on no page.
        only: A beginning that the compared lines have.
        settings: Of the processes that serve it.
        headers: Of the browser.
    """

    play: Play
    said: tuple[str, ...] = ()
    only: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str | None] = field(default_factory=dict)


def calls(button: str, *outputs: str) -> Play:
    """One after the other, these callbacks of a button."""

    async def play(visit: Visit) -> None:
        for output in outputs:
            await visit.call(output, {f"{button}.n_clicks": 1})

    return play


async def slow_reads_count(visit: Visit) -> None:
    await calls("go", "quick.children", "count.children")(visit)
    await visit.call("slow.children", {"go.n_clicks": 1, "count.children": 0})


async def types_on(visit: Visit) -> None:
    for output in ("latest.children", "each.children"):
        requests = [await visit.ask(output, {"text.value": text}) for text in ("a", "ab")]
        for request in requests:
            await visit.client.outcome(request)


async def stops(visit: Visit) -> None:
    for number, end in enumerate(("stop", "end"), 1):
        request = await visit.ask("result.children", {"run.n_clicks": number})
        await visit.sees("call.data: ", number)
        if end == "stop":
            await visit.press("stop")
        else:
            await visit.call("ended.children", {"end.n_clicks": 1, **visit.data("call.data")})
        await visit.client.outcome(request)
    await visit.call("ended.children", {"end.n_clicks": 2, **visit.data("call.data")})
    await visit.call("late.children", {"run.n_clicks": 1})


async def asks_for_the_gpu(visit: Visit) -> None:
    train = await visit.ask("train.children", {"go.n_clicks": 1})
    await visit.sees("train.children: on the GPU")
    predict = await visit.ask("predict.children", {"go.n_clicks": 1})
    await visit.call("other.children", {"go.n_clicks": 1})
    for request in (train, predict):
        await visit.client.outcome(request)


async def presses_three(visit: Visit) -> None:
    requests = []
    for number in (1, 2, 3):
        requests.append(await visit.ask("report", {"run.n_clicks": 1}, {"number": number}))
        await visit.sees("place 1.children:")  # the first one runs
    for request in requests:
        await visit.client.outcome(request)


async def two_ask_at_once(visit: Visit) -> None:
    # A second page of the browser: on one page, the newer would supersede the older.
    async with WebsocketClient(visit.client.address) as other:
        second = visit.beside(other)
        await asyncio.gather(
            *(each.call("total.children", {"region.value": "north"}) for each in (visit, second))
        )
    for region in ("south", "north"):
        await visit.call("total.children", {"region.value": region})


EXAMPLES = {
    "background": Example(calls("run", "paragraph.children")),
    "caching": Example(two_ask_at_once),
    "callbacks": Example(slow_reads_count),
    "cancel": Example(stops),
    "context": Example(
        calls("who", "me.children"), headers={"Cookie": "user=ann", "User-Agent": "example"}
    ),
    "errors": Example(calls("go", "handled.children", "raised.children")),
    "limits": Example(asks_for_the_gpu),
    "overlap": Example(types_on),
    "progress": Example(calls("run", "result.children")),
    "queued": Example(presses_three, only="place 3"),
    "retries": Example(calls("fetch", "data.children")),
    "streaming": Example(calls("go", "rows.children", "words.children")),
    "tasks": Example(calls("go", "sum.children", "one.children", "bad.children")),
    "workers": Example(
        calls("go", "answer.children", "image.children"), settings={"queues": "gpu,default"}
    ),
}
"""Page → what is done with its app."""

PAGES = with_examples()


async def estimates_pi(visit: Visit) -> None:
    request = await visit.ask("result.children", {"run.n_clicks": 1})
    await visit.sees("progress.value: 2")
    await visit.press("cancel")
    await visit.client.outcome(request)


SCRIPTS = {
    "quickstart": Example(calls("run", "chart.figure"), said=('chart.figure: {"data": …',)),
    "progress_and_cancel": Example(estimates_pi, only="result"),
}
"""App of ``examples/`` → what is done with it."""

ALL = EXAMPLES | SCRIPTS


class Servers:
    """Serves apps, each with one web process and one worker, and the next ones ahead of time.

    Args:
        redis_server: The Redis of all.
        folder: Where the apps are written to.
        names: The pages whose turn comes, in order.
    """

    def __init__(self, redis_server: RedisServer, folder: Path, names: list[str]) -> None:
        self._redis = redis_server
        self._folder = folder
        self._names = names
        self._stacks: dict[str, Stack] = {}
        self._starting: dict[str, Future[str]] = {}
        self._threads = ThreadPoolExecutor(AHEAD)

    def take(self, name: str) -> tuple[Stack, str]:
        """The app of a page, served: its processes and its address."""
        place = self._names.index(name)
        for soon in self._names[place : place + AHEAD]:
            if soon not in self._starting:
                self._starting[soon] = self._threads.submit(self._start, soon)
        address = self._starting[name].result()
        return self._stacks[name], address

    def _start(self, name: str) -> str:
        folder = self._folder / name
        folder.mkdir()
        if name in PAGES:
            PAGES[name].extract(folder)
        else:
            shutil.copy(ROOT / "examples" / f"{name}.py", folder / "app.py")
        settings = {"processes": "2", **ALL[name].settings}
        stack = self._stacks[name] = Stack(self._redis, "app", folder, **settings)
        [address] = stack.up()
        return address

    def end(self, name: str) -> None:
        """End one."""
        stack = self._stacks.pop(name, None)
        if stack is not None:
            stack.end()

    def end_all(self) -> None:
        """End what is left."""
        self._threads.shutdown(cancel_futures=True)
        for name in list(self._stacks):
            self.end(name)


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Servers]:
    """For the pages that were chosen to be tested."""
    chosen = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
    ]
    servers = Servers(redis_server, tmp_path_factory.mktemp("docs"), chosen)
    try:
        yield servers
    finally:
        servers.end_all()


def test_every_page_with_an_app_is_played() -> None:
    assert EXAMPLES.keys() == PAGES.keys()


def test_every_page_of_the_docs_has_an_app() -> None:
    others = {"architecture", "benchmarks", "guarantees", "index", "scaling"}
    assert documents().keys() - PAGES.keys() == others


@pytest.mark.parametrize("name", ALL)
async def test_an_example_shows_what_its_page_says(name: str, servers: Servers) -> None:
    example = ALL[name]
    try:
        stack, address = await asyncio.to_thread(servers.take, name)
        visit = await played(example, address)
        shown = [line for line in visit.shown if line.startswith(example.only)]
        said = PAGES[name].shown if name in PAGES else list(example.said)
        compare(shown, said, stack.logs)
    finally:
        await asyncio.to_thread(servers.end, name)


async def played(example: Example, address: str) -> Visit:
    """A visitor who has done what there is to do."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        specs = (await http.get(f"{address}/_dash-dependencies")).json()
    async with WebsocketClient(address, headers=example.headers) as client:
        visit = Visit(client, specs)
        await example.play(visit)
    return visit


def compare(shown: list[str], said: list[str], logs: Callable[[], str]) -> None:
    """Line by line; ``…`` in what is said stands for anything."""
    patterns = [re.escape(line).replace("…", ".*") for line in said]
    same = len(shown) == len(said) and all(
        re.fullmatch(pattern, line) for pattern, line in zip(patterns, shown, strict=True)
    )
    if not same:
        assert shown == said, logs()
