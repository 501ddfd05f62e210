"""Every form × where it runs × how it travels: the page ends as it does on stock Dash.

Nothing is asserted by hand here: each form is played on stock Dash, and its ending there, the whole
state of the page, is what it has to come to everywhere else.
"""

import asyncio
import contextlib
import json
import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import httpx
import pytest

from tests.apps import parity_forms
from tests.client import LongPollClient, WebsocketClient
from tests.conftest import StackFactory
from tests.parity.page import Ending, Page, Spec, Transport
from tests.parity.transports import post, stock_websocket, streaming
from tests.stack import Stack

PLACES = ("loop", "thread", "worker-loop", "worker-thread", "worker-process")
TRANSPORTS = ("websocket", "long-poll", "post")
ALL_FORMS = {**parity_forms.FORMS, **parity_forms.PAGE_FORMS}
HEADERS = {
    "Cookie": "; ".join(f"{n}={v}" for n, v in parity_forms.REQUEST["cookies"].items()),
    parity_forms.REQUEST["header"][0]: parity_forms.REQUEST["header"][1],
    "User-Agent": parity_forms.REQUEST["agent"],
}
ROUTER = "_pages_content"
PLAY_S = 300.0
"""All are played at once, so that each takes about as long as all of them."""
FORM = re.compile(r"[\w-]+~\w+(?=~)")

pytestmark = pytest.mark.timeout(600)


@cache
def kits_of(place: str) -> dict[str, Any]:
    """The forms, as they are in this place: their ids and steps."""
    kits = [*parity_forms.build(place), *parity_forms.build(place, pages=True)]
    return {kit.name: kit for kit in kits}


STOCK = kits_of("stock")


class Server:
    """An app as a browser finds it.

    Args:
        address: Where it is.
        layout: The children of its layout.
        specs: Its callbacks.
    """

    def __init__(self, address: str, layout: list[Any], specs: list[Spec]) -> None:
        self.address = address
        self._page = [part for part in layout if part["type"] != "Section"]
        self._sections = by_form(part for part in layout if part["type"] == "Section")
        self._router = [spec for spec in specs if ROUTER in spec["output"]]
        self._specs = by_form(specs)

    @classmethod
    def at(cls, address: str) -> "Server":
        """Ask an app."""
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            layout = client.get("/_dash-layout").json()["props"]["children"]
            return cls(address, layout, client.get("/_dash-dependencies").json())

    def specs_of(self, kit: Any) -> list[Spec]:
        """The callbacks of a form, and the router's for one on a page of its own."""
        own = self._specs.get(name_of(kit), [])
        return [*self._router, *own] if kit.visits else own

    def layout_of(self, kit: Any) -> list[Any]:
        """The components of a form."""
        return self._page if kit.visits else self._sections[name_of(kit)]


def name_of(kit: Any) -> str:
    """What the ids of a form begin with."""
    return str(kit.id("")).rstrip("~")


def by_form(parts: Iterable[Any]) -> dict[str, list[Any]]:
    """Things by the form whose ids are in them."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name in set(FORM.findall(json.dumps(part, ensure_ascii=False))):
            found.setdefault(name, []).append(part)
    return found


@dataclass
class Played:
    """All endings: form, place and transport → ending."""

    stock: Server
    ours: Server
    post: dict[str, Ending]
    websocket: dict[str, Ending]
    endings: dict[tuple[str, str, str], Ending]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, make_shared_stack: StackFactory) -> Iterator[Played]:
    """Every form that is asked for, played everywhere."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    wanted = {str(each["name"]) for each in params if "name" in each}
    stock_stack = make_shared_stack("parity_stock")
    stack = make_shared_stack("parity_dispatch", processes="2", threads="8")
    with pytest.MonkeyPatch.context() as environment:
        # The order of sets is part of some messages.
        environment.setenv("PYTHONHASHSEED", "0")
        stock_address = stock_stack.web(wait=False)
        (address,) = stack.up()
    stock_stack._await_web(stock_address, stock_stack.webs[0])
    yield asyncio.run(play_all(wanted, Server.at(stock_address), Server.at(address)))
    assert_quiet(stack)


