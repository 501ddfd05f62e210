"""The embedded mode's watchman: the process that owns the private Redis and the worker.

It is a process of its own so that nothing outlives the app, however the app ends. It ends what it
started, and removes the folder, when

- its standard input ends, which the kernel sees to even after ``kill -9`` of the app;
- its parent process is another one (a forked child of the app may still hold that pipe);
- it gets SIGTERM or SIGINT.

It has a session of its own, so Ctrl-C in a terminal reaches the app alone, and the app's orderly
end is not raced by its children. On Linux the kernel kills them when the watchman itself is killed.

The app starts it as a file, not as a module of the package: importing the package imports Dash,
which takes a second that this process has no use for. It must import nothing from the package.

Talk: one line of JSON on standard input, the `Plan`; one line of JSON on the descriptor
``argv[1]``, the `Report`, when Redis answers and the worker is started, or cannot be.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from watchfiles import PythonFilter, awatch

START_TIMEOUT_S = 10.0
"""How long Redis may take to answer its first PING."""
_PING_EVERY_S = 0.02
_PARENT_CHECK_EVERY_S = 1.0
_BACK_OFF_S = (0.5, 30.0)
"""First and longest pause before a process that ended is started again."""
_STEADY_AFTER_S = 10.0
"""A process that ran for this long starts again with the first pause."""
_KILL_AFTER_S = 3.0
"""What a process gets beyond its grace time before it is killed."""
_WATCH_DEBOUNCE_MS = 300
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Plan:
    """What to run. Sent over a pipe, never in arguments: they are visible to every user."""

    parent: int
    folder: str
    redis_command: list[str]
    redis_config: str
    redis_log: str
    socket: str | None
    """Path of the socket; None for a port of 127.0.0.1."""
    port: int
    password: str
    worker_command: list[str] | None
    """None: no worker process."""
    worker_environment: dict[str, str]
    worker_grace_s: float
    watched: list[str]
    """Folders, without those below them, whose Python files make the worker start again."""


@dataclass(frozen=True)
class Report:
    """How it went."""

    redis_pid: int = 0
    worker_pid: int = 0
    error: str = ""


class Kept:
    """A child process that is started again whenever it ends, with a growing pause.

    Owned by one task, which runs `run`; cancelling that task ends the process.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], text: str = ""
    ) -> None:
        self.name = name
        self.pid = 0
        self.grace_s = 0.0
        """What the process takes to end when asked to."""
        self.is_quiet = True
        """Whether its end is told to the user."""
        self.log: str | None = None
        """A file for what it prints; else that goes where the app's goes."""
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self._command = [*_BOUND, str(os.getpid()), *command] if _BOUND else command
        self._environment = {**os.environ, **environment}
        self._text = text.encode()
        self._again = asyncio.Event()
        self._reason = ""

    def restart(self, reason: str) -> None:
        """End the process and start it at once; also when it is waiting for its next try."""
        self._reason = reason
        self._again.set()

    async def run(self) -> None:
        """Keep the process running until cancelled."""
        try:
            await self._keep()
        finally:
            self.started.set()  # nobody waits for what cannot come any more
            self.ended.set()

    async def _keep(self) -> None:
        pause_s, longest_s = _BACK_OFF_S
        while True:
            began = monotonic()
            async with self._process() as process:
                code = await self._wait(process.wait())
            if code is None:
                self._say(f"{self._reason}: the {self.name} starts again")
                continue
            self.ended.set()
            if monotonic() - began > _STEADY_AFTER_S:
                pause_s = _BACK_OFF_S[0]
            self._say(f"the {self.name} (pid {self.pid}) {_ending(code)}; again in {pause_s:g} s")
            await self._wait(asyncio.sleep(pause_s, 0))
            pause_s = min(pause_s * 2, longest_s)

    def _say(self, line: str) -> None:
        if not self.is_quiet:
            _say(line)

    async def _wait(self, other: Coroutine[None, None, int]) -> int | None:
        """Wait for something, or for `restart`: then None."""
        waits = (asyncio.create_task(other), asyncio.create_task(self._again.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._again.is_set():
                self._again.clear()
                return None
            return waits[0].result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        with self._output() as output:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        self.pid = process.pid
        try:
            await _feed(process, self._text)
            self.started.set()
            yield process
        finally:
            await self._end(process)

    def _output(self) -> AbstractContextManager[IO[bytes] | None]:
        return open(self.log, "ab") if self.log else nullcontext()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self.grace_s + _KILL_AFTER_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind, and itself if it hangs
        await process.wait()


async def _feed(process: asyncio.subprocess.Process, text: bytes) -> None:
    if process.stdin is None:
        return
    with suppress(ConnectionError):  # it has ended already, which `run` sees by itself
        process.stdin.write(text)
        await process.stdin.drain()
    process.stdin.close()


class Supervisor:
    """Runs a `Plan` until the parent is gone or a signal comes."""

    def __init__(self, plan: Plan, report: Callable[[Report], None]) -> None:
        self._plan = plan
        self._report = report
        self._over = asyncio.Event()
        self._redis = Kept("embedded Redis", plan.redis_command, {}, plan.redis_config)
        self._redis.log = plan.redis_log

    async def run(self) -> None:
        """Start all, keep it running, end all. The folder is gone afterwards."""
        self._listen()
        try:
            async with self._owned(self._watch_parent()), self._owned(self._redis.run()):
                await self._run_beside_redis()
        finally:
            shutil.rmtree(self._plan.folder, ignore_errors=True)

    async def _run_beside_redis(self) -> None:
        plan = self._plan
        error = await self._redis_error()
        if error:
            self._report(Report(error=error))
            return
        self._redis.is_quiet = False
        if plan.worker_command is None:
            self._report(Report(redis_pid=self._redis.pid))
            await self._over.wait()
            return
        worker = Kept("worker", plan.worker_command, plan.worker_environment)
        worker.grace_s, worker.is_quiet = plan.worker_grace_s, False
        async with self._owned(worker.run()), self._owned(_restart_on_change(worker, plan.watched)):
            await worker.started.wait()
            self._report(Report(redis_pid=self._redis.pid, worker_pid=worker.pid))
            await self._over.wait()

    async def _redis_error(self) -> str:
        """Empty as soon as Redis answers, else why it does not."""
        deadline = monotonic() + START_TIMEOUT_S
        while monotonic() < deadline and not self._redis.ended.is_set():
            if self._over.is_set():
                return "the app has ended"
            if await _answers(self._plan):
                return ""
            await asyncio.sleep(_PING_EVERY_S)
        state = "ended" if self._redis.ended.is_set() else f"is silent after {START_TIMEOUT_S:g} s"
        return f"the embedded Redis {state}; the end of its log:\n{_tail(self._plan.redis_log)}"

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        loop.add_reader(0, self._on_input)

    def _on_input(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._over.set()

    async def _watch_parent(self) -> None:
        while os.getppid() == self._plan.parent:  # noqa: ASYNC110 - no portable event says it
            await asyncio.sleep(_PARENT_CHECK_EVERY_S)

    @asynccontextmanager
    async def _owned(self, work: Coroutine[None, None, None]) -> AsyncIterator[None]:
        """Run beside the block; when the work ends first, whatever the reason, all is over."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._over.set())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _restart_on_change(worker: Kept, folders: list[str]) -> None:
    if not folders:
        await asyncio.Event().wait()
    try:
        async for changes in awatch(
            *folders, watch_filter=PythonFilter(), debounce=_WATCH_DEBOUNCE_MS, recursive=False
        ):
            names = sorted({Path(path).name for _, path in changes})
            worker.restart(f"{', '.join(names)} changed")
    except (OSError, RuntimeError) as error:  # such as the system's limit of watches
        _say(f"cannot watch for changes of the code: {error}")
    await asyncio.Event().wait()


async def _answers(plan: Plan) -> bool:
    """Whether Redis answers a PING, said by hand: the client is the store's business."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            return await _ping(plan)
    return False


async def _ping(plan: Plan) -> bool:
    if plan.socket is not None:
        reader, writer = await asyncio.open_unix_connection(plan.socket)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)
    try:
        writer.write(f"AUTH {plan.password}\r\nPING\r\n".encode())
        await reader.readline()
        return await reader.readline() == b"+PONG\r\n"
    finally:
        writer.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _tail(log: str) -> str:
    with suppress(OSError):
        return Path(log).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    return "(no log)"


def _say(line: str) -> None:
    # The app's terminal may be gone before this process is.
    with suppress(OSError):
        sys.stderr.write(f"dash_dispatch: {line}\n")
        sys.stderr.flush()


_BIND_AND_EXEC = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel to be killed with the parent, then becomes the command. In the new process and
not between fork and exec, where no Python may run while other threads exist."""

_BOUND = (
    [sys.executable, "-I", "-S", "-c", _BIND_AND_EXEC] if sys.platform.startswith("linux") else []
)


def main() -> None:
    """Read the plan, and carry it out."""
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the app ended before it said anything
    descriptor = int(sys.argv[1])

    def report(report: Report) -> None:
        with suppress(OSError), os.fdopen(descriptor, "w") as pipe:
            json.dump(asdict(report), pipe)

    asyncio.run(Supervisor(Plan(**json.loads(line)), report).run())


if __name__ == "__main__":
    main()
