"""Clicks, finishing orders and reconnects, interleaved at random: nothing superseded is shown."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Client, LongPollClient, Message, WebsocketClient
from tests.conftest import StackFactory
from tests.scale import scaled
from tests.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

CLICK, CUT = ("click", 0), ("cut", 0)
STEPS = st.one_of(
    st.just(CLICK),
    st.just(CUT),
    st.tuples(st.sampled_from(["step", "end", "fail"]), st.integers(0, 3)),
)
"""What happens: a click, a lost connection (and the return, to either web process), or something
that the call of the n-th last click does."""


class Site(NamedTuple):
    stack: Stack
    webs: tuple[str, ...]


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    stack = make_shared_stack("interleaved", concurrency="64", poll_hold_s="5")
    yield Site(stack, tuple(stack.up(webs=2, workers=1)))
    for web in stack.webs:
        assert "Traceback" not in web.log, web.log


class Page:
    """One page, the tokens that its calls were given, and what it was shown."""

    def __init__(self, site: Site, client: Client, raw: Any) -> None:
        self._site = site
        self._webs = itertools.cycle(site.webs)
        self._raw = raw
        self._serials = itertools.count()
        self.client = client
        client.on_message = self._show
        self.clicks = 0
        self.shown: list[tuple[int, int]] = []
        self.stale: set[int] = set()
        """Tokens that were given to calls after they had been superseded."""

    async def click(self) -> None:
        """Returns when the call has been accepted."""
        request = str(self.clicks)
        self.clicks += 1
        await self.client.call(request, "shown.children", self._tag(self.clicks - 1))
        key = f"{self._site.stack.namespace}:call:{self.client.call_id(request)}"
        async with asyncio.timeout(20):
            accepted = False
            while not accepted:
                await asyncio.sleep(0.003)
                accepted = bool(await self._raw.exists(key))

    async def cut(self) -> None:
        await self.client.cut()
        await self.client.connect(next(self._webs))

    async def give(self, what: str, back: int) -> None:
        """A token for the call of the ``back``-th last click."""
        click = self.clicks - 1 - back
        if click < 0:
            return
        serial = next(self._serials) * 100 + click
        if back > 0:
            self.stale.add(serial)
        await self._raw.rpush(f"steer:{self._tag(click)}", f"{what} {serial}")

    def _tag(self, click: int) -> str:
        return f"{self.client.page}-{click}"

    def _show(self, message: Message) -> None:
        payload = message.get("payload", {})
        if message["type"] == "set_props":
            self._note(payload["props"]["title"])
        elif message["type"] == "callback_response" and payload["status"] == "ok":
            self._note(payload["data"]["response"]["shown"]["children"])

    def _note(self, serial: int) -> None:
        self.shown.append((serial % 100, serial))

    async def end(self) -> None:
        """All calls come to their end."""
        for back in range(self.clicks):
            await self.give("end", back)
        for click in range(self.clicks):
            await self.client.outcome(str(click))


async def play(site: Site, kind: type[Client], raw: Any, steps: list[tuple[str, int]]) -> Page:
    page = Page(site, kind(site.webs[0]), raw)
    async with page.client:
        for what, back in [CLICK, *steps]:
            match what:
                case "click":
                    await page.click()
                case "cut":
                    await page.cut()
                case _:
                    await page.give(what, back)
        await page.end()
    return page


PAGES = 10
"""Played side by side: the time of one is mostly waiting."""


@pytest.mark.parametrize(
    ("kind", "count"),
    [(WebsocketClient, scaled(300, 700)), (LongPollClient, scaled(100, 300))],
    ids=["websocket", "longpoll"],
)
def test_nothing_superseded_is_ever_shown(site: Site, kind: type[Client], count: int) -> None:
    @settings(
        max_examples=count // PAGES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.lists(STEPS, max_size=12), min_size=PAGES, max_size=PAGES))
    def interleave(plays: list[list[tuple[str, int]]]) -> None:
        for page in runner.run(play_all(plays)):
            check(page)

    async def play_all(plays: list[list[tuple[str, int]]]) -> list[Page]:
        return await asyncio.gather(*(play(site, kind, raw, steps) for steps in plays))

    with asyncio.Runner() as runner:
        raw = redis.asyncio.Redis(port=site.stack.redis.port)
        try:
            interleave()
        finally:
            runner.run(raw.aclose())


def check(page: Page) -> None:
    clicks = [click for click, _ in page.shown]
    assert clicks == sorted(clicks), "what is older came after what is newer"
    assert not page.stale & {serial for _, serial in page.shown}
    outcomes = page.client.seen.outcomes
    assert len(outcomes) == page.clicks
    assert outcomes[str(page.clicks - 1)]["status"] in ("ok", "error"), "the last one counts"
