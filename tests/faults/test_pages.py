"""Pages that stop reading, or sleep: the web process does not grow, and nobody waits for ever."""

import asyncio
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dash_dispatch.session import Signer
from tests.client import Client, LongPollClient, Message, WebsocketClient
from tests.conftest import StackFactory
from tests.faults.test_web import tell
from tests.scale import scaled
from tests.stack import SECRET, Stack, body, eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

UPDATE_BYTES = 100_000
GROWTH_MB = 36
"""What a page that does not read may cost: a batch of its mailbox, some times over."""


class Site(NamedTuple):
    """A web process and a worker."""

    stack: Stack
    address: str

    def key(self, name: str) -> str:
        return f"{self.stack.namespace}:{name}"

    def status(self, client: Client, request: str) -> Any:
        """What is written down of a call."""
        record = self.key(f"call:{client.call_id(request)}")
        return self.stack.redis.client().hget(record, "status")

    def session(self, client: Client) -> str:
        """The id in the client's handle."""
        assert client.session is not None
        return str(Signer(SECRET, self.stack.namespace).verify(client.session))

    def is_served(self, client: Client) -> bool:
        """Whether anybody listens for the client's mail."""
        channel = self.key(f"hint:{self.session(client)}")
        ((_, count),) = self.stack.redis.client().pubsub_numsub(channel)
        return bool(count)

    def runs(self, tag: str) -> int:
        path = self.stack.folder / f"{tag}.runs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    stack = make_shared_stack("sleepy", poll_hold_s="2", max_mailbox_entries="100000")
    yield Site(stack, *stack.up())
    for proc in (*stack.webs, *stack.workers):
        assert "Traceback" not in proc.log, proc.log


class Memory:
    """How much a process has grown at most since this was made, in MiB."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        # From here on, the peak is counted anew.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = self._mb("VmRSS")

    @property
    def growth_mb(self) -> float:
        return self._mb("VmHWM") - self._before

    def _mb(self, name: str) -> float:
        lines = dict(line.split(":") for line in self._status.read_text().splitlines())
        return int(lines[name].split()[0]) / 1024


class Page(WebsocketClient):
    """Knows mail that it had directly, as the browser script does; can stop reading."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._directs: dict[str, int] = {}
        self._name = ""

    @property
    def steps(self) -> list[int]:
        return [int(value.split()[0]) for value in self.props]

    def stop_reading(self) -> None:
        """The library goes on to read some frames, and then nobody does."""
        assert self._reading is not None
        self._reading.cancel()
        # Else the kernel reads tens of megabytes for us.
        buffer = self.connection.transport.get_extra_info("socket")
        buffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)

    def read_on(self) -> None:
        self._reading = asyncio.create_task(self._read(self.connection))

    async def ping(self) -> None:
        """Now and then, as the browser script does: a page that is awake is not silent."""
        while True:
            await self.say({"type": "ping"})
            await asyncio.sleep(0.3)

    def _sort(self, message: Message) -> None:
        if message["type"] == "welcome":
            self._name = message["connection"]
        mark = self.seen.received[-1].mark
        name, _, number = message.get("direct", "").partition(":")
        if isinstance(mark, int):
            self._directs[self._name] = mark
        elif name and int(number) <= self._directs.get(name, 0):
            return
        super()._sort(message)


@pytest.mark.parametrize("output", ["floods.children", "floods-local.children"])
async def test_a_page_that_stops_reading_costs_little_and_misses_nothing(
    site: Site, output: str
) -> None:
    (web,) = site.stack.webs
    count = scaled(300, 2000)
    page = Page(site.address)
    await page.connect()
    page.stop_reading()
    memory = Memory(web.pid)

    await page.call("one", output, [count, UPDATE_BYTES])

    # It is given up, with a reason that it reads when it reads again.
    await eventually(lambda: not site.is_served(page), "it is given up", 60)
    if output == "floods.children":
        await eventually(lambda: site.status(page, "one") == b"ok", "the call has ended", 60)
    else:
        mailbox = site.key(f"mailbox:{site.session(page)}")
        redis = site.stack.redis.client()
        await eventually(lambda: redis.xlen(mailbox) > count / 2, "it goes by mail", 60)
    growth_mb = memory.growth_mb
    tell(f"{output}: {count * UPDATE_BYTES >> 20} MiB unread, web grew by {growth_mb:.1f} MiB")
    assert growth_mb < GROWTH_MB
    page.read_on()
    code, reason = await page.close_code()
    assert (code, reason) == (4008, "nothing heard for 4 s")
    had = len(page.props)
    assert had < count
    await page.cut()

    await page.connect()
    pinging = asyncio.create_task(page.ping())

    assert await page.children("one", 60) == f"{count} updates"
    assert page.steps == list(range(count))
    assert not page.seen.strays
    pinging.cancel()
    await page.cut()


# --- a page that sleeps for longer than its mailbox is kept ---------------------------------------

HOUR_S = 3600.0
KINDS = [WebsocketClient, LongPollClient]


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


async def asleep(site: Site, client: Client, tag: str) -> Message:
    """Ask for a call, and go away before the answer; the message that asked."""
    await client.connect()
    await client.call("one", "counted.children", tag)
    message = client.pending["one"]
    await eventually(lambda: site.runs(tag), "it runs")
    await client.cut()
    client.pending["one"] = message
    client.seen.outcomes.clear()
    return message


def expire(site: Site, client: Client, *, record: bool) -> None:
    """The time is over for which Redis keeps it."""
    redis = site.stack.redis.client()
    redis.delete(site.key(f"mailbox:{site.session(client)}"))
    if record:
        redis.delete(site.key(f"call:{client.call_id('one')}"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("record", [True, False], ids=["all is gone", "the outcome is gone"])
async def test_after_the_session_is_over_a_page_is_told(
    site: Site, tag: str, kind: type[Client], record: bool
) -> None:
    """And the call is not run again behind its back."""
    client = kind(site.address)
    message = await asleep(site, client, tag)
    await eventually(lambda: site.status(client, "one") == b"ok", "it has ended")
    expire(site, client, record=record)

    await client.connect(again=False)
    await client.say(message | {"age_s": HOUR_S + 1})

    outcome = await client.outcome("one")
    assert outcome["status"] == "error"
    assert "away for too long" in outcome["message"]
    await client.call("two", "counted.children", f"{tag}2")
    assert await client.children("two") == f"{tag}2"
    assert site.runs(tag) == 1
    await client.cut()


async def test_a_call_that_still_runs_is_delivered_however_long_its_page_slept(
    site: Site, tag: str
) -> None:
    client = WebsocketClient(site.address)
    message = await asleep(site, client, f"held{tag}")
    expire(site, client, record=False)

    await client.connect(again=False)
    await client.say(message | {"age_s": HOUR_S + 1})
    (site.stack.folder / f"held{tag}.go").touch()

    assert await client.children("one") == f"held{tag}"
    assert site.runs(f"held{tag}") == 1
    await client.cut()


async def test_a_request_that_never_arrived_is_run_when_it_does(site: Site, tag: str) -> None:
    """The script cannot tell a lost request from a lost answer."""
    async with WebsocketClient(site.address) as client:
        payload = body("counted.children", {"in.data": tag})
        message = {"type": "call", "page": client.page, "request": "one", "payload": payload}
        client.pending["one"] = message
        await client.say(message | {"age_s": HOUR_S - 1})
        assert await client.children("one") == tag
