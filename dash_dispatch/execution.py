"""Run one call to exactly one outcome, by its deadline: on the loop, in a thread or in a process.

This is where user code meets a thread or a process. A callback that never ends, exits, or is
killed ends its call, never the worker.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dash_dispatch import binding, bridge, remote, tasks
from dash_dispatch.caller import MAX_DEPTH, Caller, Scope, scope_of
from dash_dispatch.config import Settings
from dash_dispatch.errors import CallExpired, DispatchError, StoreError, StoreUnavailable
from dash_dispatch.processes import LINE_S, NoProcess, ProcessDied, ProcessPool
from dash_dispatch.protocol import (
    PUBLIC_FAILURES,
    UNKNOWN_CODE,
    CallSpec,
    Executor,
    Outcome,
    Status,
    failed,
    retry_pause_s,
)
from dash_dispatch.store import Claimed, Store
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVENTS_WAITING = 1000
"""``set_props`` of one call that wait for Redis; at the bound the callback itself waits, so that a
fast one cannot fill the worker's memory."""

UNWIND_S = 5.0
"""How long a coroutine that was cancelled may take to clean up before it is left alone."""

RECORD_TRIES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to write something down while Redis is away."""

LAST_WORDS_S = 5.0
"""How long a worker whose grace is over tries to write down what becomes of its calls."""

EMIT_BATCH = 64
"""Updates that one script carries at most."""


class Stream:
    """``ctx.websocket`` of a call in this process: its ``set_props``, on their way to the mailbox.

    Also what the events of a process are put into.
    """

    def __init__(self, store: Store, worker: str, spec: CallSpec) -> None:
        self._store = store
        self._worker = worker
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._queue: deque[bytes] = deque()
        self._pumping: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._stopped = False
        self._number = 0
        self.error: DispatchError | None = None
        self.on_loss: Callable[[], object] = lambda: None
        """Called when the call is not this worker's any more, or `error` keeps it from going on."""

    @property
    def is_shutdown(self) -> bool:
        """Whether the call has ended for the page: cancelled, timed out, superseded."""
        return self._stopped

    def stop(self) -> None:
        """The call has ended: say nothing more."""
        self._stopped = True
        self._queue.clear()
        self._room.set()
        if self._pumping is not None:
            self._pumping.cancel()

    def set_prop_sync(self, component_id: str, prop_name: str, value: Any) -> None:
        """Send an update; a thread (not the loop) waits while the queue is full."""
        if self._stopped:
            # A thread may outlive its call, and then the loop.
            return
        if os.getpid() != self._pid:
            # It would wait for a loop that is not there.
            raise OSError("a process that a callback has forked cannot speak to the page")
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
        # Most calls have no updates, and need nobody who carries them.
        if self._pumping is None:
            self._pumping = asyncio.create_task(self._pump(), name=f"events {self._spec.id}")
        if len(self._queue) >= EVENTS_WAITING:
            self._room.clear()

    async def put_when_room(self, props: bytes) -> None:
        """Queue an update as soon as there is room."""
        await self._room.wait()
        self.put(props)

    async def _pump(self) -> None:
        """Carry updates to the mailbox until there are none."""
        while self._queue:
            batch = list(itertools.islice(self._queue, EMIT_BATCH))
            if not await self._emit(batch):
                self._pumping = None
                self.stop()
                self.on_loss()
                return
            # Empty when it was stopped meanwhile.
            for _ in batch[: len(self._queue)]:
                self._queue.popleft()
            self._room.set()
        self._pumping = None

    async def _emit(self, batch: list[bytes]) -> bool:
        number = self._number + 1
        self._number += len(batch)
        for pause_s in (*RECORD_TRIES_S, None):
            try:
                return await self._store.emit(self._worker, self._spec, number, batch)
            except StoreUnavailable as error:
                if pause_s is None:
                    self.error = error
                    return False
                await asyncio.sleep(pause_s)
            except DispatchError as error:
                self.error = error
                return False
        return False

    async def close(self) -> None:
        """Return when all is sent."""
        pumping = self._pumping
        if pumping is not None:
            await asyncio.wait([pumping])
            if not pumping.cancelled():
                pumping.result()


def _end_fork_of(pid: int) -> None:
    """End this process if it is a fork of that one, made by a callback: one worker is enough."""
    if os.getpid() != pid:
        os._exit(0)