def assert_quiet(stack: Stack) -> None:
    """The server itself had no trouble."""
    for web in stack.webs:
        for line in ("Task exception was never retrieved", "Exception in ASGI"):
            assert line not in web.log, web.log


async def play_all(wanted: set[str], stock: Server, ours: Server) -> Played:
    """These forms everywhere, at once."""
    stock_kits = {name: kit for name, kit in STOCK.items() if name in wanted}
    async with contextlib.AsyncExitStack() as opened:
        stock_post = await opened.enter_async_context(post(stock.address, HEADERS))
        stock_ws = await opened.enter_async_context(stock_websocket(stock.address, HEADERS))
        transports: dict[str, Transport] = {
            "websocket": await opened.enter_async_context(
                streaming(WebsocketClient, ours.address, HEADERS)
            ),
            "long-poll": await opened.enter_async_context(
                streaming(LongPollClient, ours.address, HEADERS)
            ),
            "post": await opened.enter_async_context(post(ours.address, HEADERS)),
        }
        post_endings, websocket_endings, endings = await asyncio.gather(
            play_each({name: (stock, kit, stock_post) for name, kit in stock_kits.items()}),
            play_each({name: (stock, kit, stock_ws) for name, kit in stock_kits.items()}),
            play_each(
                {
                    (name, place, way): (ours, kit, transport)
                    for place in PLACES
                    for name, kit in kits_of(place).items()
                    if name in wanted
                    for way, transport in transports.items()
                }
            ),
        )
    return Played(stock, ours, post_endings, websocket_endings, endings)


async def play_each(cases: dict[Any, tuple[Server, Any, Transport]]) -> dict[Any, Ending]:
    """Play these at once."""
    endings = await asyncio.gather(*(play(*case) for case in cases.values()))
    return dict(zip(cases, endings, strict=True))


async def play(server: Server, kit: Any, transport: Transport) -> Ending:
    """Do what a form's user does; returns the page's ending, free of the names of the place."""
    page = Page(name_of(kit), server.layout_of(kit), server.specs_of(kit), transport)
    try:
        async with asyncio.timeout(PLAY_S):
            if kit.visits:
                await page.change([("_pages_location", "pathname", kit.visits)])
            else:
                await page.load()
            for step in kit.steps:
                await page.change(step)
    except Exception:  # noqa: BLE001 - it is this case that fails, not all of them
        page.ending.trouble = traceback.format_exc()
    return plain(page.ending, kit, server.address)


_HASH = re.compile(r"@[0-9a-f]{64}")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def plain(ending: Ending, kit: Any, address: str) -> Ending:
    """An ending without what is different in each place: ids, hashes of ids, addresses."""
    text = json.dumps(asdict(ending), sort_keys=True)
    text = unnamed(text, kit).replace(address, "server")
    return Ending(**json.loads(_ADDRESS.sub("0x", text)))


def unnamed(text: str, kit: Any) -> str:
    """A text without the names that a place gives to ids and paths."""
    text = text.replace(name_of(kit), kit.name).replace(f"/{kit.tag}/", "/")
    return _HASH.sub("@hash", text)


CASES = [
    pytest.param(name, place, way, id=f"{name}-{place}-{way}")
    for name in ALL_FORMS
    for place in PLACES
    for way in TRANSPORTS
]


@pytest.mark.parametrize(("name", "place", "way"), CASES)
def test_the_page_ends_as_on_stock_dash(played: Played, name: str, place: str, way: str) -> None:
    ending, form = played.endings[name, place, way], STOCK[name]
    posted, streamed = played.post[name], played.websocket[name]
    if way == "post":
        # Stock's page of an error may have an error of its own.
        assert ending == (posted if not form.worded else replace(posted, errors=ending.errors))
        assert len(ending.errors) == len(posted.errors)
        return
    assert not ending.trouble, ending.trouble
    if form.refused:
        assert ending.answers == ["error"]
        assert "cannot be sent" in ending.errors[0]
        return
    assert ending.state == (streamed if form.streamed else posted).state
    assert ending.answers == (posted if form.lost_by_stock else streamed).answers
    if form.worded:
        assert len(ending.errors) == len(posted.errors)
    elif form.streamed:
        # Stock's websocket leaves the kind of an error out.
        assert without_kinds(ending) == streamed.errors
    else:
        assert ending.errors == posted.errors


