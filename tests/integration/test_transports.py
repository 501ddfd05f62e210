"""The two transports, as a browser's script uses them: same sessions, same order, nothing twice."""

import asyncio
import base64
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dash_dispatch.session import Signer
from tests.client import (
    Client,
    LongPollClient,
    Message,
    WebsocketClient,
    http,
    order,
    post,
    written,
)
from tests.conftest import StackFactory
from tests.stack import SECRET, Stack, body, eventually

MakeClient = Callable[..., Client]


class Site(NamedTuple):
    """Two web processes and two workers."""

    stack: Stack
    first: str
    second: str

    def go(self, tag: str) -> None:
        """Let what holds on to this tag go on."""
        (self.stack.folder / f"{tag}.go").touch()

    def pids(self, tag: str, what: str) -> list[int]:
        """The processes in which this has happened, once per time."""
        return noted(self.stack.folder, tag, what)

    @property
    def redis(self) -> Any:
        return self.stack.redis.client()

    def key(self, name: str) -> str:
        return f"{self.stack.namespace}:{name}"


def noted(folder: Path, tag: str, what: str) -> list[int]:
    path = folder / f"{tag}.{what}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def session_of(client: Client) -> str:
    """The session's id, out of the signed token."""
    assert client.session is not None
    return str(json.loads(_unpad(client.session.rsplit(".", 2)[0])))


