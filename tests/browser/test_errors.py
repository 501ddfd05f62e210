"""What a page is told when a callback fails."""

import pytest
from playwright.sync_api import expect

from tests.browser.tab import WITHIN_MS, Gates, Tab

pytestmark = pytest.mark.browser

SECRET = "a secret detail"
DEV_TOOLS = ".dash-debug-menu__outer"


def fail(tab: Tab, gates: Gates, kind: str) -> None:
    gates.open(f"{tab.tag}-task")
    tab.fill("what", "raise")
    tab.click(f"{kind}-start")
    tab.shows(f"{kind}-state", "idle")


def test_in_production_no_detail(tab: Tab, gates: Gates) -> None:
    fail(tab, gates, "task-def")
    [error] = tab.take_errors()
    assert "The callback failed. The server's log has the details" in error
    told = "\n".join([*tab.console, tab.page.content()])
    assert SECRET not in told
    assert "Traceback" not in told
    expect(tab.page.locator(DEV_TOOLS)).to_have_count(0)


@pytest.mark.parametrize("transport", ["websocket"])
class TestWithDevTools:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_debug"

    @pytest.mark.parametrize("kind", ["task-def", "task-async"])
    def test_the_whole_traceback(self, tab: Tab, gates: Gates, kind: str) -> None:
        fail(tab, gates, kind)
        tab.page.click(".test-devtools-error-toggle")
        card = tab.page.locator(".dash-error-card")
        for words in (f"ValueError: {SECRET} of {tab.tag}", "Traceback", "in finish", "worker "):
            expect(card).to_contain_text(words, timeout=WITHIN_MS)
        [error] = tab.take_errors()
        assert SECRET in error
