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
import multiprocessing.connection
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Final

import msgspec

from dash_dispatch import child
from dash_dispatch.protocol import CallSpec, Outcome

logger = logging.getLogger(__name__)

HEADER: Final = struct.Struct("!cQ")
START_S = 60.0
"""How long the app's import may take in a new process."""
KILL_S = 5.0


class ProcessDied(Exception):
    """The process ended in the middle of a call. The message says how."""


class PoolBroken(Exception):
    """No process can be started: the app cannot be imported there, for instance."""


class Worker:
    """One process of the pool, from the parent's side."""

    def __init__(
        self,
        process: BaseProcess,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._died = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_death)

    @classmethod
    async def start(cls, app_spec: str) -> "Worker":
        """Start a process and wait until it has imported the app.

        Raises:
            PoolBroken: It could not.
        """
        ours, theirs = socket.socketpair()
        process = _context().Process(
            target=child.main, args=(theirs, app_spec), name="dash-dispatch-call", daemon=True
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
        reader, writer = await asyncio.open_connection(sock=ours, limit=2**20)
        worker = cls(process, reader, writer)
        try:
            async with asyncio.timeout(START_S):
                kind, body = await worker._read()
        except (TimeoutError, ProcessDied) as error:
            await worker.kill()
            raise PoolBroken(f"a process for callbacks did not start: {error}") from error
        except asyncio.CancelledError:
            await worker.kill()
            raise
        if kind != child.READY:
            await worker.kill()
            raise PoolBroken(body.decode())
        return worker

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid or 0

    def _on_death(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._died.set()
        # A grandchild may still hold the socket: end of file would not come by itself.
        self._writer.close()
        self._reader.feed_eof()

    async def run(
        self, spec: CallSpec, name: str, emit: Callable[[bytes], Awaitable[None]]
    ) -> Outcome:
        """Run one call; its events go to ``emit`` as they come.

        Raises:
            ProcessDied: The process ended before the call did.
        """
        await self._write(child.CALL, msgspec.msgpack.encode((spec, name)))
        while True:
            kind, body = await self._read()
            if kind == child.OUTCOME:
                return msgspec.msgpack.decode(body, type=Outcome)
            await emit(body)

    async def _write(self, kind: bytes, body: bytes) -> None:
        try:
            self._writer.write(HEADER.pack(kind, len(body)))
            self._writer.write(body)
            await self._writer.drain()
        except (ConnectionError, RuntimeError):
            # The read that follows tells how it ended.
            return

    async def _read(self) -> tuple[bytes, bytes]:
        try:
            kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return kind, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
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
        if self._died.is_set() or self._reader.at_eof() or self._reader.exception() is not None:
            return False
        # The loop may not have come round to hearing of it.
        return not multiprocessing.connection.wait([self._process.sentinel], 0)

    async def kill(self) -> None:
        """End the process and all its children, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # It leads a process group of its own.
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S):
                await self._died.wait()
        self._writer.close()
        await asyncio.to_thread(self._process.join, KILL_S)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


class ProcessPool:
    """``size`` warm processes; a call takes one for itself.

    Callers never wait long: a worker claims only as many calls as there are processes.
    """

    def __init__(self, app_spec: str, size: int) -> None:
        self._app_spec = app_spec
        self._size = size
        self._idle: deque[Worker] = deque()
        self._all: set[Worker] = set()
        self._change = asyncio.Condition()
        self._closed = False
        self._starting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all processes.

        Raises:
            PoolBroken: The app cannot be imported in a fresh process; the message says why.
        """
        context = _context()
        if isinstance(context, ForkServerContext):
            # Imported once, by the server; each process is a fork of it.
            os.environ[child.PRELOAD] = self._app_spec
            context.set_forkserver_preload(["dash_dispatch.preload"])
        await self._add()
        await asyncio.gather(*(self._add() for _ in range(self._size - 1)))

    async def _add(self) -> None:
        worker = await Worker.start(self._app_spec)
        if self._closed:
            await worker.kill()
            return
        self._all.add(worker)
        async with self._change:
            self._idle.append(worker)
            self._change.notify()

    async def run(
        self, spec: CallSpec, name: str, emit: Callable[[bytes], Awaitable[None]]
    ) -> Outcome:
        """Run a call in a process. Cancelling kills that process, and another takes its place.

        Raises:
            ProcessDied: The process ended before the call did.
        """
        worker = await self._take()
        try:
            outcome = await worker.run(spec, name, emit)
        except BaseException:
            await self._replace(worker)
            raise
        async with self._change:
            self._idle.append(worker)
            self._change.notify()
        return outcome

    async def _take(self) -> Worker:
        while True:
            async with self._change:
                await self._change.wait_for(lambda: bool(self._idle))
                worker = self._idle.popleft()
            if worker.alive:
                return worker
            # Killed from outside while it was idle: no call was lost with it.
            await self._replace(worker)

    async def _replace(self, worker: Worker) -> None:
        self._all.discard(worker)
        replacing = asyncio.create_task(self._renew(worker), name="process pool")
        self._starting.add(replacing)
        replacing.add_done_callback(self._starting.discard)

    async def _renew(self, worker: Worker) -> None:
        await worker.kill()
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

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self._all))
        self._all.clear()
