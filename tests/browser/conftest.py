"""A browser, a stack that most tests share, and a proxy between them."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.browser.proxy import Proxy
from tests.browser.tab import Gates, Tab
from tests.programs import require_chromium
from tests.stack import RedisServer, Stack

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

TRANSPORTS = {"websocket": "websocket", "longpoll": "polling"}
"""How the tests call a transport → how the page calls it."""

EVIDENCE = pytest.StashKey[dict[str, Callable[[], str]]]()
"""What a test's failure is reported with: title → what to say."""

_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is reported with what the page and the processes said."""
    report = yield
    if report.failed:
        report.sections += [(name, say()) for name, say in item.stash.get(EVIDENCE, {}).items()]
    return report


def show_on_failure(request: pytest.FixtureRequest, title: str, say: Callable[[], str]) -> None:
    """Report the test's failure with this, too."""
    request.node.stash.setdefault(EVIDENCE, {})[title] = say


# Scope "package" and not "session": as long as Playwright's synchronous API is at work this thread
# counts as one that runs an event loop, and tests of others could not start theirs.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, one for all tests here."""
    executable = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Site:
    """An app with one web process and one worker; a test may start more, and ends those itself."""

    stack: Stack
    port: int
    gates: Gates


Serve = Callable[..., Site]


@pytest.fixture(scope="package")
def serve(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serves apps of ``tests/apps``, each once for all tests that ask for it."""
    stacks: list[Stack] = []

    @functools.cache
    def serve(app: str, prefix: str = "", *, worker: bool = True) -> Site:
        folder = tmp_path_factory.mktemp(app)
        stack = Stack(redis_server, app, folder, prefix, lease_s="2", processes="4")
        stacks.append(stack)
        if worker:
            stack.worker(wait=False)
        return Site(stack, port_of(stack.web()), Gates(folder))

    try:
        yield serve
    finally:
        for stack in stacks:
            stack.end()


def port_of(address: str) -> int:
    """The port in an address."""
    port = urlsplit(address).port
    assert port is not None
    return port


@pytest.fixture
def app_name() -> str:
    """The app under test; overridden where it is another."""
    return "browser_page"


@pytest.fixture
def prefix() -> str:
    """Its ``url_base_pathname``, without the last slash."""
    return ""


@pytest.fixture
def site(request: pytest.FixtureRequest, serve: Serve, app_name: str, prefix: str) -> Site:
    """The app under test, served."""
    site = serve(app_name, prefix)
    show_on_failure(request, "processes", site.stack.logs)
    return site


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Runs the test over a websocket, and over a proxy that refuses them."""
    name: str = TRANSPORTS[request.param]
    return name


@pytest.fixture
def proxy(site: Site, transport: str) -> Iterator[Proxy]:
    """Stands before the site, and lets the transport through and nothing else."""
    proxy = Proxy(site.port, refuse_upgrades=transport == "polling")
    try:
        yield proxy
        if transport == "polling":
            assert proxy.refusals
            assert not proxy.upgrades
        else:
            assert proxy.upgrades
    finally:
        proxy.end()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser that has never been anywhere."""
    context = chromium.new_context()
    try:
        yield context
    finally:
        context.close()


OpenTab = Callable[[], Tab]


@pytest.fixture
def open_tab(
    request: pytest.FixtureRequest, context: BrowserContext, site: Site
) -> Iterator[OpenTab]:
    """Opens tabs of one browser. At the end none may have errors that the test does not expect."""
    tabs: list[Tab] = []

    def open_tab() -> Tab:
        tab = Tab(context, f"t{next(_numbers)}")
        tabs.append(tab)
        show_on_failure(request, f"console of {tab.tag}", lambda: "\n".join(tab.console))
        return tab

    try:
        yield open_tab
        assert [tab.errors for tab in tabs if tab.errors] == []
    finally:
        for tab in tabs:
            site.gates.open(tab.tag)


@pytest.fixture
def tab(open_tab: OpenTab, proxy: Proxy, transport: str) -> Tab:
    """A tab with the page, connected by the transport."""
    tab = open_tab()
    tab.open(proxy.address, transport)
    return tab


@pytest.fixture
def gates(site: Site) -> Gates:
    """Opens the gates of the site's callbacks, and reads what they did."""
    return site.gates
