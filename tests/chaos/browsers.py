"""Browsers that come back by themselves, whatever happens to their connection."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence

import httpx
from websockets.exceptions import WebSocketException

from tests.apps.chaotic import STEPS
from tests.client import Client, LongPollClient, Message, WebsocketClient

PAUSE_S = 0.2
"""Between two attempts to connect."""

# `AssertionError`: a welcome that did not come.
LOST = (OSError, WebSocketException, httpx.HTTPError, AssertionError, EOFError)

AGAIN = ("stream-retried", "retried")
"""Callbacks that may be run more than once."""
WEB = "web"
"""Runs in the web process: again in another one, if that dies."""
SHARED = "shared"
"""Its result may be another's; known ones are answered by the web process."""
STREAMS = ("stream", "stream-process", "stream-retried")


class Browser:
    """One page that asks for calls, and holds on to them until their outcome.

    Args:
        kind: The transport.
        addresses: Web processes, or what stands before them.
        rng: Which of them is taken next.
    """

    def __init__(self, kind: type[Client], addresses: Sequence[str], rng: random.Random) -> None:
        self._addresses = addresses
        self._rng = rng
        self.client = kind(addresses[0])
        self.asked: dict[str, tuple[str, float]] = {}
        """Request → callback, and when it was asked for."""
        self.took_s: dict[str, float] = {}
        self.client.on_message = self._time
        self.connections = 0
        self._confirmed = 0
        self._broken = True
        self._connecting = asyncio.Lock()
        self._come = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Come, and stay."""
        self._life = asyncio.create_task(self._stay())
        await self._come.wait()

    async def call(self, request: str, kind: str, lasts_s: float) -> None:
        """Ask for a callback; at the latest with the next connection."""
        self.asked[request] = (kind, time.monotonic())
        # As the script does: nothing is said before the welcome.
        async with self._connecting:
            try:
                await self.client.call(request, f"{kind}.children", [request, lasts_s])
            except LOST:
                self._broken = True

    async def cancel(self, request: str) -> None:
        """Want it no longer, if there is somebody to tell."""
        async with self._connecting:
            with contextlib.suppress(*LOST):
                await self.client.cancel(request)

    async def end(self) -> None:
        """Go."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        await self._cut()

    async def _stay(self) -> None:
        while True:
            reading = self.client._reading
            if self._broken or reading is None or reading.done():
                async with self._connecting:
                    await self._return()
            else:
                await self._confirm()
            await asyncio.sleep(PAUSE_S / 4)

    async def _confirm(self) -> None:
        count = len(self.client.seen.received)
        if count > self._confirmed:
            self._confirmed = count
            with contextlib.suppress(*LOST):
                await self.client.ack()

    async def _return(self) -> None:
        await self._cut()
        self._broken = False
        try:
            async with asyncio.timeout(10):
                await self.client.connect(self._rng.choice(self._addresses))
            self.connections += 1
            self._come.set()
        except LOST:
            self._broken = True
            await asyncio.sleep(PAUSE_S)

    async def _cut(self) -> None:
        # `AttributeError`: there was none yet.
        with contextlib.suppress(*LOST, AttributeError):
            await self.client.cut()

    def _time(self, message: Message) -> None:
        if message["type"] == "callback_response":
            request = message["requestId"]
            self.took_s.setdefault(request, time.monotonic() - self.asked[request][1])

    # --- what it was shown ---------------------------------------------------------------------

    def status(self, request: str) -> str:
        """How a call ended, in a word."""
        outcome = self.client.seen.outcomes.get(request)
        if outcome is None:
            return "none"
        if outcome["status"] != "error":
            return str(outcome["status"])
        if _is_refusal(outcome):
            return "refused"
        for word, text in (
            ("lost", "lost"),
            ("lost", "stopped"),
            ("failed", "The callback failed"),
        ):
            if text in outcome["message"]:
                return word
        return f"error: {outcome['message'][:200]}"

    def violations(self, runs: Counter[str]) -> list[str]:
        """What must not be, of this page's calls.

        Args:
            runs: Tag → how many runs were written down.
        """
        found = []
        for request, (kind, _) in self.asked.items():
            status = self.status(request)
            if status == "none" or status.startswith("error"):
                found.append(f"{request}: {status}")
            if status == "ok" and kind != SHARED and self._result(request) != request:
                found.append(f"{request}: has the result {self._result(request)!r}")
            if kind not in (*AGAIN, WEB) and runs[request] > 1:
                found.append(f"{request}: ran {runs[request]} times")
        return found + self._repeated() + self._disordered()

    def _result(self, request: str) -> object:
        (props,) = self.client.seen.outcomes[request]["data"]["response"].values()
        return props["children"]

    def _repeated(self) -> list[str]:
        """A worker's outcome is sent once, and there is no other.

        What a web process answers itself may come beside it, and the script drops it: a refusal of
        a call that was accepted all the same; its own result, or one that it found in the cache,
        when it was not confirmed.
        """
        answers: dict[str, list[Message]] = {}
        for stray in self.client.seen.strays:
            answers.setdefault(stray["requestId"], []).append(stray["payload"])
        found = []
        for request, again in answers.items():
            all_of_them = [self.client.seen.outcomes[request], *again]
            told = [payload for payload in all_of_them if not _is_refusal(payload)]
            same = all(payload == told[0] for payload in told)
            if len(told) > 1 and not (same and self.asked[request][0] in (WEB, SHARED)):
                found.append(f"{request}: {len(told)} outcomes: {told}")
        return found

    def _disordered(self) -> list[str]:
        """Updates come in order, none twice; all of the run that succeeded."""
        shown: dict[str, list[tuple[int, int]]] = {}
        for tag, attempt, step in self.client.props:
            shown.setdefault(tag, []).append((attempt, step))
        found = []
        for request, (kind, _) in self.asked.items():
            steps = shown.get(request, [])
            if steps != sorted(set(steps)):
                found.append(f"{request}: updates in the order {steps}")
            last = [step for attempt, step in steps if attempt == steps[-1][0]]
            if kind in STREAMS and self.status(request) == "ok" and last != list(range(STEPS)):
                found.append(f"{request}: updates {steps}")
        return found


KINDS: tuple[type[Client], ...] = (WebsocketClient, WebsocketClient, LongPollClient)


def _is_refusal(payload: Message) -> bool:
    message = payload.get("message") or ""
    return payload["status"] == "error" and ("Redis is not" in message or "busy" in message)
