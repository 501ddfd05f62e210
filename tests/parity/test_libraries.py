"""A component library that a callback imports: its page gets it, as on stock Dash.

Not among the forms of the matrix: what one callback imports is imported for all that run beside
it, on stock Dash as well, and would be their error.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.apps.libraries import PLACES, WAYS, name_of
from tests.client import LongPollClient, WebsocketClient
from tests.components import write_library
from tests.conftest import StackFactory
from tests.parity.page import Answer, Transport
from tests.parity.transports import post, streaming
from tests.stack import Stack, body

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Site:
    """Stock Dash and dash_dispatch, with the same libraries at hand."""

    stock: str
    ours: str
    stack: Stack


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Site:
    stock, stack = make_shared_stack("libraries_stock"), make_shared_stack("libraries_dispatch")
    for way, place, allowed in itertools.product(WAYS, PLACES, (True, False)):
        write_library(stock.folder, name_of(f"stock-{place}", way, allowed))
        write_library(stack.folder, name_of(place, way, allowed))
    address = stock.web(wait=False)
    (ours,) = stack.up()
    stock._await_web(address, stock.webs[0])
    return Site(address, ours, stack)


@pytest.fixture
async def ways(site: Site) -> AsyncIterator[dict[str, Transport]]:
    async with AsyncExitStack() as opened:
        yield {
            "stock": await opened.enter_async_context(post(site.stock, {})),
            "websocket": await opened.enter_async_context(
                streaming(WebsocketClient, site.ours, {})
            ),
            "long-poll": await opened.enter_async_context(streaming(LongPollClient, site.ours, {})),
            "post": await opened.enter_async_context(post(site.ours, {})),
        }


async def click(transport: Transport, name: str, clicks: int = 1) -> Answer:
    payload = body(f"{name}-out.children", {f"{name}-in.n_clicks": clicks})
    return await transport.ask(name, payload, lambda *_: None)


def files(answer: Answer, name: str) -> list[tuple[str, str]]:
    """What a page is told to load of a library."""
    found = answer.data.get("dist", [])
    return [(item["type"], item["url"]) for item in found if f"/{name}/" in item["url"]]


def unnamed(value: Any, name: str) -> str:
    """What is left of it without the library's name and the age of its files."""
    return repr(value).replace(name, "library")


async def fetched(address: str, answer: Answer, name: str) -> list[tuple[int, str, str]]:
    async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
        answers = [await client.get(url) for _, url in files(answer, name)]
    return [(a.status_code, a.headers["Content-Type"], unnamed(a.text, name)) for a in answers]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
class TestALibraryThatACallbackImports:
    async def test_is_loaded_by_the_page(
        self, site: Site, ways: dict[str, Transport], place: str, way: str
    ) -> None:
        stock_name, name = name_of(f"stock-{place}", way, True), name_of(place, way, True)
        stock, ours = await click(ways["stock"], stock_name), await click(ways[way], name)
        assert ours.status == stock.status == "ok"
        assert unnamed(ours.data["response"], name) == unnamed(stock.data["response"], stock_name)
        assert [kind for kind, _ in files(ours, name)] == ["_js_dist", "_css_dist"]
        served = await fetched(site.ours, ours, name)
        assert served == await fetched(site.stock, stock, stock_name)
        assert [status for status, *_ in served] == [200, 200]

    async def test_is_loaded_by_later_pages_too(
        self, ways: dict[str, Transport], place: str, way: str
    ) -> None:
        name = name_of(place, way, True)
        first = files(await click(ways[way], name), name)
        assert len(first) == 2
        for clicks in range(2, 6):
            assert files(await click(ways[way], name, clicks), name) == first

    async def test_is_an_error_unless_the_callback_may(
        self, ways: dict[str, Transport], place: str, way: str
    ) -> None:
        name = name_of(place, way, False)
        stock = await click(ways["stock"], name_of(f"stock-{place}", way, False))
        ours = await click(ways[way], name)
        assert ours.status == stock.status == "error"
        assert ours.error == stock.error


@pytest.mark.parametrize("package", ["json", "no_such_library", "tiny_worker"])
def test_nothing_else_is_imported_because_a_browser_names_it(site: Site, package: str) -> None:
    url = f"/_dash-component-suites/{package}/parts.js"
    answers = [
        httpx.get(f"{address}{url}", timeout=30, trust_env=False)
        for address in (site.stock, site.ours)
    ]
    assert answers[0].status_code == answers[1].status_code >= 400


def test_a_library_that_the_web_process_has_not_is_no_file(site: Site) -> None:
    redis = site.stack.redis.client()
    key = f"{site.stack.namespace}:libraries"
    redis.zadd(key, {"not_installed": 1, "os.path": 1, "a b": 1})
    for name in ("not_installed", "os.path", "os", "a b"):
        url = f"{site.ours}/_dash-component-suites/{name}/parts.js"
        answer = httpx.get(url, timeout=30, trust_env=False)
        assert answer.status_code >= 400