class _Steps:
    """A coroutine of the user's, step by step.

    A process that one of them has forked has a copy of the loop, which must not go on: it has this
    worker's connections.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._pid = os.getpid()

    def __await__(self) -> "_Steps":
        return self

    def __iter__(self) -> "_Steps":
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """The next step."""
        try:
            return self._coroutine.send(value)
        finally:
            _end_fork_of(self._pid)

    def throw(self, *error: Any) -> Any:
        """The next step, with an error: a cancellation."""
        try:
            return self._coroutine.throw(*error)
        finally:
            _end_fork_of(self._pid)

    def close(self) -> None:
        """No more steps."""
        self._coroutine.close()


class _Run:
    """One run of a call, ready up to the user's own code, which waits for the word to begin.

    Attributes:
        spec: The call.
        attempt: The number of this run, from 1.
        stream: Where its updates go.
        word: Done when it may begin: the call is this worker's.
        task: What ends with its outcome.
    """

    task: "asyncio.Task[Outcome]"

    def __init__(self, spec: CallSpec, attempt: int, stream: Stream) -> None:
        self.spec = spec
        self.attempt = attempt
        self.stream = stream
        self._loop = asyncio.get_running_loop()
        self.word: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def begin(self) -> None:
        """Give the word."""
        for update in self.spec.on_start:
            self.stream.put(update)
        self.word.set_result(None)

    def end(self, _task: object = None) -> None:
        """Wake who waits for it: the task's last deed, a turn before its end would be told."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; False when the time is over before."""
        timer = self._loop.call_later(timeout_s, self.end)
        try:
            await self._ended
        finally:
            timer.cancel()
        return self.task.done()


