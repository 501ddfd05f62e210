"""Threads of web and worker: where plain ``def`` code of users runs."""

import asyncio
import atexit
import contextlib
import functools
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync

P = ParamSpec("P")
R = TypeVar("R")

Result = tuple[Any, BaseException | None]


class Threads:
    """The bounded pool for plain ``def`` callbacks.

    Further callbacks wait in line when all threads are busy; each holds an open request or a
    browser's pending callback, so the line is bounded by what the browsers keep open.

    ``concurrent.futures`` and asgiref's ``sync_to_async`` do the same with half a dozen locks for
    each call, and at every lock the loop and the thread take the interpreter from each other: 200
    µs for an empty function. Here it is one queue there and one wake-up back: 30 µs alone, and 6
    when many wait, because a thread goes on with the next before the loop comes to its turn.

    Args:
        size: How many run at once.
        waits_at_exit: Whether the process waits at its end for what still runs. Not where that has
            been given up already: it may never end.
    """

    def __init__(self, size: int, *, waits_at_exit: bool = True) -> None:
        self._size = size
        self._waits_at_exit = waits_at_exit
        self._crew: _Crew | None = None

    def wrap(self, function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
        """An ``async`` form of a plain function; context variables are copied."""

        @functools.wraps(function)
        async def threaded(*args: P.args, **kwargs: P.kwargs) -> R:
            return await self.run(functools.partial(function, *args, **kwargs))

        return threaded

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in a thread; context variables are copied.

        When the one who waits is cancelled, the function is not begun, or goes on for nobody.
        """
        if self._crew is None:
            self._crew = _Crew(self._size)
            if self._waits_at_exit:
                _crews.add(self._crew)
        result: Result = await self._crew.call(functools.partial(copy_context().run, function))
        value, error = result
        if error is None:
            return value  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            # The traceback holds this frame, which would hold the error.
            del error, result

    def close(self) -> None:
        """End the threads; running callbacks end by themselves. A later use makes new ones."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()


class _Call:
    """One function to run, and the loop that waits for it."""

    def __init__(
        self, function: Callable[[], Any], ended: Callable[[], None], desk: "_Desk"
    ) -> None:
        self._ended = ended
        self._desk = desk
        self.loop = desk.loop
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self._function = function

    def run(self) -> None:
        """In a thread."""
        result: Result = None, None
        if not self.future.cancelled():
            result = self._outcome()
        self._desk.hand_over(self, result)

    def _outcome(self) -> Result:
        # So that `async_to_sync` in a callback finds the loop, as in asgiref's own threads.
        SyncToAsync.threadlocal.main_event_loop = self.loop
        SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()
        try:
            return self._function(), None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the one who waits
            return None, error

    def done(self, result: Result) -> None:
        """On the loop."""
        self._ended()
        if not self.future.done():
            # An exception may be one that a future refuses to carry: StopIteration.
            self.future.set_result(result)


class _Desk:
    """Where threads hand to a loop what they have done: all that is there at each wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[_Call, Result]] = deque()
        self._rung = False

    def hand_over(self, call: _Call, result: Result) -> None:
        """In a thread."""
        self._results.append((call, result))
        if not self._rung:
            self._rung = True
            # It fails when the loop is closed: nobody waits.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        # First: what is handed over from now on rings again, even if it is taken here.
        self._rung = False
        while self._results:
            call, result = self._results.popleft()
            call.done(result)


class _Crew:
    """Threads, started as they are needed, and the line before them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._line: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0
        self._desk: _Desk | None = None

    def call(self, function: Callable[[], Any]) -> "asyncio.Future[Result]":
        """Get in line."""
        loop = asyncio.get_running_loop()
        if self._desk is None or self._desk.loop is not loop:
            self._desk = _Desk(loop)
        call = _Call(function, self._ended, self._desk)
        self._open += 1
        if self._open > len(self._threads) < self._size:
            self._hire()
        self._line.put(call)
        return call.future

    def _ended(self) -> None:
        self._open -= 1

    def _hire(self) -> None:
        name = f"dash-dispatch_{len(self._threads)}"
        # Python would wait for others at its exit before anybody could tell them to end.
        thread = threading.Thread(target=_work, args=(self._line,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """What has not begun is cancelled."""
        while True:
            try:
                call = self._line.get_nowait()
            except queue.Empty:
                break
            if call is not None:
                call.future.cancel()
        self.dismiss()

    def dismiss(self) -> None:
        """Let every thread end after what it is at."""
        for _ in self._threads:
            self._line.put(None)

    def wait(self) -> None:
        """Until they have."""
        for thread in self._threads:
            thread.join()


def _work(line: "queue.SimpleQueue[_Call | None]") -> None:
    while (call := line.get()) is not None:
        call.run()
        # Not to hold on to a request and its answer until the next one comes.
        del call


_crews: "weakref.WeakSet[_Crew]" = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """As with any pool of threads, what runs at the end of the process may end."""
    crews = list(_crews)
    for crew in crews:
        crew.dismiss()
    for crew in crews:
        crew.wait()
