"""``progress=``: ``set_progress``, the first argument of a callback, and ``tqdm`` in its place."""

import contextlib
import functools
import importlib
import importlib.util
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import dash

from dash_dispatch import bridge


@dataclass(frozen=True)
class Progress:
    """The ``progress=`` of a callback.

    Attributes:
        outputs: The properties that show it.
        has_default: Whether ``progress_default=`` says what they are when nothing runs.
    """

    outputs: tuple[dash.Output, ...]
    has_default: bool

    @contextlib.contextmanager
    def reporting(self, entry: dict[str, Any]) -> Iterator[Callable[[Any], None]]:
        """For the time of one run: its ``set_progress``; in a worker, ``tqdm`` reports as well."""
        reporter = _Reporter(self, bridge.concrete_ids(entry, self.outputs))
        if not bridge.current_call().offloaded or not _hook_tqdm():
            yield reporter.set_progress
            return
        bars = _Bars(reporter, [output.component_property for output in self.outputs])
        token = _bars.set(bars)
        try:
            yield reporter.set_progress
        finally:
            _bars.reset(token)
            bars.over = True


class _Reporter:
    """Sends the progress of one run to its page."""

    def __init__(self, progress: Progress, ids: list[str]) -> None:
        self._outputs = progress.outputs
        self._ids = ids
        # `set_progress` may be called in a thread of the callback's own, which has no context.
        self._context = copy_context()
        # Without a connection all comes with the response, which is the end: there, what is shown
        # when nothing runs would be written over.
        self._late = not bridge.streams_now() and progress.has_default

    def set_progress(self, value: Any) -> None:
        """Show progress, as Dash's ``set_progress``: one value per output, in a list or tuple.

        Of values without an output Dash says nothing, and so it is here.
        """
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) < len(self._outputs):
            raise ValueError(
                f"set_progress: {len(self._outputs)} values are due, one for each output of"
                f" progress=; got {len(values)}"
            )
        self.show(values)

    def show(self, values: Sequence[Any]) -> None:
        """Show these; ``no_update`` leaves a property alone."""
        if self._late:
            return
        for id_, output, value in zip(self._ids, self._outputs, values, strict=False):
            if value is not dash.no_update:
                props = {output.component_property: value}
                # A copy each: a context cannot be entered by two threads at once.
                self._context.copy().run(dash.set_props, id_, props)


# --- tqdm ---------------------------------------------------------------------------------------


class _Bars:
    """The ``tqdm`` bars of one run: the first that is open counts, not those inside its loop."""

    def __init__(self, reporter: _Reporter, props: list[str]) -> None:
        self.over = False
        self._reporter = reporter
        self._props = props
        self._lock = threading.Lock()
        self._counts: Callable[[], Any] = _none

    def moved(self, bar: Any) -> None:
        """A bar is drawn anew."""
        if self.over:
            return
        with self._lock:
            if self._counts() is None:
                self._counts = weakref.ref(bar)
            if self._counts() is not bar:
                return
        self._reporter.show([_shown(prop, bar) for prop in self._props])

    def closed(self, bar: Any) -> None:
        """A bar has come to its end: the next one counts."""
        with self._lock:
            if self._counts() is bar:
                self._counts = _none


def _none() -> None:
    return None


def _shown(prop: str, bar: Any) -> Any:
    """What a bar means to a property of this name."""
    if prop == "value":
        return bar.n
    if prop == "max":
        return dash.no_update if bar.total is None else bar.total
    if prop in _TEXTS:
        return f"{bar.n / bar.total:.0%}" if bar.total else str(bar).strip()
    return dash.no_update


_TEXTS = frozenset({"children", "label", "text", "title"})

_OWNER = "dash_dispatch_bars"
"""Attribute of a ``tqdm`` bar: the `_Bars` of its run."""

_bars: ContextVar[_Bars | None] = ContextVar("dash_dispatch_bars", default=None)
"""The bars of the run in this context: that of its loop, thread or process, and of no other."""


@functools.cache
def _hook_tqdm() -> bool:
    """Let every ``tqdm`` of this process say when it draws itself; False if there is none.

    It is drawn at the moments of its own choice (``mininterval``), and all its kinds
    (``tqdm.auto``, ``trange``) come by here.
    """
    if importlib.util.find_spec("tqdm") is None:
        return False
    kind: Any = importlib.import_module("tqdm.std").tqdm
    refresh, close = kind.refresh, kind.close

    @functools.wraps(refresh)
    def refreshed(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = refresh(self, *args, **kwargs)
        # The run in which it was first drawn: tqdm's monitor draws slow bars from a thread of its
        # own, and a bar that was left open is closed by whichever run comes by.
        bars = vars(self).setdefault(_OWNER, _bars.get())
        if bars is not None and not self.disable:
            bars.moved(self)
        return result

    @functools.wraps(close)
    def closed(self: Any) -> Any:
        bars = vars(self).get(_OWNER)
        if bars is not None and not self.disable:
            # Its last steps, which came too fast to be drawn.
            bars.moved(self)
            bars.closed(self)
        return close(self)

    kind.refresh, kind.close = refreshed, closed
    return True