class Execution:
    """Runs the calls of one worker.

    Args:
        app: The user's app; for the loop and for threads.
        store: Where events and outcomes go.
        settings: Limits.
        worker: This worker's id.
        processes: The pool for ``def`` callbacks; None runs them in threads (the embedded mode
            where no fresh process could import the app).
        caller: Runs tasks for the calls.
    """

    def __init__(
        self,
        app: Any,
        store: Store,
        settings: Settings,
        worker: str,
        processes: ProcessPool | None,
        caller: Caller,
    ) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._worker = worker
        self._processes = processes
        self._caller = caller
        self._named = app.user_of is not None
        # As many as there are slots; more only while calls wait for tasks that are run here.
        threads = settings.worker_threads + (settings.processes if processes is None else 0)
        # What runs at a worker's end has had its outcome.
        self._threads = Threads(threads * (MAX_DEPTH + 1), waits_at_exit=False)
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._ready: dict[str, _Run] = {}
        self._timers: set[asyncio.Task[None]] = set()

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
        """End the pools. Retries that wait for their time are any sweeper's."""
        await tasks.end(self._timers)
        await tasks.end(run.task for run in self._ready.values())
        self._threads.close()
        if self._processes is not None:
            await self._processes.close()

    def prepare(self, spec: CallSpec, executor: Executor) -> None:
        """Get ready for `run`, which may come: as far as the user's code, in a task of its own.

        A worker needs that long to hear from Redis that a call is its own.
        """
        # Of a shared result it is not said yet whether it has to be computed.
        if not spec.cache_key:
            self._ready[spec.id] = self._new_run(spec, 1, executor)

    def ahead(self, executor: Executor) -> int:
        """How many calls may be taken now beside those that run."""
        if executor is Executor.PROCESS and self._processes is not None:
            return self._processes.ahead
        return 0

    def forget(self, call: str) -> None:
        """`run` does not come for it."""
        ready = self._ready.pop(call, None)
        if ready is not None:
            ready.task.cancel()
            logger.info("⊘ %s does not run here", call, extra={"call_id": call})

    async def run(self, claimed: Claimed, executor: Executor) -> None:
        """Run a call, and record its outcome or put it off for a retry. Raises nothing."""
        spec, attempt = claimed
        if spec.cache_key and not await self._leads(spec):
            return
        run = self._ready.get(spec.id)
        if run is None or run.attempt != attempt:
            self.forget(spec.id)
            run = self._new_run(spec, attempt, executor)
        self._ready.pop(spec.id, None)
        stream, task = run.stream, run.task
        self._running[spec.id] = task
        run.begin()
        outcome = None
        try:
            outcome = await self._settled(run)
            outcome = await self._after_events(stream, outcome, spec)
            await self._conclude(claimed, outcome)
        except NoProcess:
            await self._hand_back(spec)
        except asyncio.CancelledError:
            # The worker stops and its grace is over. The page is told, and the loop goes on down.
            stream.stop()
            task.cancel()
            await asyncio.wait([task], timeout=UNWIND_S)
            await self._last_words(claimed, outcome)
            raise
        finally:
            stream.stop()
            del self._running[spec.id]

    def _new_run(self, spec: CallSpec, attempt: int, executor: Executor) -> _Run:
        run = _Run(spec, attempt, Stream(self._store, self._worker, spec))
        run.task = asyncio.create_task(self._outcome(run, executor), name=f"run {spec.id}")
        run.task.add_done_callback(run.end)
        run.stream.on_loss = run.task.cancel
        return run

    async def _last_words(self, claimed: Claimed, outcome: Outcome | None) -> None:
        """What becomes of a call whose worker stops. Safe to say twice."""
        spec = claimed.spec
        outcome = outcome or self._error(
            Status.WORKER_LOST, "WorkerLost", "The worker was stopped while it ran this.", spec
        )
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._conclude(claimed, outcome)
        except TimeoutError:
            # Redis is away, and the lease runs out when it is back.
            logger.warning("! %s is left to the sweepers", spec.id, extra={"call_id": spec.id})

    async def _leads(self, spec: CallSpec) -> bool:
        """Whether this call has to compute its result: nobody has, and nobody is at it."""
        extra = {"call_id": spec.id}
        try:
            found = await self._store.lead(self._worker, spec)
        except StoreError as error:
            logger.warning("! %s: computed for itself (%s)", spec.id, error, extra=extra)
            return True
        if isinstance(found, Outcome):
            logger.info("↻ %s has the result of another call", spec.id, extra=extra)
            await self._record(spec, found)
            return False
        if found == "follow":
            logger.info("↻ %s waits for the same result of another call", spec.id, extra=extra)
        if found == "late":
            logger.info("⊘ %s ended before its start", spec.id, extra=extra)
            with contextlib.suppress(StoreError):
                # Else this worker's next heartbeats find that nothing of it runs here.
                await self._store.forget(self._worker, spec.id)
        return found == "lead"

    async def _hand_back(self, spec: CallSpec) -> None:
        """It was taken ahead, and nothing of it has run here: others can run it sooner."""
        store, worker = self._store, self._worker
        with contextlib.suppress(StoreError):
            # What cannot be handed back is a stray, as the heartbeats find.
            if await self._persist(spec, lambda: store.hand_back(worker, spec.id, spec)):
                logger.info("↻ %s handed back", spec.id, extra={"call_id": spec.id})

    async def _conclude(self, claimed: Claimed, outcome: Outcome) -> None:
        if not await self._put_off(claimed, outcome):
            await self._record(claimed.spec, outcome)

    async def _put_off(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Let a call that failed be run again, if it may. Redis being away is waited for."""
        spec, attempt = claimed
        if attempt > spec.retries or not _may_retry(outcome):
            return False
        pause_s = retry_pause_s(spec.backoff_s, attempt)
        word = await self._persist(spec, lambda: self._store.retry(self._worker, spec, pause_s))
        if word != "ok":
            return False
        logger.warning(
            "↻ %s failed (run %d of %d), again in %.1f s",
            spec.id,
            attempt,
            spec.retries + 1,
            pause_s,
            extra={"call_id": spec.id},
        )
        timer = asyncio.create_task(self._requeue(spec, pause_s), name=f"retry {spec.id}")
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)
        return True

    async def _requeue(self, spec: CallSpec, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        # A sweeper does it when this cannot.
        with contextlib.suppress(StoreError):
            await self._store.requeue(spec.id)

    async def _settled(self, run: _Run) -> Outcome:
        """The task's outcome, within its time; a cancel of the call is an outcome, too."""
        spec, task = run.spec, run.task
        if not await run.wait(spec.timeout_s):
            run.stream.stop()
            task.cancel()
            # A coroutine may hold out against its cancellation; its page does not wait for that.
            await asyncio.wait([task], timeout=UNWIND_S)
            text = f"The callback did not end within {spec.timeout_s:g} s, and was stopped."
            return self._error(Status.TIMED_OUT, "TimedOut", text, spec)
        if task.cancelled():
            return Outcome(Status.CANCELLED)
        error = task.exception()
        if isinstance(error, NoProcess):
            raise error
        if error is not None:
            return self._failed(error, spec)
        return task.result()

    async def _after_events(self, stream: Stream, outcome: Outcome, spec: CallSpec) -> Outcome:
        """Updates before outcome, also for an outcome that is an error."""
        await stream.close()
        if stream.error is not None:
            kind = type(stream.error).__name__
            return self._error(Status.FAILED, kind, str(stream.error), spec)
        return outcome

    async def _outcome(self, run: _Run, executor: Executor) -> Outcome:
        spec = run.spec
        # Before the user's code, which may take the process down.
        logger.info("→ %s %s", spec.id, _short(spec.output), extra={"call_id": spec.id})
        try:
            with scope_of(spec, self._caller.ask, named=self._named) as scope, remote.using(scope):
                outcome = await self._runner(executor)(run, scope)
        except ProcessDied as error:
            text = f"The process that ran this callback ended: {error}."
            return self._error(Status.WORKER_LOST, "WorkerLost", text, spec)
        finally:
            run.end()
        if len(outcome.body) > self._settings.max_result_bytes:
            text = (
                f"The result has {len(outcome.body)} bytes;"
                f" {self._settings.max_result_bytes} are allowed (DASH_DISPATCH_MAX_RESULT_BYTES)."
            )
            return self._error(Status.FAILED, "PayloadTooLarge", text, spec)
        return outcome

    def _runner(self, executor: Executor) -> Callable[[_Run, Scope], Coroutine[Any, Any, Outcome]]:
        if executor is Executor.PROCESS and self._processes is not None:
            return self._in_process
        return self._on_loop if executor is Executor.LOOP else self._in_thread

    async def _on_loop(self, run: _Run, _scope: Scope) -> Outcome:
        try:
            invocation = self._bind(run)
            await run.word
            return bridge.outcome_of(await _Steps(invocation.run()), invocation.response)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: its error is shown
            await run.word
            return self._failed(error, run.spec)

    async def _in_thread(self, run: _Run, _scope: Scope) -> Outcome:
        pid = os.getpid()

        def work() -> Outcome:
            try:
                invocation = bound or self._bind(run)
                return bridge.outcome_of(invocation.run(), invocation.response)
            except BaseException as error:  # noqa: BLE001 - user code; as on the loop
                return self._failed(error, run.spec)
            finally:
                _end_fork_of(pid)

        bound = None
        if not run.word.done():
            # While there is nothing else to do; else that is the thread's.
            with contextlib.suppress(Exception):
                bound = self._bind(run)
            await run.word
        return await self._threads.run(work)

    async def _in_process(self, run: _Run, scope: Scope) -> Outcome:
        spec = run.spec
        pool, emit = self._processes, run.stream.put_when_room
        assert pool is not None
        prepared = None if run.word.done() else pool.prepare(spec, self._worker)
        try:
            await run.word
            if prepared is not None:
                outcome = await prepared.run(run.attempt, emit, scope.ask)
            else:
                outcome = await pool.run(
                    spec, run.attempt, self._worker, emit, scope.ask, within_s=LINE_S
                )
        finally:
            if prepared is not None:
                prepared.forget()
        if outcome.status is Status.FAILED:
            self._log_failure(outcome, spec)
        return outcome

    def _bind(self, run: _Run) -> bridge.Invocation:
        return binding.bind_call(self._app, run.spec, run.stream, run.attempt, self._worker)

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
        """Write the outcome down. As long as Redis is away, the call keeps its slot and waits."""
        extra = {"call_id": spec.id}
        try:
            await self._tell_libraries(spec, outcome)
            first = await self._persist(
                spec, lambda: self._store.finish(self._worker, spec, outcome)
            )
        except CallExpired:
            logger.warning("! %s expired before its outcome", spec.id, extra=extra)
        except StoreError:
            # Its lease runs out like that of a dead worker, and the page hears of it.
            logger.exception("! %s: outcome not recorded", spec.id, extra=extra)
        else:
            if first:
                logger.info("← %s %s", spec.id, outcome.status, extra=extra)
            else:
                logger.info("⊘ %s had its outcome already", spec.id, extra=extra)

    async def _tell_libraries(self, spec: CallSpec, outcome: Outcome) -> None:
        """Before the page asks for their files. Without it, those may not be found."""
        if outcome.libraries:
            try:
                await self._persist(spec, lambda: self._store.add_libraries(outcome.libraries))
            except StoreError as error:
                logger.warning("! %s: %s", spec.id, error, extra={"call_id": spec.id})

    async def _persist(self, spec: CallSpec, write: Callable[[], Awaitable[T]]) -> T:
        """Do it, as soon as Redis is there."""
        pauses_s = itertools.chain(RECORD_TRIES_S, itertools.repeat(RECORD_TRIES_S[-1]))
        for pause_s in pauses_s:
            try:
                return await write()
            except StoreUnavailable as error:
                extra = {"call_id": spec.id}
                logger.warning("! %s: outcome waits for Redis (%s)", spec.id, error, extra=extra)
                await asyncio.sleep(pause_s)
        raise AssertionError("endless")


def _may_retry(outcome: Outcome) -> bool:
    if outcome.status is Status.WORKER_LOST:
        return True
    # What is over a limit will be so again. Code that is not known here may be in another worker.
    lasting = PUBLIC_FAILURES - {UNKNOWN_CODE}
    return outcome.status is Status.FAILED and outcome.failure.type not in lasting


def _short(output: str) -> str:
    return output if len(output) <= 80 else f"{output[:77]}…"
