"""``dash_dispatch.ctx``: ``dash.ctx``, and what there is to ask of the call that runs."""

from typing import Final

from dash_dispatch import bridge


class Context(bridge.DashContext):
    """All of ``dash.ctx``, and a few words about the call.

    Usable in every callback, wherever it runs. Outside of one, its properties raise
    ``dash.exceptions.MissingCallbackContextException``, as Dash's own do.
    """

    @property
    def call_id(self) -> str:
        """The call's id, as in the logs; empty over plain HTTP in the web process."""
        return bridge.current_call().id

    @property
    def attempt(self) -> int:
        """The number of this run, from 1; higher with ``Offload(retries=...)``."""
        return bridge.current_call().attempt

    @property
    def worker(self) -> str:
        """The worker, or web process, that runs the call; empty over plain HTTP in the latter."""
        return bridge.current_call().worker

    def is_cancelled(self) -> bool:
        """Whether nobody wants the answer any more: cancelled, superseded, timed out, page gone.

        For long loops of callbacks that run in a thread, which nothing can end from outside: ask
        now and then, and return. An ``async def`` gets ``CancelledError``, a process is killed.
        """
        return bridge.current_call().is_cancelled()


ctx: Final = Context()
