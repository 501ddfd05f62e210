"""Callbacks of the web process: threads, and the life of a call, over a connection that is here."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
from dash import Input, Output, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dash_dispatch import Dash, Settings, bridge, ctx
from dash_dispatch.caller import Scope
from dash_dispatch.local import UPDATES_AHEAD, LocalCalls
from dash_dispatch.outbox import MAX_UNCONFIRMED, Outbox
from dash_dispatch.protocol import Event, RequestSnapshot, Status, call_id
from dash_dispatch.store import Store
from dash_dispatch.submit import Asked
from dash_dispatch.threads import Threads
from tests.stack import eventually

# Never connected to: all goes to a connection that is here.
SETTINGS = Settings(redis_url="redis://localhost:1", secret_key="a secret for tests only")
variable: ContextVar[str] = ContextVar("variable", default="unset")


def no_tasks(_session: str, _snapshot: RequestSnapshot) -> Scope:
    async def never(*_: object) -> Any:
        raise AssertionError("no callback here runs a task")

    return Scope(never, never)


class Collected:
    """A connection (`outbox.Direct`) that keeps what it is sent."""

    name = "collected"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.new = asyncio.Event()

    def send(self, event: Event) -> int:
        self.events.append(event)
        self.new.set()
        return len(self.events)

    async def outcome(self, request: str = "r") -> Event:
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if event.request == request and event.outcome is not None:
                        return event
                self.new.clear()
                await self.new.wait()

    async def question(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while not any(event.question for event in self.events):
                self.new.clear()
                await self.new.wait()
        found = orjson.loads(next(event.question for event in self.events if event.question))
        assert isinstance(found, dict)
        return found


class Page:
    """One page of one app, with its callbacks running in this process."""

    def __init__(self, app: Dash) -> None:
        self.app = app
        self.connection = Collected()
        self.store = Store(SETTINGS)
        self.outbox = Outbox(self.store, "session")
        self.outbox.connect(self.connection)
        self.threads = Threads(2)
        self.calls = LocalCalls(app, self.threads, "web", no_tasks)

    async def shown(self, count: int) -> list[Any]:
        """The first so many updates."""
        await eventually(lambda: len(self.updates) >= count, f"{count} updates")
        return self.updates

    @property
    def updates(self) -> list[Any]:
        props = [
            orjson.loads(event.props)["props"] for event in self.connection.events if event.props
        ]
        return [value for (value,) in (item.values() for item in props)]

    def ask(self, name: str, value: Any = None, request: str = "r") -> None:
        raw = orjson.dumps(
            {
                "output": f"{name}.children",
                "outputs": {"id": name, "property": "children"},
                "inputs": [{"id": "in", "property": "value", "value": value}],
                "changedPropIds": ["in.value"],
            }
        )
        asked = Asked(self.app, raw, 10_000)
        self.calls.run(asked, RequestSnapshot(), self.outbox, "page", request)

    async def result(self, name: str, value: Any = None) -> Any:
        self.ask(name, value)
        outcome = (await self.connection.outcome()).outcome
        assert outcome is not None
        assert outcome.status is Status.OK
        return orjson.loads(outcome.body)["response"][name]["children"]


runs: list[Any] = []
ended: list[Any] = []
produced: list[int] = []
permits = threading.Semaphore(0)
begun = threading.Semaphore(0)


@pytest.fixture(scope="module")
def app() -> Dash:  # noqa: C901, PLR0915 - one branch per callback
    made = Dash("local", dispatch_settings=SETTINGS)
    made.layout = html.Div()

    def local(function: Any) -> Any:
        return made.callback(
            Output(function.__name__, "children"), Input("in", "value"), websocket=True
        )(function)

    @local
    def plain(value: Any) -> Any:
        runs.append(value)
        return threading.current_thread().name

    @local
    async def coroutine(value: Any) -> Any:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @local
    def prevents(value: Any) -> Any:
        raise PreventUpdate

    @local
    def fails(value: Any) -> Any:
        raise ValueError("why")

    class Speechless(BaseException):
        def __str__(self) -> str:
            raise KeyError("no words")

    @local
    def speechless(value: Any) -> Any:
        raise Speechless

    @local
    async def speechless_coroutine(value: Any) -> Any:
        raise Speechless

    @local
    async def sys_exits(value: Any) -> Any:
        raise SystemExit(3)

    @local
    def steps(value: Any) -> Any:
        for step in range(value):
            set_props("bar", {"value": step})
        return "stepped"

    @local
    async def sleeps(value: Any) -> Any:
        await asyncio.sleep(60)

    @local
    async def asks(value: Any) -> Any:
        return await ctx.websocket.get_prop("other", "value", timeout=value)

    @local
    def streams(value: Any) -> Any:
        """Yields until it is closed, once per permit."""
        try:
            while True:
                assert permits.acquire(timeout=10)
                yield ctx.is_cancelled()
        finally:
            ended.append(value)

    @local
    def sets_and_streams(value: Any) -> Any:
        try:
            for step in range(10):
                assert permits.acquire(timeout=10)
                set_props("shape", {"children": step})
                yield no_update
        finally:
            ended.append(value)

    @local
    def floods(count: int) -> Any:
        try:
            for step in range(count):
                produced.append(step)
                yield step
        finally:
            ended.append("flood")

    @local
    async def streams_on_the_loop(value: Any) -> Any:
        try:
            yield value
            await asyncio.sleep(60)
        finally:
            ended.append(value)

    @local
    def waits_for_the_end(value: Any) -> Any:
        assert not ctx.is_cancelled()
        begun.release()
        while not ctx.is_cancelled():
            assert not permits.acquire(timeout=0.01)
        ended.append(value)
        return [ctx.call_id, ctx.attempt, ctx.worker]

    bridge.ready(made)
    return made


@pytest.fixture
async def page(app: Dash) -> AsyncIterator[Page]:
    runs.clear()
    ended.clear()
    produced.clear()
    made = Page(app)
    yield made
    await made.calls.close()
    made.threads.close()
    await made.store.close()


# --- threads -------------------------------------------------------------------------------------


async def test_threads_are_bounded() -> None:
    threads, lock = Threads(2), threading.Lock()
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.wrap(work)() for _ in range(8)))
    threads.close()
    assert most == 2


async def test_context_variables_reach_a_thread() -> None:
    threads = Threads(1)
    variable.set("set")
    assert await threads.wrap(variable.get)() == "set"
    threads.close()


async def test_an_error_leaves_a_thread() -> None:
    threads = Threads(1)
    with pytest.raises(ZeroDivisionError):
        await threads.wrap(lambda: 1 // 0)()
    threads.close()


async def test_what_several_threads_have_done_is_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To wake the loop is a system call, at which it and a thread take turns."""
    loop, threads, count = asyncio.get_running_loop(), Threads(2), 40
    wake_ups = Mock(wraps=loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", wake_ups)
    begun = threading.Semaphore(0)

    running = [asyncio.ensure_future(threads.run(begun.release)) for _ in range(count)]
    await asyncio.sleep(0)
    for _ in range(count):
        # The loop is busy, as far as the threads can tell.
        begun.acquire()
    await asyncio.gather(*running)

    threads.close()
    # Those that have begun last may come behind the others.
    assert wake_ups.call_count <= 4


async def test_threads_come_back_after_their_end() -> None:
    threads = Threads(1)
    threads.close()
    assert await threads.wrap(lambda value: value)(3) == 3
    threads.close()
    assert await threads.wrap(lambda value: value)(4) == 4
    threads.close()


# --- a call --------------------------------------------------------------------------------------


async def test_where_callbacks_run(page: Page) -> None:
    assert str(await page.result("plain")).startswith("dash-dispatch")


async def test_a_coroutine_runs_on_the_loop(page: Page) -> None:
    assert await page.result("coroutine") == threading.current_thread().name


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("prevents", Status.NO_UPDATE, None),
        ("fails", Status.FAILED, "ValueError"),
        ("sys_exits", Status.FAILED, "SystemExit"),
        ("speechless", Status.FAILED, "Speechless"),
        ("speechless_coroutine", Status.FAILED, "Speechless"),
    ],
)
async def test_how_a_call_ends(page: Page, name: str, status: Status, kind: str | None) -> None:
    page.ask(name)
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status is status
    if kind is not None:
        assert outcome.failure.type == kind


