"""Run one call to exactly one outcome, by its deadline: on the loop, in a thread or in a process.

This is where user code meets a thread or a process. A callback that never ends, exits, or is
killed ends its call, never the worker.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from dash_dispatch import bridge
from dash_dispatch.config import Settings
from dash_dispatch.errors import CallExpired, DispatchError, StoreError, StoreUnavailable
from dash_dispatch.processes import ProcessDied, ProcessPool
from dash_dispatch.protocol import (
    CallSpec,
    Executor,
    Outcome,
    Status,
    failed,
)
from dash_dispatch.store import Store

logger = logging.getLogger(__name__)

EVENTS_WAITING = 1000
"""``set_props`` of one call that wait for Redis; at the bound the callback itself waits, so that a
fast one cannot fill the worker's memory."""

UNWIND_S = 5.0
"""How long a coroutine that was cancelled may take to clean up before it is left alone."""

RECORD_TRIES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to record an outcome while Redis is away."""


class Stream:
    """``ctx.websocket`` of a call in this process: its ``set_props``, on their way to the mailbox.

    Also what the events of a process are put into.
    """

    def __init__(self, store: Store, worker: str, spec: CallSpec) -> None:
        self._store = store
        self._worker = worker
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._new = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._stopped = False
        self._number = 0
        self.error: DispatchError | None = None

    @property
    def is_shutdown(self) -> bool:
        """Whether the call has ended for the page: cancelled, timed out, superseded."""
        return self._stopped

    def stop(self) -> None:
        """The call has ended: say nothing more."""
        self._stopped = True
        self._queue.clear()
        self._room.set()

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update; a thread (not the loop) waits while the queue is full."""
        if self._stopped:
            # A thread may outlive its call, and then the loop.
            return
        props = bridge.encode_props(component_id, prop_name, value)
        try:
            on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            # The loop cannot wait here; `set_prop` can.
            if len(self._queue) >= 10 * EVENTS_WAITING:
                raise RuntimeError(
                    f"{len(self._queue)} updates wait to be sent: await something between them,"
                    " for instance asyncio.sleep(0)"
                )
            self.put(props)
        else:
            asyncio.run_coroutine_threadsafe(self.put_when_room(props), self._loop).result()

    async def set_prop(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update, and wait while the queue is full."""
        await self.put_when_room(bridge.encode_props(component_id, prop_name, value))

    async def get_prop(self, component_id: str, prop_name: str, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - Dash's signature
        """Not from a worker: the page's present state is not there.

        Raises:
            NotImplementedError: Always; says what to do instead.
        """
        raise NotImplementedError(
            f"an offloaded callback cannot ask the page for {component_id}.{prop_name}:"
            " take it as State"
        )

    def put(self, props: bytes) -> None:
        """Queue an update."""
        if self._stopped:
            return
        self._queue.append(props)
        self._new.set()
        if len(self._queue) >= EVENTS_WAITING:
            self._room.clear()

    async def put_when_room(self, props: bytes) -> None:
        """Queue an update as soon as there is room."""
        await self._room.wait()
        self.put(props)

    async def pump(self) -> bool:
        """Carry updates to the mailbox until `close`.

        Returns:
            False when the call is not this worker's any more, or `error` keeps it from going on.
        """
        while True:
            await self._new.wait()
            self._new.clear()
            while self._queue:
                if not await self._emit(self._queue[0]):
                    self.stop()
                    return False
                self._queue.popleft()
                self._room.set()
            if self._closing:
                return True

    async def _emit(self, props: bytes) -> bool:
        self._number += 1
        for pause_s in (*RECORD_TRIES_S, None):
            try:
                return await self._store.emit(self._worker, self._spec, self._number, props)
            except StoreUnavailable as error:
                if pause_s is None:
                    self.error = error
                    return False
                await asyncio.sleep(pause_s)
            except DispatchError as error:
                self.error = error
                return False
        return False

    def close(self) -> None:
        """No more will come: `pump` ends when all is sent."""
        self._closing = True
        self._new.set()


class Execution:
    """Runs the calls of one worker.

    Args:
        app: The user's app; for the loop and for threads.
        store: Where events and outcomes go.
        settings: Limits.
        worker: This worker's id.
        processes: The pool for ``def`` callbacks; None runs them in threads (the embedded mode
            where no fresh process could import the app).
    """

    def __init__(
        self,
        app: Any,
        store: Store,
        settings: Settings,
        worker: str,
        processes: ProcessPool | None,
    ) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._worker = worker
        self._processes = processes
        self._threads = ThreadPoolExecutor(
            settings.worker_threads + (settings.processes if processes is None else 0),
            thread_name_prefix="dash-dispatch-call",
        )
        self._running: dict[str, asyncio.Task[Outcome]] = {}

    @property
    def running(self) -> set[str]:
        """Ids of the calls that run now."""
        return set(self._running)

    def cancel(self, call: str) -> None:
        """Stop a call; its outcome is recorded already by whoever cancelled it."""
        task = self._running.get(call)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        """Stop all calls."""
        for call in self.running:
            self.cancel(call)

    async def close(self) -> None:
        """End the pools."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            await self._processes.close()

    async def run(self, spec: CallSpec, executor: Executor) -> None:
        """Run a call and record its outcome. Raises nothing."""
        logger.info("→ %s %s", spec.id, _short(spec.output), extra={"call_id": spec.id})
        stream = Stream(self._store, self._worker, spec)
        pump = asyncio.create_task(stream.pump(), name=f"events {spec.id}")
        task = asyncio.create_task(self._outcome(spec, executor, stream), name=f"run {spec.id}")
        self._running[spec.id] = task
        pump.add_done_callback(lambda _: None if not stream.is_shutdown else task.cancel())
        try:
            outcome = await self._settled(task, spec)
            stream.close()
            outcome = await self._after_events(pump, stream, outcome, spec)
            await asyncio.shield(asyncio.create_task(self._record(spec, outcome)))
        except asyncio.CancelledError:
            # The worker stops and its grace is over. The page is told, and the loop goes on down.
            task.cancel()
            await asyncio.wait([task], timeout=UNWIND_S)
            outcome = self._error(
                Status.WORKER_LOST, "WorkerLost", "The worker was stopped while it ran this.", spec
            )
            await asyncio.shield(asyncio.create_task(self._record(spec, outcome)))
            raise
        finally:
            stream.stop()
            pump.cancel()
            del self._running[spec.id]

    async def _settled(self, task: "asyncio.Task[Outcome]", spec: CallSpec) -> Outcome:
        """The task's outcome, within its time; a cancel of the call is an outcome, too."""
        done, _ = await asyncio.wait([task], timeout=spec.timeout_s)
        if not done:
            task.cancel()
            # A coroutine may hold out against its cancellation; its page does not wait for that.
            await asyncio.wait([task], timeout=UNWIND_S)
            text = f"The callback did not end within {spec.timeout_s:g} s, and was stopped."
            return self._error(Status.TIMED_OUT, "TimedOut", text, spec)
        if task.cancelled():
            return Outcome(Status.CANCELLED)
        error = task.exception()
        if error is not None:
            return bridge.outcome_of_error(error, spec.id, self._worker)
        return task.result()

    async def _after_events(
        self, pump: "asyncio.Task[bool]", stream: Stream, outcome: Outcome, spec: CallSpec
    ) -> Outcome:
        """Updates before outcome, also for an outcome that is an error."""
        await pump
        if stream.error is not None:
            kind = type(stream.error).__name__
            return self._error(Status.FAILED, kind, str(stream.error), spec)
        return outcome

    async def _outcome(self, spec: CallSpec, executor: Executor, stream: Stream) -> Outcome:
        try:
            outcome = await self._runner(executor)(spec, stream)
        except ProcessDied as error:
            text = f"The process that ran this callback ended: {error}."
            return self._error(Status.WORKER_LOST, "WorkerLost", text, spec)
        if len(outcome.body) > self._settings.max_result_bytes:
            text = (
                f"The result has {len(outcome.body)} bytes;"
                f" {self._settings.max_result_bytes} are allowed (DASH_DISPATCH_MAX_RESULT_BYTES)."
            )
            return self._error(Status.FAILED, "PayloadTooLarge", text, spec)
        return outcome

    def _runner(
        self, executor: Executor
    ) -> Callable[[CallSpec, Stream], Coroutine[Any, Any, Outcome]]:
        if executor is Executor.PROCESS and self._processes is not None:
            return self._in_process
        return self._on_loop if executor is Executor.LOOP else self._in_thread

    async def _on_loop(self, spec: CallSpec, stream: Stream) -> Outcome:
        try:
            invocation = bridge.bind_call(self._app, spec, stream)
            return bridge.outcome_of(await invocation.run(), invocation.response)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: its error is shown
            return self._failed(error, spec)

    async def _in_thread(self, spec: CallSpec, stream: Stream) -> Outcome:
        loop = asyncio.get_running_loop()
        context = copy_context()

        def work() -> Outcome:
            try:
                invocation = bridge.bind_call(self._app, spec, stream)
                return bridge.outcome_of(invocation.run(), invocation.response)
            except BaseException as error:  # noqa: BLE001 - user code; as on the loop
                return self._failed(error, spec)

        return await loop.run_in_executor(self._threads, context.run, work)

    async def _in_process(self, spec: CallSpec, stream: Stream) -> Outcome:
        assert self._processes is not None
        outcome = await self._processes.run(spec, self._worker, stream.put_when_room)
        if outcome.status is Status.FAILED:
            self._log_failure(outcome, spec)
        return outcome

    def _failed(self, error: BaseException, spec: CallSpec) -> Outcome:
        outcome = bridge.outcome_of_error(error, spec.id, self._worker)
        if outcome.status is Status.FAILED:
            self._log_failure(outcome, spec)
        return outcome

    def _log_failure(self, outcome: Outcome, spec: CallSpec) -> None:
        trace = outcome.failure.traceback
        logger.error("! %s %s\n%s", spec.id, _short(spec.output), trace, extra={"call_id": spec.id})

    def _error(self, status: Status, kind: str, text: str, spec: CallSpec) -> Outcome:
        return failed(status, kind, text, call=spec.id, worker=self._worker)

    async def _record(self, spec: CallSpec, outcome: Outcome) -> None:
        """Write the outcome down, through a pause of Redis."""
        extra = {"call_id": spec.id}
        for pause_s in (*RECORD_TRIES_S, None):
            try:
                first = await self._store.finish(self._worker, spec, outcome)
            except CallExpired:
                logger.warning("! %s expired before its outcome", spec.id, extra=extra)
                return
            except StoreError as error:
                if pause_s is None:
                    # Its lease runs out like that of a dead worker, and the page hears of it.
                    logger.exception("! %s: outcome not recorded", spec.id, extra=extra)
                    return
                logger.warning("! %s: outcome waits for Redis (%s)", spec.id, error, extra=extra)
                await asyncio.sleep(pause_s)
            else:
                if first:
                    logger.info("← %s %s", spec.id, outcome.status, extra=extra)
                else:
                    logger.info("⊘ %s had its outcome already", spec.id, extra=extra)
                return


def _short(output: str) -> str:
    return output if len(output) <= 80 else f"{output[:77]}…"
