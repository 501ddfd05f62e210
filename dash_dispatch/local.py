"""Callbacks that run in the web process: ``async def`` on the loop, ``def`` in threads."""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from dash.exceptions import WebsocketDisconnected

from dash_dispatch import bridge
from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import (
    Event,
    Outcome,
    RequestSnapshot,
    Status,
    call_id,
    get_props_request,
)
from dash_dispatch.submit import Asked

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

REMEMBERED_CALLS = 4096
"""Ended calls whose ids are kept, so that a repeated request does not run them again."""


class Threads:
    """The bounded pool for plain ``def`` callbacks.

    Further callbacks wait in line when all threads are busy; each holds an open request or a
    browser's pending callback, so the line is bounded by what the browsers keep open.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPoolExecutor | None = None

    def wrap(self, function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
        """An ``async`` form of a plain function; context variables are copied."""

        @functools.wraps(function)
        async def threaded(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="dash-dispatch")
            run = sync_to_async(function, thread_sensitive=False, executor=self._pool)
            return await run(*args, **kwargs)

        return threaded

    def close(self) -> None:
        """End the threads; running callbacks end by themselves. A later use makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


class LocalCall:
    """One callback of a page that runs in this process. Its ``ctx.websocket``, too."""

    def __init__(self, outbox: Outbox, page: str, request: str) -> None:
        self.id = call_id(page, request)
        self.session = outbox.session
        self.page = page
        self._request = request
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._gone = False
        self._questions: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def is_shutdown(self) -> bool:
        """Whether the page has gone."""
        return self._gone

    def leave(self) -> None:
        """The page has gone. A coroutine is cancelled; a thread can ask `is_shutdown`."""
        self._gone = True
        for question in self._questions.values():
            if not question.done():
                question.set_exception(WebsocketDisconnected())
        if self.task is not None:
            self.task.cancel()

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update to the page, from the loop or from a thread."""
        props = bridge.encode_props(component_id, prop_name, value)
        event = Event(self.page, self._request, self.id, props=props)
        # Through the loop from wherever we are, so that the order of calls is the order sent.
        self._loop.call_soon_threadsafe(self._outbox.put, event)

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """The same, awaitable."""
        self.set_prop_sync(component_id, prop_name, value)

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        """Ask the page for the present value of a property.

        Raises:
            WebsocketDisconnected: The page has gone.
            TimeoutError: It does not answer.
        """
        if asyncio.get_running_loop() is self._loop:
            return await self._ask(component_id, prop_name, timeout)
        # A plain `def` callback runs this coroutine on a loop of its own in its thread.
        asking = asyncio.run_coroutine_threadsafe(
            self._ask(component_id, prop_name, timeout), self._loop
        )
        return await asyncio.wrap_future(asking)

    async def _ask(self, component_id: str, prop_name: str, timeout_s: float) -> Any:
        if self._gone:
            raise WebsocketDisconnected()
        name = uuid.uuid4().hex
        answer = self._questions[name] = self._loop.create_future()
        question = get_props_request(self.page, name, component_id, prop_name)
        self._outbox.put(Event(self.page, name, self.id, question=question))
        try:
            async with asyncio.timeout(timeout_s):
                return (await answer).get(prop_name)
        finally:
            del self._questions[name]

    def answer(self, name: str, props: dict[str, Any]) -> bool:
        """Take the page's answer; False if the question is not from here."""
        question = self._questions.get(name)
        if question is None:
            return False
        if not question.done():
            question.set_result(props)
        return True

    def finish(self, outcome: Outcome) -> None:
        """Send the outcome."""
        self._outbox.put(Event(self.page, self._request, self.id, outcome))


class LocalCalls:
    """All callbacks that run in this process for pages on a websocket or long-poll.

    A request that is sent again while its callback runs, or after it ended, does not run it again
    in this process. After the death of this process another one runs it again: such callbacks run
    at least once, as with any HTTP retry. Offload what must not.
    """

    def __init__(self, app: Any, threads: Threads, worker: str) -> None:
        self._app = app
        self._threads = threads
        self._worker = worker
        # By session as well: page and request are words of the browser, and may be anybody's.
        self._running: dict[tuple[str, str], LocalCall] = {}
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._closing = False

    def run(
        self, asked: Asked, snapshot: RequestSnapshot, outbox: Outbox, page: str, request: str
    ) -> None:
        """Run a callback; its events go to the outbox."""
        call = LocalCall(outbox, page, request)
        key = (call.session, call.id)
        if key in self._running or key in self._ended:
            return
        self._running[key] = call
        call.task = asyncio.create_task(self._run(call, asked, snapshot), name=f"call {call.id}")

    async def _run(self, call: LocalCall, asked: Asked, snapshot: RequestSnapshot) -> None:
        outcome = Outcome(Status.CANCELLED)
        try:
            outcome = await self._outcome(call, asked, snapshot)
        except asyncio.CancelledError:
            # The page has gone, or asked for it, or the server stops. Nobody else needs to know.
            if not call.is_shutdown:
                raise
        finally:
            del self._running[call.session, call.id]
            self._ended[call.session, call.id] = None
            if len(self._ended) > REMEMBERED_CALLS:
                self._ended.popitem(last=False)
            if not (self._closing and outcome.status is Status.CANCELLED):
                # Behind the updates of a thread, which come through the loop.
                asyncio.get_running_loop().call_soon(call.finish, outcome)

    async def _outcome(self, call: LocalCall, asked: Asked, snapshot: RequestSnapshot) -> Outcome:
        try:
            invocation = bridge.bind(self._app, asked.body, snapshot, call)
            text = await (
                invocation.run() if invocation.is_async else self._threads.wrap(invocation.run)()
            )
            return bridge.outcome_of(text, invocation.response)
        except WebsocketDisconnected:
            return Outcome(Status.NO_UPDATE)
        except (Exception, SystemExit) as error:
            # Whatever user code raises: the page sees an error, the log has the traceback.
            outcome = bridge.outcome_of_error(error, call.id, self._worker)
            if outcome.status is Status.FAILED:
                logger.exception(
                    "! callback %s failed", asked.body.output, extra={"call_id": call.id}
                )
            return outcome

    def answer(self, request: str, props: dict[str, Any]) -> None:
        """Pass a page's answer to the callback that asked."""
        for call in self._running.values():
            if call.answer(request, props):
                return

    def leave(self, session: str, page: str) -> None:
        """A page of this session has gone: what streams to it for ever has to end."""
        for call in list(self._running.values()):
            if (call.session, call.page) == (session, page):
                call.leave()

    async def close(self) -> None:
        """End all. Those that run are not answered: the browser asks another web process."""
        self._closing = True
        tasks = [call.task for call in self._running.values() if call.task is not None]
        for call in list(self._running.values()):
            call.leave()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
