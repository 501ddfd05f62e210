"""A pool of warm processes, each of which can be killed alone.

The pools of the ecosystem were measured and left: anyio's talks over the child's stdout, which
any subprocess of a callback would garble; ``concurrent.futures`` cannot kill one; pebble polls for
a death every 0.1 s; and none of them can hear from a call before it ends, as ``set_props`` needs.
What is here is ``multiprocessing``'s own processes (forkserver: the app is imported once, a new
process costs a fork), a socket pair to each, and one rule: a process runs one call at a time.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from dash_dispatch import child, tasks
from dash_dispatch.pipes import Message, Pipe
from dash_dispatch.protocol import CallSpec, Outcome

logger = logging.getLogger(__name__)

START_S = 60.0
"""How long the app's import may take in a new process."""
HOOKS_S = 600.0
"""How long ``on_worker_start`` may take there: models are large, and disks may be far away."""
STOP_S = 10.0
"""How long ``on_worker_stop`` may take there."""
KILL_S = 5.0
EXTRA_IDLE_S = 10.0
"""A process more than asked for, started while others wait for tasks, is kept this long."""

_encoder = msgspec.msgpack.Encoder()
_outcomes = msgspec.msgpack.Decoder(Outcome)
_asked = msgspec.msgpack.Decoder(tuple[int, CallSpec])

QUICK_S = 0.005
"""Calls that take less than this, from one end of the socket to the other, are taken ahead: to ask
Redis for each alone takes as long as to run it."""
AHEAD = 3
"""How many for each process."""
SLOW_S = 1.0
"""What is thought of calls that are not known yet, or of which one has proved slow."""
LINE_S = 0.1
"""How long a call that was taken ahead stands in line when others have proved slow after all."""

Emit = Callable[[bytes], Awaitable[None]]
Ask = Callable[[CallSpec], Awaitable[Outcome]]


async def _nobody(_spec: CallSpec) -> Outcome:
    raise RuntimeError("tasks cannot be run from here")


class ProcessDied(Exception):
    """The process ended in the middle of a call. The message says how."""


class NoProcess(Exception):
    """No process is free, and none will be soon. Nothing of the call has run."""


class PoolBroken(Exception):
    """No process can be started: the app cannot be imported there, for instance."""


