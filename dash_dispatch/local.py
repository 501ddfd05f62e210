"""Callbacks that run in the web process: ``async def`` on the loop, ``def`` in threads."""

import asyncio
import contextlib
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import orjson
from dash.exceptions import WebsocketDisconnected

from dash_dispatch import bridge, remote
from dash_dispatch.caller import Scope
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
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)

UPDATES_AHEAD = 64
"""Updates that a thread sends before it looks whether there is room for more."""

REMEMBERED_CALLS = 4096
"""Ended calls whose ids are kept, so that a repeated request does not run them again."""


class LocalCall:
    """One callback of a page that runs in this process. Its ``ctx.websocket``, too.

    Args:
        outbox: The session's.
        page, request: Whose answer it is.
        instance: For a generator, the callback and the outputs that it writes to; empty for
            others.
    """

    def __init__(self, outbox: Outbox, page: str, request: str, instance: str = "") -> None:
        self.id = call_id(outbox.session, page, request)
        self.session = outbox.session
        self.page = page
        self.instance = instance
        self._request = request
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._gone = False
        self._unwanted = False
        self._loop_thread = threading.get_ident()
        self._sent = 0
        self._questions: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def is_shutdown(self) -> bool:
        """Whether the page has gone, or no longer wants the answer."""
        return self._gone or self._unwanted

    def unwant(self) -> None:
        """The page no longer wants the answer. A generator ends, and is not heard of again.

        Others go on, as with stock Dash: they may be there for their effects.
        """
        self._unwanted = True
        if self.instance and self.task is not None:
            self.task.cancel()

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
        if self.instance and self._unwanted:
            return
        props = bridge.encode_props(component_id, prop_name, value)
        event = Event(self.page, self._request, self.id, props=props)
        # Through the loop from wherever we are, so that the order of calls is the order sent.
        self._loop.call_soon_threadsafe(self._outbox.put, event)
        self._sent += 1
        if self._sent % UPDATES_AHEAD == 0 and threading.get_ident() != self._loop_thread:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        """In a thread: a callback that is faster than its way out would fill this process."""
        room = asyncio.run_coroutine_threadsafe(self._outbox.room(), self._loop)
        while not self.is_shutdown and wait([room], timeout=0.5).not_done:
            pass

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """The same, awaitable: waits while much is on its way."""
        self.set_prop_sync(component_id, prop_name, value)
        if threading.get_ident() == self._loop_thread:
            await self._outbox.room()

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
        event = Event(self.page, self._request, self.id, outcome)
        if self._sent:
            # Behind the updates, which come through the loop.
            self._loop.call_soon(self._outbox.put, event)
        else:
            self._outbox.put(event)


class LocalCalls:
    """All callbacks that run in this process for pages on a websocket or long-poll.

    A request that is sent again while its callback runs, or after it ended, does not run it again
    in this process. After the death of this process another one runs it again: such callbacks run
    at least once, as with any HTTP retry. Offload what must not.
    """

    def __init__(
        self,
        app: Any,
        threads: Threads,
        worker: str,
        scope: Callable[[str, RequestSnapshot], Scope],
    ) -> None:
        self._app = app
        self._threads = threads
        self._worker = worker
        self._scope = scope
        # By session as well: page and request are words of the browser, and may be anybody's.
        self._running: dict[tuple[str, str], LocalCall] = {}
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._closing = False

    def run(
        self, asked: Asked, snapshot: RequestSnapshot, outbox: Outbox, page: str, request: str
    ) -> None:
        """Run a callback; its events go to the outbox."""
        call = LocalCall(outbox, page, request, _instance(asked))
        key = (call.session, call.id)
        if key in self._running or key in self._ended:
            return
        for earlier in self._running.values():
            if call.instance and _same(earlier, call):
                # Both would write to the page, in turns.
                earlier.unwant()
        self._running[key] = call
        call.task = asyncio.create_task(self._run(call, asked, snapshot), name=f"call {call.id}")

    async def _run(self, call: LocalCall, asked: Asked, snapshot: RequestSnapshot) -> None:
        outcome = Outcome(Status.CANCELLED)
        try:
            with self._scope(call.session, snapshot) as scope, remote.using(scope):
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
                call.finish(outcome)

    async def _outcome(self, call: LocalCall, asked: Asked, snapshot: RequestSnapshot) -> Outcome:
        try:
            info = bridge.CallInfo(call.id, worker=self._worker, sink=call)
            invocation = bridge.bind(self._app, asked.body, snapshot, call, info)
            text = await (
                invocation.run() if invocation.is_async else self._threads.run(invocation.run)
            )
            return bridge.outcome_of(text, invocation.response)
        except WebsocketDisconnected:
            return Outcome(Status.NO_UPDATE)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # Whatever user code raises: the page sees an error, the log has the traceback.
            outcome = bridge.outcome_of_error(error, call.id, self._worker)
            if outcome.status is Status.FAILED:
                logger.exception(
                    "! callback %s failed", asked.body.output, extra={"call_id": call.id}
                )
            return outcome

    def answer(self, session: str, request: str, props: dict[str, Any]) -> None:
        """Pass a page's answer to the callback that asked, if it asked this session."""
        for call in self._running.values():
            if call.session == session and call.answer(request, props):
                return

    def __len__(self) -> int:
        return len(self._running)

    def count(self, session: str) -> int:
        """How many run for this session."""
        return sum(1 for owner, _ in self._running if owner == session)

    def unwant(self, session: str, page: str, request: str) -> None:
        """A page no longer wants the answer to a request."""
        call = self._running.get((session, call_id(session, page, request)))
        if call is not None:
            call.unwant()

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


def _instance(asked: Asked) -> str:
    """What a generator streams to; empty for other callbacks."""
    if bridge.STREAMS not in asked.entry:
        return ""
    return orjson.dumps([asked.body.output, asked.body.outputs]).decode()


def _same(one: LocalCall, other: LocalCall) -> bool:
    return (one.session, one.page, one.instance) == (other.session, other.page, other.instance)
