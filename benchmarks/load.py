"""Slow callbacks in flight, in a process of their own: who measures a fast one has its core free.

``python -m benchmarks.load ADDRESS ours|stock SPREAD_S OUTPUT=COUNT …`` asks for each of them and,
with each answer, again. The first ones go out over ``SPREAD_S`` seconds; with 0 all at once, and as
they take equally long they stay in step. ``slow-plain`` goes over HTTP, the others over a
websocket. It says ``in flight`` when all are; at SIGTERM it asks no more, and says how many were
answered and how many lost when none is left.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable

from benchmarks.clients import CallSocket, DispatchSocket, Http, StockSocket, next_value

PROTOCOLS: dict[str, type[CallSocket]] = {"ours": DispatchSocket, "stock": StockSocket}
OVER_HTTP = "slow-plain"


class Load:
    """What is in flight, and what has become of what was."""

    def __init__(self, address: str, protocol: type[CallSocket]) -> None:
        self.answered = 0
        self.lost = 0
        self._address = address
        self._protocol = protocol
        self._http = Http(address)
        self._socket: CallSocket | None = None
        self._connecting = asyncio.Lock()
        self._ends = asyncio.Event()

    def end(self) -> None:
        """Ask for no more."""
        self._ends.set()

    async def run(self, counts: dict[str, int], spread_s: float) -> None:
        """Keep that many of each in flight until the end."""
        calls = [self._call(output) for output, count in counts.items() for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(self._again(call))
                if spread_s:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ends.wait(), spread_s / len(calls))
            print("in flight", flush=True)

    def _call(self, output: str) -> Callable[[], Awaitable[None]]:
        if output == OVER_HTTP:
            return lambda: self._http.call(output, next_value())
        return lambda: self._over_websocket(output)

    async def _over_websocket(self, output: str) -> None:
        await (await self._connected()).call(output, next_value())

    async def _connected(self) -> CallSocket:
        async with self._connecting:
            if self._socket is None or self._socket.closed:
                socket = self._protocol()
                await socket.open(self._address)
                self._socket = socket
        return self._socket

    async def _again(self, call: Callable[[], Awaitable[None]]) -> None:
        while not self._ends.is_set():
            try:
                await call()
                self.answered += 1
            except ConnectionError:
                # A browser would connect again, and so do we; the result is gone.
                self.lost += 1


async def main(address: str, protocol: str, spread_s: str, *counts: str) -> None:
    """Run until SIGTERM."""
    load = Load(address, PROTOCOLS[protocol])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.end)
    wanted = (count.split("=") for count in counts)
    await load.run({output: int(number) for output, number in wanted}, float(spread_s))
    print(f"ended {load.answered} {load.lost}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
