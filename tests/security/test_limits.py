"""What a browser may ask for is bounded, and what it is told of a failure says nothing of the app.

What has a setting is tested beside it (``tests/integration/test_bounds.py``, ``test_store.py``);
here is what has none, and what could get past one.
"""

import gzip
import json

import psutil
import pytest

from tests.client import Client, LongPollClient, Message, WebsocketClient, http, post
from tests.security.conftest import STATE, Site
from tests.stack import body, eventually

DETAIL = "a detail of the app's inside"
JSON = {"Content-Type": "application/json"}
TRANSPORTS = pytest.mark.parametrize("kind", [WebsocketClient, LongPollClient])


# --- bounds -------------------------------------------------------------------------------------

LONG: dict[str, Message] = {
    "page": {"type": "bye", "page": "p" * 201},
    "request": {"type": "cancel", "page": "p", "request": "r" * 201},
    "cursor": {"type": "ack", "cursor": "1" * 101},
    "handle": {"type": "hello", "version": 1, "session": "h" * 1001},
}


@pytest.mark.parametrize("name", LONG)
async def test_a_name_that_is_kept_is_short(site: Site, name: str) -> None:
    """Pages and requests are kept for as long as a page is open: a thousand of 16 MB would be."""
    async with WebsocketClient(site.address) as client:
        await client.say(LONG[name])
        code, reason = await client.close_code()
        assert code == 4002
        assert "length" in reason
    async with LongPollClient(site.address).open_http() as poller:
        sent = {"version": 1, "messages": [LONG[name]]}
        assert (await poller.post("send", json=sent)).status_code == 400
        if name in ("handle", "cursor"):
            polled = {"version": 1, "session": "x", **{"handle": {"session": "h" * 1001},
                      "cursor": {"cursor": "1" * 101}}[name]}  # fmt: skip
            assert (await poller.post("poll", json=polled)).status_code == 400


@TRANSPORTS
async def test_a_browser_has_so_many_pages(site: Site, kind: type[Client]) -> None:
    async with kind(site.address) as client:
        request = body("local.children", {"in.data": 1}, state=STATE)
        calls = [
            {"type": "call", "page": f"page {n}", "request": f"{n}", "payload": request}
            for n in range(1001)
        ]
        for start in range(0, len(calls), 250):
            await client.say(*calls[start : start + 250])

        def answered() -> set[str]:
            # Some come a second time by mail: the client confirms none.
            return {m["requestId"] for m in client.seen.strays}

        await client.until(lambda: len(answered()) == 1001, "an answer to each")
        refused = [m for m in client.seen.strays if m["payload"]["status"] == "error"]
        assert {m["requestId"] for m in refused if "pages are open" in str(m)} == {"1000"}


@TRANSPORTS
async def test_calls_of_the_web_process_are_counted_too(site: Site, kind: type[Client]) -> None:
    """Those that have not ended; here they wait for an answer of the page."""
    async with kind(site.address) as client:
        for number in range(51):
            await client.call(f"{number}", "asks.children", state=STATE)
        refused = await client.outcome("50")
        assert refused["status"] == "error"
        assert "DASH_DISPATCH_MAX_SESSION_CALLS" in refused["message"]
        await client.say({"type": "bye", "page": client.page})
        await client.until(lambda: len(client.seen.outcomes) == 51, "all have ended")
        await client.call("again", "local.children", state=STATE)
        assert (await client.outcome("again"))["status"] == "ok"


async def test_a_compressed_body_is_not_unpacked(site: Site) -> None:
    """What would be 100 MB is the few bytes that it is: not JSON."""
    bomb = gzip.compress(b" " * 100_000_000)
    headers = {**JSON, "Content-Encoding": "gzip", "Origin": site.address}
    before = rss_mb(site)
    async with http(site.address) as client:
        for path in ("/_dash-update-component", "/_dash-dispatch/send", "/_dash-dispatch/poll"):
            answer = await client.post(path, content=bomb, headers=headers)
            assert answer.status_code == 400
    assert rss_mb(site) < before + 50


async def test_a_compressed_message_is_unpacked_to_a_bound(site: Site) -> None:
    """The server below us inflates, no further than one message may be long, and lets go of it."""
    before = rss_mb(site)
    for _ in range(3):
        async with WebsocketClient(site.address) as client:
            assert "permessage-deflate" in str(client.connection.response)
            await client.connection.send(b" " * 20_000_000)
            assert (await client.close_code())[0] == 1009
    assert rss_mb(site) < before + 300
    async with WebsocketClient(site.address) as client:
        await client.call("one", "local.children", state=STATE)
        assert (await client.outcome("one"))["status"] == "ok"


def rss_mb(site: Site) -> float:
    return float(psutil.Process(site.stack.webs[0].pid).memory_info().rss) / 2**20


async def test_large_headers_are_refused_before_us(site: Site) -> None:
    async with http(site.address) as client:
        answer = await client.get("/_dash-layout", headers={"Cookie": f"x={'y' * 100_000}"})
        assert 400 <= answer.status_code < 500


async def test_repeated_keys_are_one_request(site: Site) -> None:
    """The last counts, for us and for whoever would look before us; and it is one callback."""
    async with http(site.address) as client:
        request = json.dumps(body("local.children", {"in.data": 1}, state=STATE))
        twice = f'{{"output":"nothing.children",{request[1:]}'
        answer = await client.post("/_dash-update-component", content=twice, headers=JSON)
        assert answer.json()["response"] == {"local": {"children": "1"}}


# --- what is said of a failure ------------------------------------------------------------------


@TRANSPORTS
@pytest.mark.parametrize("output", ["fails.children", "fails-local.children"])
async def test_a_page_learns_that_a_callback_failed_and_no_more(
    site: Site, kind: type[Client], output: str
) -> None:
    async with kind(site.address) as client:
        await client.call("one", output, state=STATE)
        refused = await client.outcome("one")
        assert refused["status"] == "error"
        assert says_nothing(str(client.seen.received))


@pytest.mark.parametrize("output", ["fails.children", "fails-local.children"])
async def test_nor_does_who_posts(site: Site, output: str) -> None:
    async with http(site.address) as client:
        answer = await post(client, output, state=STATE)
        assert answer.status_code == 500
        assert says_nothing(answer.text)


async def test_nor_of_code_around_callbacks(site: Site) -> None:
    """``Dash(user=...)`` and the layout."""
    broken: dict[str, str | None] = {"Cookie": "broken=1"}
    for kind in (WebsocketClient, LongPollClient):
        async with kind(site.address, headers=broken) as client:
            await client.call("one", "offloaded.children", state=STATE)
            assert (await client.outcome("one"))["status"] == "error"
            assert says_nothing(str(client.seen.received))
    (site.stack.folder / "broken").touch()
    async with http(site.address) as plain:
        request = body("offloaded.children", {"in.data": 1}, state=STATE)
        answer = await plain.post(
            "/_dash-update-component", json=request, headers={"Cookie": "broken=1"}
        )
        assert answer.status_code == 403
        assert says_nothing(answer.text)
        answer = await plain.get("/_dash-layout")
        assert answer.status_code == 500
        assert says_nothing(answer.text)
    (site.stack.folder / "broken").unlink()
    await eventually(lambda: DETAIL in site.log, "the log says it")


def says_nothing(text: str) -> bool:
    """Neither words of the app, nor names of its files and classes."""
    hidden = (DETAIL, "Traceback", "RuntimeError", ".py", "File ", "user_of")
    return not any(word in text for word in hidden)