class Worker:
    """One process of the pool, from the parent's side."""

    def __init__(self, process: BaseProcess, pipe: Pipe) -> None:
        self._process = process
        self._pipe = pipe
        self._died = asyncio.Event()
        # To ask whether it lives is part of each call, and has to be cheap. The sentinel tells only
        # when the fork server has been told; the socket, when no child of it holds that.
        self._pulse = select.poll()
        self._pulse.register(process.sentinel, select.POLLIN)
        self._pulse.register(pipe.fileno(), 0)
        self._has_hooks = False
        self._asking: dict[int, asyncio.Task[None]] = {}
        self.calls = 0
        """How many it has been given."""
        self.full = False
        """It holds more memory than it may."""
        self.successor: asyncio.Task[None] | None = None
        """What starts the process that takes its place."""
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_death)

    @classmethod
    async def start(cls, app_spec: str, max_mb: int = 0) -> "Worker":
        """Start a process and wait until it has imported the app and ``on_worker_start`` has run.

        Args:
            app_spec: How to import the app.
            max_mb: Resident memory from which it says that it is `full`; 0: never.

        Raises:
            PoolBroken: It could not.
        """
        ours, theirs = socket.socketpair()
        process = _context().Process(
            target=child.main,
            args=(theirs, app_spec, max_mb),
            name="dash-dispatch-call",
            daemon=True,
        )
        # The first start brings up the fork server, which imports the app: not on the loop.
        launching = asyncio.ensure_future(asyncio.to_thread(process.start))
        try:
            await asyncio.shield(launching)
        except (EOFError, OSError) as error:
            ours.close()
            raise PoolBroken(f"the process that starts others ended: {error}") from error
        except asyncio.CancelledError:
            # A thread cannot be stopped half-way. It takes milliseconds.
            ours.close()
            with contextlib.suppress(EOFError, OSError):
                await launching
                process.kill()
            raise
        finally:
            theirs.close()
        _, pipe = await asyncio.get_running_loop().create_connection(Pipe, sock=ours)
        worker = cls(process, pipe)
        try:
            kind, body = await worker._first_words()
        except (TimeoutError, ProcessDied) as error:
            await worker.kill()
            raise PoolBroken(f"a process for callbacks did not start: {error}") from error
        except asyncio.CancelledError:
            await worker.kill()
            raise
        if kind != child.READY:
            await worker.kill()
            raise PoolBroken(body.decode())
        worker._has_hooks = body == b"1"
        return worker

    async def _first_words(self) -> Message:
        async with asyncio.timeout(START_S):
            words = await self._read()
        if words[0] != child.HOOKS:
            return words
        async with asyncio.timeout(HOOKS_S):
            return await self._read()

    @property
    def waits(self) -> bool:
        """Whether its call waits for tasks."""
        return bool(self._asking)

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid or 0

    def _on_death(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._died.set()
        # A grandchild may still hold the socket: end of file would not come by itself, nor would
        # what has not been sent ever be read.
        self._pipe.end()

    def prepare(self, order: child.Order) -> None:
        """Let it get ready for a call: to be run, or forgotten, by the next word."""
        self._pipe.send(child.PREPARE, _encoder.encode(order))

    def forget(self) -> None:
        """The call that it was to get ready for does not come."""
        self._pipe.send(child.FORGET, b"")

    async def run(self, kind: bytes, body: bytes, emit: Emit, ask: Ask) -> Outcome:
        """Run one call.

        Args:
            kind, body: What begins it.
            emit: Takes its updates as they come.
            ask: Runs its tasks.

        Raises:
            ProcessDied: The process ended before the call did.
        """
        self.calls += 1
        self._pipe.send(kind, body)
        try:
            while True:
                kind, body = await self._read()
                if kind in (child.OUTCOME, child.OUTCOME_AND_FULL):
                    self.full = kind == child.OUTCOME_AND_FULL
                    return _outcomes.decode(body)
                if kind == child.PROPS:
                    await emit(body)
                elif kind == child.ASK:
                    self._begin(body, ask)
                elif kind == child.DROP:
                    self._give_up(*child.NUMBER.unpack(body))
        finally:
            if self._asking:
                # It returned, or died, without waiting for these.
                await tasks.end(list(self._asking.values()))

    def _begin(self, body: bytes, ask: Ask) -> None:
        number, spec = _asked.decode(body)
        task = asyncio.create_task(self._reply(number, spec, ask), name=f"task {number}")
        self._asking[number] = task
        task.add_done_callback(lambda _: self._asking.pop(number, None))

    def _give_up(self, number: int) -> None:
        task = self._asking.get(number)
        if task is not None:
            task.cancel()

    async def _reply(self, number: int, spec: CallSpec, ask: Ask) -> None:
        try:
            reply = child.Reply(number, await ask(spec))
        except Exception as error:  # noqa: BLE001 - raised in the process, as if it had asked here
            reply = child.Reply(number, None, type(error).__name__, str(error))
        self._pipe.send(child.REPLY, _encoder.encode(reply))

    async def _read(self) -> Message:
        try:
            return await self._pipe.receive()
        except EOFError as error:
            raise ProcessDied(await self._obituary()) from error

    async def _obituary(self) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S):
                await self._died.wait()
        self._process.join(0)
        code = self._process.exitcode
        if code is None:
            return "it closed its connection"
        if code >= 0:
            return f"it exited with status {code}"
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"it was killed by {name}{hint}"

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        # The loop may not have come round to hearing of it.
        return not (self._died.is_set() or self._pipe.ended or self._pulse.poll(0))

    async def retire(self) -> None:
        """Let an idle process come to its end: ``on_worker_stop`` first, for ``STOP_S``."""
        if self._has_hooks and self.alive:
            self._pipe.send(child.STOP, b"")
            try:
                async with asyncio.timeout(STOP_S):
                    await self._read()
            except TimeoutError:
                logger.warning("! on_worker_stop takes longer than %g s, killed", STOP_S)
            except ProcessDied as error:
                logger.warning("! a process ended before its on_worker_stop did: %s", error)
        await self.kill()

    async def kill(self) -> None:
        """End the process and all its children, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # It leads a process group of its own.
            os.killpg(self.pid, signal.SIGKILL)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_S):
                    await self._died.wait()
        finally:
            # Also where whoever waits for it is stopped.
            self._pipe.end()
        await asyncio.to_thread(self._process.join, KILL_S)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


class ProcessPool:
    """``size`` warm processes; a call takes one for itself.

    Callers never wait long: a worker claims only as many calls as there are processes, and some
    more while calls are quick (`ahead`). While a call waits for tasks, which may need a process
    themselves, the pool has one more.

    Args:
        app_spec: How a fresh process imports the app.
        size: How many processes.
        max_calls: After so many calls a process is replaced; 0: never. Its successor starts
            beside its last call.
        max_mb: A process whose resident memory is larger after a call is replaced; 0: never. It
            goes on until its successor is there.
    """

    def __init__(self, app_spec: str, size: int, *, max_calls: int = 0, max_mb: int = 0) -> None:
        self._app_spec = app_spec
        self._size = size
        self._max_calls = max_calls
        self._max_mb = max_mb
        self._idle: deque[Worker] = deque()
        self._ready: set[Worker] = set()
        """Those that a call is prepared in."""
        self._all: set[Worker] = set()
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._closed = False
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.TimerHandle | None = None
        self._usual_s = SLOW_S

    @property
    def ahead(self) -> int:
        """How many calls may stand in line now: some, as long as calls are quick."""
        return AHEAD * self._size if self._usual_s < QUICK_S else 0

    async def start(self) -> None:
        """Start all processes.

        Raises:
            PoolBroken: The app cannot be imported in a fresh process, or ``on_worker_start``
                failed there; the message says why.
        """
        context = _context()
        if isinstance(context, ForkServerContext):
            # Imported once, by the server; each process is a fork of it.
            os.environ[child.PRELOAD] = self._app_spec
            context.set_forkserver_preload(["dash_dispatch.preload"])
        await self._add()
        await asyncio.gather(*(self._add() for _ in range(self._size - 1)))

    async def _add(self) -> None:
        worker = await Worker.start(self._app_spec, self._max_mb)
        if self._closed:
            await worker.kill()
            return
        self._all.add(worker)
        self._put(worker)

    def _put(self, worker: Worker) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(worker)
                return
        self._idle.append(worker)

    async def run(
        self,
        spec: CallSpec,
        attempt: int,
        name: str,
        emit: Emit,
        ask: Ask = _nobody,
        *,
        within_s: float | None = None,
    ) -> Outcome:
        """Run a call in a process. Cancelling kills that process, and another takes its place.

        Args:
            spec: The call.
            attempt: The number of this run, from 1.
            name: The worker's.
            emit: Takes its updates as they come.
            ask: Runs its tasks.
            within_s: How long to wait for a process, unless one is being started.

        Raises:
            ProcessDied: The process ended before the call did.
            NoProcess: None was free in time.
        """
        worker = await self._take(within_s)
        order = child.Order(spec, attempt, name)
        return await self._run_in(worker, child.CALL, _encoder.encode(order), emit, ask)

    def prepare(self, spec: CallSpec, name: str) -> "Prepared | None":
        """Let a process get ready for a call that may come. Waits for nothing.

        No code of the user's runs for it before it is run.

        Args:
            spec: The call.
            name: The worker's.

        Returns:
            The call, which has to be run or forgotten: until then it keeps its process. None when
            no process is idle.
        """
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                worker.prepare(child.Order(spec, 1, name))
                self._ready.add(worker)
                return Prepared(self, worker, spec, name)
            self._replace(worker)
        return None

    async def run_prepared(
        self, worker: Worker, spec: CallSpec, attempt: int, name: str, emit: Emit, ask: Ask
    ) -> Outcome:
        """Of `Prepared.run`."""
        self._ready.discard(worker)
        if worker.alive:
            return await self._run_in(worker, child.RUN, child.NUMBER.pack(attempt), emit, ask)
        # Killed from outside while it was idle: no call was lost with it.
        self._replace(worker)
        return await self.run(spec, attempt, name, emit, ask)

    def forget_prepared(self, worker: Worker) -> None:
        """Of `Prepared.forget`."""
        self._ready.discard(worker)
        worker.forget()
        self._give_back(worker)

    async def _run_in(
        self, worker: Worker, kind: bytes, body: bytes, emit: Emit, ask: Ask
    ) -> Outcome:
        if self._max_calls and worker.calls + 1 >= self._max_calls:
            self._succeed(worker)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            outcome = await worker.run(kind, body, emit, ask)
        except BaseException:
            self._usual_s = SLOW_S
            self._replace(worker)
            raise
        self._usual_s = 0.8 * self._usual_s + 0.2 * (loop.time() - began)
        self._give_back(worker)
        return outcome

    async def _take(self, within_s: float | None = None) -> Worker:
        while True:
            # The one that ran last: what it needs is in the caches.
            worker = self._idle.pop() if self._idle else await self._next(within_s)
            if worker.alive:
                return worker
            # Killed from outside while it was idle: no call was lost with it.
            self._replace(worker)

    async def _next(self, within_s: float | None) -> Worker:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Worker] = loop.create_future()
        self._waiting.append(waiter)
        self._fill()
        looking = loop.call_later(within_s, self._look, waiter, within_s) if within_s else None
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._put(waiter.result())
            raise
        finally:
            if looking is not None:
                looking.cancel()

    def _give_back(self, worker: Worker) -> None:
        if worker.full:
            self._succeed(worker)
        used_up = self._max_calls and worker.calls >= self._max_calls
        succeeded = worker.successor is not None and worker.successor.done()
        if used_up or succeeded:
            self._retire(worker)
            return
        self._put(worker)
        self._trim_later()

    def _look(self, waiter: "asyncio.Future[Worker]", within_s: float) -> None:
        """Whether there is something to stand in line for."""
        if waiter.done():
            return
        if self._starting:
            asyncio.get_running_loop().call_later(within_s, self._look, waiter, within_s)
            return
        self._usual_s = SLOW_S
        waiter.set_exception(NoProcess())

    # --- one in the place of another -----------------------------------------------------------

    def _succeed(self, worker: Worker) -> None:
        """Start what will take its place."""
        if worker.successor is None:
            worker.successor = self._start(self._start_successor(worker))

    async def _start_successor(self, worker: Worker) -> None:
        await self._start_one()
        if worker in self._idle:
            self._idle.remove(worker)
            self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        logger.info("↻ process %d ends after %d calls", worker.pid, worker.calls)
        self._all.discard(worker)
        self._end(worker.retire())

    def _replace(self, worker: Worker) -> None:
        self._all.discard(worker)
        self._end(worker.kill())
        self._fill()

    def _fill(self) -> None:
        """Start what is missing; and, while calls wait for tasks, what those may need."""
        there = sum(worker.successor is None for worker in self._all) + len(self._starting)
        waiting = sum(worker.waits for worker in self._all)
        wanting = sum(not waiter.done() for waiter in self._waiting)
        wanted = wanting - len(self._idle) - len(self._starting)
        missing = max(self._size - there, min(wanted, self._size + waiting - there))
        for _ in range(missing):
            self._start(self._start_one())

    async def _start_one(self) -> None:
        pause_s = 0.1
        while not self._closed:
            try:
                await self._add()
            except (PoolBroken, OSError):
                logger.exception("! a process for callbacks could not be started, trying again")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 30.0)
            else:
                return

    def _trim_later(self) -> None:
        if len(self._all) > self._size and self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(EXTRA_IDLE_S, self._trim)

    def _trim(self) -> None:
        """Take back what was started while calls waited."""
        self._trimming = None
        lasting = sum(worker.successor is None for worker in self._all)
        while lasting > self._size and self._idle:
            self._retire(self._idle.popleft())
            lasting -= 1
        self._trim_later()

    # --- tasks of its own ------------------------------------------------------------------------

    def _start(self, starting: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._own(self._starting, starting)

    def _end(self, ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._own(self._ending, ending)

    def _own(
        self, owned: "set[asyncio.Task[None]]", work: Coroutine[Any, Any, None]
    ) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name="process pool")
        owned.add(task)
        task.add_done_callback(owned.discard)
        return task

    async def close(self) -> None:
        """End all processes: idle ones in an orderly way, others at once."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        # Once: each of them kills what it has begun, which must not be cut short.
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        idle = self._ready.union(self._idle)
        for worker in self._all:
            self._end(worker.retire() if worker in idle else worker.kill())
        # While these end, calls that are cut short may have others end.
        while self._ending:
            await asyncio.gather(*self._ending)
        self._all.clear()


class Prepared:
    """A call that a process is ready for. Made by `ProcessPool.prepare`."""

    def __init__(self, pool: ProcessPool, worker: Worker, spec: CallSpec, name: str) -> None:
        self._pool = pool
        self._worker: Worker | None = worker
        self._spec = spec
        self._name = name

    async def run(self, attempt: int, emit: Emit, ask: Ask = _nobody) -> Outcome:
        """Run it, as `ProcessPool.run` does. If its process has died meanwhile, another one does.

        Raises:
            ProcessDied: The process ended before the call did.
            RuntimeError: It was run or forgotten before.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            raise RuntimeError("a prepared call is run once")
        return await self._pool.run_prepared(worker, self._spec, attempt, self._name, emit, ask)

    def forget(self) -> None:
        """It does not come. Does nothing if it has been run or forgotten before."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._pool.forget_prepared(worker)
