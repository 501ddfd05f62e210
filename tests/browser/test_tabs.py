"""Several tabs of one browser, and what becomes of the calls of one that closes."""

import pytest

from tests.browser.conftest import OpenTab
from tests.browser.proxy import Proxy
from tests.browser.tab import Gates, Tab

pytestmark = pytest.mark.browser


@pytest.fixture
def tabs(open_tab: OpenTab, proxy: Proxy, transport: str) -> tuple[Tab, Tab]:
    """Two tabs of one browser."""
    one, two = open_tab(), open_tab()
    one.open(proxy.address, transport)
    two.open(proxy.address, transport)
    return one, two


def test_share_one_worker_script_and_get_their_own_results(
    tabs: tuple[Tab, Tab], gates: Gates, proxy: Proxy, transport: str
) -> None:
    for tab in tabs:
        tab.watch("task-def-result")
        tab.click("task-def-start")
    for tab in tabs:
        gates.logged("task", tab.tag)
    for tab in reversed(tabs):
        gates.open(f"{tab.tag}-task")
        tab.shows("task-def-result", f"{tab.tag} done")
    for tab in tabs:
        assert tab.seen("task-def-result") == [f"{tab.tag} done"]
        assert len(gates.log("task", tab.tag)) == 1
    if transport == "websocket":
        assert proxy.upgrades == 1


def test_one_that_closes_says_so_and_the_other_goes_on(tabs: tuple[Tab, Tab], gates: Gates) -> None:
    stays, goes = tabs
    for tab in tabs:
        tab.click("tick")
        gates.logged("tick", tab.tag)
    goes.page.close()
    gates.logged("tick-ended", goes.tag)
    assert gates.log("tick-ended", stays.tag) == []

    before = stays.text("tick-count")
    stays.page.wait_for_function(
        "before => document.getElementById('tick-count').textContent !== before", arg=before
    )
    stays.page.close()
    gates.logged("tick-ended", stays.tag)


def test_a_reload_ends_the_streams_of_the_page_before(
    tab: Tab, gates: Gates, proxy: Proxy, transport: str
) -> None:
    tab.click("tick")
    gates.logged("tick", tab.tag)
    tab.open(proxy.address, transport)
    gates.logged("tick-ended", tab.tag)
    tab.click("quick-offloaded")
    tab.shows("quick-offloaded-answer", "offloaded 1")