async def test_updates_come_before_the_outcome_and_in_order(page: Page) -> None:
    assert await page.result("steps", 200) == "stepped"
    values = [orjson.loads(e.props)["props"]["value"] for e in page.connection.events[:-1]]
    assert values == list(range(200))


async def test_a_request_sent_again_runs_once(page: Page) -> None:
    for _ in range(3):
        page.ask("plain", "once")
    await page.connection.outcome()
    page.ask("plain", "once")
    await asyncio.sleep(0.05)
    assert runs == ["once"]
    page.ask("plain", "again", request="another")
    await page.connection.outcome("another")
    assert runs == ["once", "again"]


async def test_a_call_whose_page_has_gone_ends(page: Page) -> None:
    page.ask("sleeps")
    await asyncio.sleep(0)
    page.calls.leave("session", "another page")
    page.calls.leave("another session", "page")
    await asyncio.sleep(0.02)
    assert page.connection.events == []
    page.calls.leave("session", "page")
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status is Status.CANCELLED


async def test_a_callback_asks_its_page(page: Page) -> None:
    page.ask("asks", 10)
    question = await page.connection.question()
    assert question["payload"] == {"componentId": "other", "properties": ["value"]}
    page.calls.answer("session", "not a question", {"value": "wrong"})
    page.calls.answer("another session", question["requestId"], {"value": "forged"})
    page.calls.answer("session", question["requestId"], {"value": "the answer"})
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert orjson.loads(outcome.body)["response"]["asks"]["children"] == "the answer"