def without_kinds(ending: Ending) -> list[str]:
    """The messages of its errors."""
    return [error.partition(": ")[2] for error in ending.errors]


@pytest.mark.parametrize("name", ALL_FORMS)
def test_where_stocks_transports_differ_the_form_says_why(played: Played, name: str) -> None:
    """Else one of them would have been taken as the measure by chance."""
    kit, posted, streamed = STOCK[name], played.post[name], played.websocket[name]
    assert not posted.trouble, posted.trouble
    assert not streamed.trouble, streamed.trouble
    same = posted.state == streamed.state
    assert same != bool(kit.streamed or kit.lost_by_stock)


@pytest.mark.parametrize("name", ALL_FORMS)
def test_the_browser_is_told_the_same_about_a_callback(played: Played, name: str) -> None:
    stock = STOCK[name]
    expected = [told(spec, stock) for spec in played.stock.specs_of(stock)]
    for place in PLACES:
        kit = kits_of(place)[name]
        assert [told(spec, kit) for spec in played.ours.specs_of(kit)] == expected, place


def told(spec: Spec, kit: Any) -> Spec:
    """A callback's description, without what is ours."""
    ours = {"dispatch", "websocket"}
    text = json.dumps({key: value for key, value in spec.items() if key not in ours})
    plain_spec: Spec = json.loads(unnamed(text, kit))
    if spec["no_output"]:
        # A hash of inputs, or of a line of the app's.
        plain_spec["output"] = "no output"
    return plain_spec


@pytest.mark.parametrize("place", PLACES)
async def test_the_query_of_a_post_is_on_ctx(played: Played, place: str) -> None:
    endings = []
    for server, tag in ((played.stock, "stock"), (played.ours, place)):
        async with post(server.address, HEADERS, "?a=1&many=2&many=3") as transport:
            endings.append(await play(server, kits_of(tag)["ctx_of_the_request"], transport))
    assert endings[0] == endings[1]
    assert endings[0].answers == ["ok", "ok"]


@pytest.mark.parametrize("place", PLACES)
def test_an_api_endpoint_answers_as_on_stock_dash(played: Played, place: str) -> None:
    for path in ("api", "broken"):
        for body in ({"n_clicks": 3}, {}):
            answers = [
                httpx.post(f"{server.address}/{path}/{tag}", json=body, timeout=30, trust_env=False)
                for server, tag in ((played.stock, "stock"), (played.ours, place))
            ]
            stock, ours = answers
            assert ours.status_code == stock.status_code == (200 if path == "api" else 500)
            assert ours.headers["Content-Type"] == stock.headers["Content-Type"]
            if stock.status_code == 200:
                assert ours.json() == stock.json()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("what", "status"), [("values", 200), ("nothing", 200), ("prevented", 204), ("component", 500)]
)
def test_an_api_endpoint_returns_what_it_does_on_stock_dash(
    played: Played, place: str, what: str, status: int
) -> None:
    answers = [
        httpx.post(f"{server.address}/odd/{tag}", json={"what": what}, timeout=30, trust_env=False)
        for server, tag in ((played.stock, "stock"), (played.ours, place))
    ]
    stock, ours = answers
    assert ours.status_code == stock.status_code == status
    assert ours.headers["Content-Type"] == stock.headers["Content-Type"]
    if what != "component":
        assert ours.content == stock.content


def test_an_api_endpoint_runs_where_its_callback_does(played: Played) -> None:
    found = {}
    for place in PLACES:
        url = f"{played.ours.address}/where/{place}"
        answer = httpx.post(url, json={"seconds": 0}, timeout=30, trust_env=False)
        found[place] = tuple(answer.json())
    assert found["loop"][0] == found["thread"][0]
    assert found["worker-loop"][0] == found["worker-thread"][0]
    assert len({pid for pid, _ in found.values()}) == 3, "web, worker, and a process of its own"
    assert len(set(found.values())) == len(PLACES)