def _unpad(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Iterator[Site]:
    stack = make_shared_stack("wire", poll_hold_s="1.5", processes="2", max_request_bytes="100000")
    yield Site(stack, *stack.up(webs=2, workers=2))
    for web in stack.webs:
        assert "Traceback" not in web.log, web.log


@pytest.fixture(params=[WebsocketClient, LongPollClient], ids=["websocket", "longpoll"])
def make_client(request: pytest.FixtureRequest, site: Site) -> MakeClient:
    def make(address: str = site.first, **more: Any) -> Client:
        client: Client = request.param(address, **more)
        return client

    return make


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


# --- sessions -----------------------------------------------------------------------------------


async def test_no_window_of_compression_is_kept_for_a_page(site: Site) -> None:
    """It would be most of what an idle one costs."""
    async with WebsocketClient(site.first) as client:
        assert client.connection is not None
        assert client.connection.response is not None
        agreed = client.connection.response.headers["Sec-WebSocket-Extensions"]
        assert {"server_no_context_takeover", "client_no_context_takeover"} < set(
            re.split(r"[;,]\s*", agreed)
        )
        for request in ("one", "two"):
            await client.call(request, "echo.children", "x" * 5000)
            assert await client.children(request) == "x" * 5000


async def test_hello_makes_a_session_and_takes_it_up_again_elsewhere(
    site: Site, make_client: MakeClient
) -> None:
    async with make_client() as client:
        assert client.welcomes[0]["resumed"] is False
        assert client.welcomes[0]["version"] == 1
        session = session_of(client)
        await client.cut()

        welcome = await client.connect(site.second)

        assert welcome["resumed"] is True
        assert session_of(client) == session


@pytest.mark.parametrize("token", ["", "nonsense", "forged", "foreign"])
async def test_a_token_that_is_not_ours_is_refused_on_the_websocket(site: Site, token: str) -> None:
    client = WebsocketClient(site.first)
    client.session = make_token(token)
    await client.open_socket()

    await client.say(client.hello())

    ((mark, message),) = json.loads(await client.connection.recv())
    assert mark is None
    assert message["type"] == "reset"
    # The same connection may say hello again, without it.
    client.session = None
    await client.say(client.hello())
    ((_, message),) = json.loads(await client.connection.recv())
    assert message["type"] == "welcome"
    assert message["resumed"] is False
    await client.cut()


@pytest.mark.parametrize("token", ["", "nonsense", "forged", "foreign"])
async def test_a_token_that_is_not_ours_is_refused_on_long_poll(site: Site, token: str) -> None:
    client = LongPollClient(site.first)
    client.session = make_token(token)
    async with client.open_http() as client.http:
        answers = [await client.send(), await client.poll()]

    assert [answer.status_code for answer in answers] == [410, 410]
    assert all("error" in answer.json() for answer in answers)


def make_token(kind: str) -> str:
    """``forged``: our id under a wrong signature; ``foreign``: that of an app beside ours."""
    if kind == "forged":
        return f"{Signer(SECRET, 'x').sign('a')[:-1]}A"
    return Signer(SECRET, "another").sign("someone") if kind == "foreign" else kind


async def test_who_says_something_else_than_hello_first_is_sent_away(site: Site) -> None:
    client = WebsocketClient(site.first)
    await client.open_socket()

    await client.say({"type": "ping"})

    with pytest.raises(ConnectionClosed):
        await client.connection.recv()
    assert (await client.close_code())[0] == 4002


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
async def test_a_wrong_origin_is_refused(site: Site, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await WebsocketClient(site.first, headers={"Origin": origin}).open_socket()
    assert refused.value.response.status_code == 403

    poller = LongPollClient(site.first, headers={"Origin": origin})
    async with poller.open_http() as poller.http:
        assert (await poller.send()).status_code == 403
        assert (await poller.poll()).status_code == 403


async def test_a_form_of_another_site_is_refused(site: Site) -> None:
    async with LongPollClient(site.first).open_http() as client:
        for path in ("send", "poll"):
            answer = await client.post(
                path, content='{"version":1}', headers={"Content-Type": "text/plain"}
            )
            assert answer.status_code == 403


async def test_a_version_that_is_not_spoken_is_said(site: Site) -> None:
    client = WebsocketClient(site.first)
    await client.open_socket()
    await client.say({**client.hello(), "version": 99})
    code, reason = await client.close_code()
    assert code == 4002
    assert "99" in reason
    async with LongPollClient(site.first).open_http() as poller:
        answer = await poller.post("send", json={"version": 99})
        assert answer.status_code == 400


async def test_ping_is_answered(site: Site) -> None:
    async with WebsocketClient(site.first) as client:
        await client.say({"type": "ping"})
        await client.until(lambda: {"type": "pong"} in client.seen.controls, "pong")


MALFORMED = {
    "empty": b"",
    "not JSON": b"{",
    "array": b"[]",
    "null": b"null",
    "unknown type": b'{"type":"run"}',
    "no page": b'{"type":"call","request":"1","payload":{}}',
    "invalid UTF-8": b'{"type":"bye","page":"\xff"}',
    "deep": b'{"type":"props","page":"p","request":"r","payload":{"a":' + b"[" * 50_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_messages_are_refused(site: Site, data: bytes) -> None:
    async with WebsocketClient(site.first) as client:
        await client.connection.send(data)
        assert (await client.close_code())[0] == 4002

    async with LongPollClient(site.first).open_http() as poller:
        sent = b'{"version":1,"session":null,"messages":[%b]}' % (data or b"{}")
        answer = await poller.post(
            "send", content=sent, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "cursor",
    ["", "0", "-", "a-b", "٣-٣", "99999999999999999999-1", "1-18446744073709551615", "0-0"],
)
async def test_a_hostile_cursor_harms_nobody(
    site: Site, make_client: MakeClient, cursor: str
) -> None:
    client = make_client()
    await client.connect()
    await client.cut()
    client.cursor = cursor
    await client.connect()
    client.cursor = None if order_or_none(cursor) is None else client.cursor
    if isinstance(client, WebsocketClient):
        await client.say({"type": "ack", "cursor": cursor, "direct": 10**9})
        await client.say({"type": "ping"})
        await client.until(lambda: {"type": "pong"} in client.seen.controls, "pong")
    else:
        assert isinstance(client, LongPollClient)
        await client.say({"type": "ping"})
        assert (await client.poll()).status_code == 200
    await client.cut()


def order_or_none(cursor: str) -> tuple[int, int] | None:
    try:
        return order(cursor)
    except ValueError:
        return None


# --- calls --------------------------------------------------------------------------------------


async def test_updates_come_in_order_and_before_the_outcome(
    site: Site, make_client: MakeClient
) -> None:
    async with make_client() as client:
        await client.call("one", "steps.children", 100)

        assert await client.children("one") == "100 steps"

        assert client.props == list(range(100))
        kinds = [m["type"] for mark, m in client.seen.received if isinstance(mark, str)]
        assert kinds == ["set_props"] * 100 + ["callback_response"]
        assert not client.seen.duplicates
        assert not client.seen.strays


async def test_a_repeated_call_runs_once(site: Site, make_client: MakeClient, tag: str) -> None:
    async with make_client() as client:
        await client.call("one", "counted-held.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        message = client.pending["one"]

        # While it runs, here and elsewhere; and when it has ended.
        await client.say(message, message)
        await client.cut()
        await client.connect(site.second)
        await client.say(message)
        site.go(tag)
        assert await client.children("one") == tag
        await client.say(message)
        await client.call("two", "echo.children", "later")
        assert await client.children("two") == "later"

        assert len(site.pids(tag, "runs")) == 1
        assert not client.seen.strays


async def test_a_result_arrives_on_another_web_process(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        await client.call("one", "many.children", [tag, 50])
        await client.until(lambda: len(client.props) == 50, "the first half")
        await eventually(lambda: site.pids(tag, "started"), "it holds")
        await client.cut()
        site.go(tag)

        await client.connect(site.second)

        assert await client.children("one") == "100 steps"
        assert client.props == list(range(100))
        assert not client.seen.duplicates
        assert not client.seen.strays


async def test_what_was_missed_comes_after_the_cursor(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    """More than one batch of the mailbox, and all of it unconfirmed."""
    async with make_client() as client:
        await client.call("one", "many.children", [tag, 150])
        await eventually(lambda: site.pids(tag, "started"), "it holds")
        await client.cut()
        had = len(client.props)
        site.go(tag)
        ended = client.call_id("one")
        await eventually(
            lambda: site.redis.hget(site.key(f"call:{ended}"), "status") == b"ok", "it ends"
        )
        assert had < 300

        await client.connect(site.second)

        assert await client.children("one") == "300 steps"
        assert client.props == list(range(300))
        assert not client.seen.duplicates


async def test_a_reader_without_a_cursor_gets_all_again(site: Site) -> None:
    """A browser script that was loaded again, or lost its memory, misses nothing unconfirmed."""
    async with WebsocketClient(site.first) as client:
        await client.call("one", "steps.children", 70)
        await client.outcome("one")
        await client.cut()
        client.cursor = None
        await client.connect(site.second)
        await client.until(lambda: len(client.props) == 140, "all again")
        assert client.props[70:] == list(range(70))


async def test_an_acknowledged_mailbox_is_empty(site: Site, make_client: MakeClient) -> None:
    async with make_client() as client:
        await client.call("one", "steps.children", 70)
        await client.outcome("one")
        mailbox = site.key(f"mailbox:{session_of(client)}")

        await client.ack()

        await eventually(lambda: site.redis.xlen(mailbox) == 0, "the mailbox is trimmed")


async def test_a_partial_acknowledgement_keeps_the_rest(site: Site) -> None:
    async with WebsocketClient(site.first) as client:
        await client.call("one", "steps.children", 20)
        await client.outcome("one")
        mailbox = site.key(f"mailbox:{session_of(client)}")
        entries = [mark for mark, _ in client.seen.received if isinstance(mark, str)]

        await client.say({"type": "ack", "cursor": entries[4], "direct": 0})

        await eventually(lambda: site.redis.xlen(mailbox) == 16, "five are gone")


def results(site: Site, client: Client) -> list[Any]:
    """The large result of its call "one", if it stands aside."""
    found: list[Any] = site.redis.keys(site.key(f"result:{client.call_id('one')}:*"))
    return found


async def test_a_large_result_stands_aside_until_it_is_acknowledged(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        await client.call("held", "held-async.children", tag)  # keeps a poll from ending at once
        await client.call("one", "large.children", 3_000_000)
        if isinstance(client, WebsocketClient):
            await client.outcome("one")
            (result,) = results(site, client)
            assert site.redis.strlen(result) > 3_000_000

        assert len(await client.children("one")) == 3_000_000
        await client.ack()

        await eventually(lambda: not results(site, client), "the result is removed", 8)
        site.go(tag)
        assert await client.outcome("held")


async def test_a_large_result_is_removed_after_a_reconnect_as_well(site: Site) -> None:
    async with WebsocketClient(site.first) as client:
        await client.call("one", "large.children", 300_000)
        await client.outcome("one")
        assert results(site, client)
        await client.cut()
        await client.connect(site.second)

        await client.ack()

        await eventually(lambda: not results(site, client), "the result is removed")


async def test_cancel_stops_a_running_call(site: Site, make_client: MakeClient, tag: str) -> None:
    async with make_client() as client:
        await client.call("loop", "held-async.children", tag)
        await client.call("process", "held.children", f"{tag}p")
        await eventually(lambda: site.pids(tag, "started"), "one runs")
        (pid,) = await eventually(lambda: site.pids(f"{tag}p", "started"), "the other runs")

        await client.cancel("loop")
        await client.cancel("process")

        assert (await client.outcome("loop"))["status"] == "prevent_update"
        assert (await client.outcome("process"))["status"] == "prevent_update"
        await eventually(lambda: site.pids(tag, "cancelled"), "CancelledError reached it")
        await eventually(lambda: not alive(pid), "its process is killed")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_cancelled_call_that_waits_never_runs(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        for number in range(4):  # all processes of both workers
            await client.call(f"busy {number}", "held.children", f"{tag}b{number}")
        for number in range(4):
            await eventually(partial(site.pids, f"{tag}b{number}", "started"), "all are busy")
        await client.call("waits", "held.children", tag)
        await client.cancel("waits")
        assert (await client.outcome("waits"))["status"] == "prevent_update"
        waiting = site.key("waiting:default:process")
        assert site.redis.zcard(waiting) == 0

        for number in range(4):
            site.go(f"{tag}b{number}")
            await client.outcome(f"busy {number}")
        await client.call("last", "steps.children", 1)
        await client.outcome("last")
        assert site.pids(tag, "started") == []


@pytest.mark.parametrize("place", ["web", "web-def", "loop", "thread", "process"])
async def test_python_code_cancels_a_call_by_its_id(
    site: Site, make_client: MakeClient, tag: str, place: str
) -> None:
    async with make_client() as client, make_client() as other:
        await client.call("runs", "held-async.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        await other.call("ends it", f"cancels-{place}.children", client.call_id("runs"))
        assert await other.children("ends it") is True
        assert (await client.outcome("runs"))["status"] == "prevent_update"
        await eventually(lambda: site.pids(tag, "cancelled"), "it is stopped")
        await other.call("again", f"cancels-{place}.children", client.call_id("runs"))
        assert await other.children("again") is False, "it has ended"


async def test_nobody_else_can_cancel_a_call(site: Site, make_client: MakeClient, tag: str) -> None:
    async with make_client() as owner, make_client() as stranger:
        await owner.call("one", "held-async.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")

        await stranger.cancel("one", page=owner.page)
        await stranger.call("own", "echo.children", "heard")
        await stranger.children("own")

        site.go(tag)
        assert (await owner.children("one")).startswith(tag)
        assert not site.pids(tag, "cancelled")


async def test_nobody_else_can_end_a_callback_of_the_web_process(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as owner, make_client() as stranger:
        await owner.call("one", "local-held.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")

        await stranger.cancel("one", page=owner.page)
        await stranger.say({"type": "bye", "page": owner.page})
        await stranger.call("own", "local.children", "heard")
        await stranger.children("own")

        assert not site.pids(tag, "cancelled")
        site.go(tag)
        assert (await owner.children("one")).startswith(tag)


async def test_nobody_else_gets_a_result(site: Site, make_client: MakeClient, tag: str) -> None:
    """Who repeats page and request of somebody else's call learns nothing, not that there is one.

    They ask for a call of their own, whether that exists or not.
    """
    answers: dict[str, list[Message]] = {}
    async with make_client() as owner:
        await owner.call("one", "held-async.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        for request, age_s in itertools.product(("one", "none"), (0.0, 5.0, 10_000.0)):
            async with make_client(site.second) as stranger:
                stranger.page = owner.page
                asked = message(request, stranger, "echo.children", "own")
                stranger.pending[request] = asked
                await stranger.say(asked | {"age_s": age_s})
                answers.setdefault(request, []).append(await stranger.outcome(request))
        site.go(tag)

        assert (await owner.children("one")).startswith(tag)
        assert len(site.pids(tag, "started")) == 1
        assert not owner.seen.strays
    assert answers["one"] == answers["none"]
    assert [answer["status"] for answer in answers["one"]] == ["ok", "ok", "error"]


async def test_a_call_of_a_lost_session_is_not_run_again(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    """The script says so of calls that it has sent in a session that it cannot take up again."""
    async with make_client() as client:
        await client.call("one", "held-async.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        sent = client.pending["one"]
        await client.cut()
        client.session = client.cursor = None
        await client.connect(site.second, again=False)
        await client.say(sent | {"age_s": 1.0, "lost_session": True})
        answer = await client.outcome("one")
        site.go(tag)
        assert answer["status"] == "error"
        assert "cannot be delivered" in answer["message"]
        assert len(site.pids(tag, "started")) == 1


async def test_a_cancel_input_ends_the_call(site: Site, make_client: MakeClient, tag: str) -> None:
    async with http(site.first) as plain:
        known = (await plain.get("/_dash-dependencies")).json()
    (button,) = [entry for entry in known if entry["output"].startswith("stop.id@")]
    assert button["hidden"]
    async with make_client() as client:
        await client.call("one", "cancellable.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        payload = {
            "output": button["output"],
            "outputs": {"id": "stop", "property": button["output"].partition(".")[2]},
            "inputs": [{"id": "stop", "property": "n_clicks", "value": 1}],
            "changedPropIds": ["stop.n_clicks"],
        }

        await client.ask("stop", payload)

        assert (await client.outcome("one"))["status"] == "prevent_update"
        assert (await client.outcome("stop"))["status"] == "prevent_update"


async def test_twenty_slow_calls_and_a_fast_one(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        for number in range(20):
            await client.call(f"slow {number}", "held-async.children", f"{tag}{number}")
        await client.call("fast", "local.children", "now")
        await client.call("fast too", "echo.children", "now")

        assert (await client.children("fast")).endswith("now")
        assert await client.children("fast too") == "now"

        assert not any(name.startswith("slow") for name in client.seen.outcomes)
        for number in range(20):
            site.go(f"{tag}{number}")
        for number in range(20):
            assert (await client.children(f"slow {number}")).startswith(f"{tag}{number}")


REFUSED = {
    "unknown": {"output": "nothing.children", "inputs": [], "changedPropIds": []},
    "not for websockets": {
        "output": "local-plain.children",
        "outputs": {"id": "local-plain", "property": "children"},
        "inputs": [{"id": "in", "property": "data", "value": 1}],
        "changedPropIds": ["in.data"],
    },
    "too few inputs": {"output": "echo.children", "inputs": [], "changedPropIds": []},
    "no object": [1, 2],
    "a string": "run this",
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=REFUSED)
async def test_a_refused_call_is_answered(
    site: Site, make_client: MakeClient, payload: Any
) -> None:
    async with make_client() as client:
        await client.ask("one", payload)
        assert (await client.outcome("one"))["status"] == "error"
        await client.call("two", "echo.children", "goes on")
        assert await client.children("two") == "goes on"


# --- callbacks of the web process ---------------------------------------------------------------


async def test_callbacks_of_the_web_process_answer(site: Site, make_client: MakeClient) -> None:
    pids = {str(web.pid) for web in site.stack.webs}
    async with make_client() as client:
        await client.call("async", "local.children", "a")
        await client.call("def", "local-def.children", "d")
        await client.call("steps", "local-steps.children", 50)

        for name in ("async", "def"):
            kind, pid, value = (await client.children(name)).split()
            assert (kind, value) == ("web", name[0])
            assert pid in pids
        assert await client.children("steps") == "50 steps"
        assert client.props == list(range(50))


async def test_the_websocket_is_answered_directly(site: Site) -> None:
    async with WebsocketClient(site.first) as client:
        await client.call("one", "local.children", "a")
        await client.outcome("one")
        assert client.direct == 1
        assert not site.redis.exists(site.key(f"mailbox:{session_of(client)}"))


async def test_a_direct_answer_that_was_not_confirmed_comes_by_mail(site: Site) -> None:
    """The socket is cut before the acknowledgement, perhaps before the answer came at all."""
    async with WebsocketClient(site.first) as client:
        await client.call("one", "local.children", "a")
        await client.outcome("one")
        await client.cut()
        # As if it had not come.
        client.pending["one"] = message("one", client, "local.children", "a")
        del client.seen.outcomes["one"]

        await client.connect(site.second, again=False)

        assert (await client.children("one")).endswith(" a")
        assert client.seen.received[-1].mark == client.cursor


async def test_a_confirmed_direct_answer_does_not_come_again(site: Site) -> None:
    async with WebsocketClient(site.first) as client:
        await client.call("one", "local.children", "a")
        await client.outcome("one")
        await client.ack()
        await client.say({"type": "ping"})  # behind the acknowledgement
        await client.until(lambda: client.seen.controls, "pong")
        await client.cut()

        await client.connect(site.second)
        await client.call("two", "echo.children", "b")
        await client.outcome("two")

        assert not client.seen.strays


def message(request: str, client: Client, output: str, value: object) -> Message:
    payload = body(output, {"in.data": value})
    return {"type": "call", "page": client.page, "request": request, "payload": payload}


@pytest.mark.parametrize("output", ["local-held.children", "local-held-def.children"])
async def test_a_local_answer_finds_the_page_on_another_web_process(
    site: Site, make_client: MakeClient, tag: str, output: str
) -> None:
    async with make_client() as client:
        await client.call("one", output, tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        await client.cut()
        # The other process does not know of it: what it would run must not be needed.
        await client.connect(site.second, again=False)
        site.go(tag)

        assert (await client.children("one")).endswith(str(site.stack.webs[0].pid))
        assert not client.seen.strays


async def test_a_repeated_local_call_runs_once_in_its_process(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        await client.call("one", "local-held.children", tag)
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        await client.cut()
        await client.connect(site.first)
        site.go(tag)
        assert (await client.children("one")).startswith(tag)
        await client.say(message("one", client, "local-held.children", tag))
        await client.call("two", "local.children", 2)
        await client.outcome("two")

        assert len(site.pids(tag, "started")) == 1
        assert not client.seen.strays


async def test_a_local_call_of_a_new_session_is_answered(site: Site, tag: str) -> None:
    """A script whose handle is not valid any more says hello again, and sends its calls again."""
    async with WebsocketClient(site.first) as client:
        await client.call("one", "local-held.children", tag)
        await client.call("ended", "local.children", "a")
        await eventually(lambda: site.pids(tag, "started"), "it runs")
        await client.outcome("ended")
        await client.cut()
        client.session = client.cursor = None
        client.pending["ended"] = message("ended", client, "local.children", "a")
        del client.seen.outcomes["ended"]

        await client.connect(site.first)

        assert await client.outcome("ended")
        site.go(tag)
        assert await client.outcome("one")


@pytest.mark.parametrize("output", ["local-get.children", "local-get-def.children"])
async def test_a_callback_asks_its_page(site: Site, make_client: MakeClient, output: str) -> None:
    async with make_client() as client:
        await client.call("one", output)
        await client.until(lambda: client.seen.questions, "a question")
        (question,) = client.seen.questions
        assert question["rendererId"] == client.page
        assert question["payload"] == {"componentId": "shape", "properties": ["children"]}
        answer = {"type": "props", "page": client.page, "request": question["requestId"]}

        await client.say({**answer, "payload": {"children": "square"}})

        assert await client.children("one") == "the page says square"


async def test_bye_ends_what_streams_to_the_page(
    site: Site, make_client: MakeClient, tag: str
) -> None:
    async with make_client() as client:
        await client.call("one", "local-stream.children", tag)
        await client.until(lambda: len(client.props) > 3, "it streams")

        await client.say({"type": "bye", "page": client.page})

        await eventually(lambda: site.pids(tag, "ended"), "it ends")


async def test_all_connections_of_a_page_that_comes_and_goes(site: Site, tag: str) -> None:
    """Every socket is cut while updates run: all come, in order, and the outcome once."""
    async with WebsocketClient(site.first) as client:
        await client.call("one", "many.children", [tag, 200])
        for number in range(6):
            await client.cut()
            await client.connect((site.first, site.second)[number % 2])
        site.go(tag)
        assert await client.children("one") == "400 steps"
        assert client.props == list(range(400))
        assert not client.seen.strays


async def test_transports_can_be_changed(site: Site, tag: str) -> None:
    """The script falls back to long-poll, and takes the websocket back when it can."""
    first = WebsocketClient(site.first)
    await first.connect()
    await first.call("one", "many.children", [tag, 20])
    await first.call("local", "local-held.children", f"{tag}l")
    await eventually(lambda: site.pids(tag, "started"), "it holds")
    await eventually(lambda: site.pids(f"{tag}l", "started"), "both hold")
    await first.cut()
    second = LongPollClient(site.second)
    second.page, second.session, second.cursor = first.page, first.session, first.cursor
    second.pending, second.seen = first.pending, first.seen
    await second.connect(again=False)
    site.go(tag)
    site.go(f"{tag}l")

    assert await second.children("one") == "40 steps"
    assert await second.outcome("local")

    assert second.props == list(range(40))
    await second.cut()


async def test_long_poll_holds_and_answers_nothing(site: Site) -> None:
    client = LongPollClient(site.first)
    async with client.open_http() as client.http:
        await client.say()
        began = asyncio.get_running_loop().time()
        answer = await client.poll()
        assert (answer.status_code, answer.json()) == (200, [])
        assert asyncio.get_running_loop().time() - began > 1.3


async def test_post_beside_it(site: Site) -> None:
    """The same callbacks over plain POST."""
    async with http(site.second) as client:
        assert written(await post(client, "echo.children", "x")) == "x"


async def test_the_longest_message_follows_the_setting(site: Site) -> None:
    """Hypercorn has a limit of its own: shorter ones would be cut off, longer ones inflated."""
    large = site.stack.web(max_request_bytes=str(18 * 2**20))
    async with WebsocketClient(large) as client:
        await client.call("one", "local.children", "x" * (17 * 2**20))
        assert len(await client.children("one")) > 17 * 2**20
    async with WebsocketClient(site.first) as client:
        await client.call("one", "local.children", "x" * 120_000)
        assert "DASH_DISPATCH_MAX_REQUEST_BYTES" in (await client.outcome("one"))["message"]
        await client.say({"type": "ping", "text": "x" * 200_000})
        assert (await client.close_code())[0] == 1009


async def test_too_large_a_send_is_refused(site: Site) -> None:
    async with LongPollClient(site.first).open_http() as client:
        answer: httpx.Response = await client.post(
            "send", content=b" " * 200_000, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413


class PiecewiseClient(WebsocketClient):
    """Puts large frames together, as the browser script does; counts the pieces."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pieces: list[str] = []

    def hello(self) -> Message:
        return {**super().hello(), "pieces": True}

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            text = str(await connection.recv())
            if text[0] in "+=":
                self.pieces.append(text)
            if text[0] != "+":
                self._take("".join(piece[1:] for piece in self.pieces) if text[0] == "=" else text)


async def test_a_large_result_comes_in_pieces_to_a_script_that_takes_them(site: Site) -> None:
    async with PiecewiseClient(site.first) as client:
        await client.call("one", "large.children", 3_000_000)

        assert len(await client.children("one")) == 3_000_000
        assert max(map(len, client.pieces)) < 300_000
        assert len(client.pieces) > 10