async def test_a_page_that_does_not_answer(page: Page) -> None:
    page.ask("asks", 0.05)
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.failure.type == "TimeoutError"


async def test_a_page_that_leaves_before_it_answers(page: Page) -> None:
    page.ask("asks", 10)
    await page.connection.question()
    page.calls.leave("session", "page")
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status in (Status.CANCELLED, Status.NO_UPDATE)


async def test_a_generator_in_a_thread_is_no_faster_than_redis(page: Page) -> None:
    """With Redis away its updates would fill the process, and were they dropped, be missed."""
    page.outbox.disconnect(page.connection)
    page.ask("sets_and_streams", "x")
    permits.release(10)
    await eventually(lambda: ended == ["x"], "a few are no matter")
    page.ask("floods", 100_000, request="flood")
    enough = MAX_UNCONFIRMED - UPDATES_AHEAD
    await eventually(lambda: len(produced) >= enough, "it fills what there is room for")
    page.calls.leave("session", "page")
    await eventually(lambda: ended == ["x", "flood"], "it ends with its page all the same")
    assert len(produced) <= MAX_UNCONFIRMED + UPDATES_AHEAD


# --- what is not wanted any more -----------------------------------------------------------------


async def test_a_thread_can_ask_whether_it_is_wanted(page: Page) -> None:
    page.ask("waits_for_the_end", "x")
    assert await asyncio.to_thread(begun.acquire, timeout=10)
    page.calls.unwant("session", "page", "another request")
    page.calls.unwant("another session", "page", "r")
    page.calls.unwant("session", "another page", "r")
    assert ended == []
    page.calls.unwant("session", "page", "r")
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status is Status.OK, "it may be there for its effects, and goes on"
    answer = orjson.loads(outcome.body)["response"]["waits_for_the_end"]["children"]
    assert answer == [call_id("session", "page", "r"), 1, "web"]


async def test_a_generator_streams(page: Page) -> None:
    page.ask("streams", "x")
    permits.release(3)
    assert await page.shown(3) == [False, False, False]
    page.calls.leave("session", "page")
    permits.release()
    await eventually(lambda: ended == ["x"], "it is closed at its next yield")
    assert len(page.updates) == 3


@pytest.mark.parametrize("name", ["streams", "sets_and_streams"])
async def test_a_generator_that_is_not_wanted_is_not_heard_of_again(page: Page, name: str) -> None:
    page.ask(name, "x")
    permits.release()
    await page.shown(1)
    page.calls.unwant("session", "page", "r")
    permits.release()
    await eventually(lambda: ended == ["x"], "it is closed")
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status is Status.CANCELLED
    assert len(page.updates) == 1


def goes_on(those: list[str]) -> bool:
    """Whether those have ended; else whoever takes it may make one more step."""
    if ended == those:
        return True
    permits.release()
    return False


@pytest.mark.parametrize("name", ["streams", "streams_on_the_loop"])
async def test_a_newer_run_of_a_generator_takes_its_place(page: Page, name: str) -> None:
    page.ask(name, "old")
    permits.release()
    await page.shown(1)
    page.ask(name, "new", request="newer")
    await eventually(lambda: goes_on(["old"]), "the older one has ended")
    outcome = (await page.connection.outcome()).outcome
    assert outcome is not None
    assert outcome.status is Status.CANCELLED
    page.calls.leave("session", "page")
    await eventually(lambda: goes_on(["old", "new"]), "the newer one ends with its page")
    while permits.acquire(blocking=False):
        pass
