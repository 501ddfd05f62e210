"""Generators as callbacks: each ``yield`` is shaped like a return value, and shown when it comes.

The idea, and the meaning of a ``yield``, are those of Dash's own streaming callbacks (after 4.4).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from dash_dispatch import bridge


class Stream:
    """Shows what the generator of one run yields.

    A mistake in the shape of a value ends the generator, and is the callback's error.
    """

    def __init__(self, registration: bridge.Registration) -> None:
        self._shaper = bridge.Shaper(registration)
        self._sink = bridge.current_sink()
        self._is_cancelled = bridge.current_call().is_cancelled

    def run(self, generator: Generator[Any, None, Any]) -> None:
        """Run a generator to its end; what it returns is its last ``yield``.

        One in a thread cannot be ended from outside: it is closed when it yields next.
        """
        with contextlib.closing(generator):
            while True:
                try:
                    value = next(generator)  # %% callback invoked %%
                except StopIteration as stop:
                    if stop.value is not None:
                        self._show(stop.value)
                    return
                if self._is_cancelled():
                    return
                self._show(value)

    async def run_async(self, generator: AsyncGenerator[Any, None]) -> None:
        """The same for an ``async`` one, which is told by ``CancelledError`` where it waits."""
        async with contextlib.aclosing(generator):
            while True:
                try:
                    value = await anext(generator)  # %% callback invoked %%
                except StopAsyncIteration:
                    return
                try:
                    await self._show_async(value)
                except asyncio.CancelledError as error:
                    # It came while the generator had its `yield` to wait at.
                    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                        await generator.athrow(error)
                    raise

    def _show(self, value: Any) -> None:
        with _explained(self._shaper.explain, value):
            for component, prop, item in self._shaper.shape(value):
                self._sink.set_prop_sync(component, prop, item)

    async def _show_async(self, value: Any) -> None:
        with _explained(self._shaper.explain, value):
            for component, prop, item in self._shaper.shape(value):
                await self._sink.set_prop(component, prop, item)
        # The others on this loop have their turn, and so has what carries the update.
        await asyncio.sleep(0)


@contextlib.contextmanager
def _explained(explain: Callable[[Any], None], value: Any) -> Generator[None, None, None]:
    """What JSON cannot say is a TypeError; Dash has an error that says where it stands."""
    try:
        yield
    except TypeError:
        explain(value)
        raise
