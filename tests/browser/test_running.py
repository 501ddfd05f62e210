"""``running=``: which components it means, and that it always ends; components that are missing."""

import pytest
from playwright.sync_api import expect

from tests.browser.proxy import Proxy
from tests.browser.tab import WITHIN_MS, Gates, Tab, dict_id
from tests.stack import wait_for

pytestmark = pytest.mark.browser

ROWS = (1, 2, 3)


@pytest.fixture
def app_name() -> str:
    return "browser_running"


def row_shows(tab: Tab, kind: str, texts: dict[int, str]) -> None:
    """Wait until the components of a kind show these texts."""
    for index, text in texts.items():
        found = tab.page.locator(dict_id(type=kind, index=index))
        expect(found).to_have_text(text, timeout=WITHIN_MS)


def go(tab: Tab, gates: Gates, index: int) -> None:
    tab.page.click(dict_id(type="go", index=index))
    gates.logged("row", tab.tag, index)


def is_idle(tab: Tab, index: int) -> None:
    row_shows(tab, "state", {index: "idle"})
    go_button = tab.page.locator(dict_id(type="go", index=index))
    expect(go_button).to_be_enabled(timeout=WITHIN_MS)


class TestWildcards:
    def test_match_is_the_instance_that_runs(self, tab: Tab, gates: Gates) -> None:
        go(tab, gates, 2)
        row_shows(tab, "state", {1: "at first", 2: "busy", 3: "at first"})
        expect(tab.page.locator(dict_id(type="go", index=2))).to_be_disabled(timeout=WITHIN_MS)
        go(tab, gates, 3)
        gates.open(f"{tab.tag}-row-2")
        is_idle(tab, 2)
        row_shows(tab, "state", {1: "at first", 2: "idle", 3: "busy"})
        row_shows(tab, "result", {1: "nothing yet", 2: "done 2", 3: "nothing yet"})
        gates.open(tab.tag)
        is_idle(tab, 3)
        row_shows(tab, "state", {1: "at first"})

    def test_match_whatever_input_triggers(self, tab: Tab, gates: Gates) -> None:
        tab.click("all")
        for index in ROWS:
            gates.logged("row", tab.tag, index)
        row_shows(tab, "state", dict.fromkeys(ROWS, "busy"))
        for index in ROWS:
            gates.open(f"{tab.tag}-row-{index}")
            is_idle(tab, index)
            row_shows(tab, "state", dict.fromkeys(ROWS[index:], "busy"))

    def test_all_smaller_are_those_before_it(self, tab: Tab, gates: Gates) -> None:
        go(tab, gates, 3)
        row_shows(tab, "smaller", dict.fromkeys((1, 2), "a later one runs") | {3: "at first"})
        gates.open(tab.tag)
        row_shows(tab, "smaller", dict.fromkeys((1, 2), "no later one runs") | {3: "at first"})

    def test_what_several_runs_share_ends_with_the_last(self, tab: Tab, gates: Gates) -> None:
        go(tab, gates, 1)
        go(tab, gates, 2)
        row_shows(tab, "everybody", dict.fromkeys(ROWS, "one runs"))
        gates.open(f"{tab.tag}-row-1")
        row_shows(tab, "result", {1: "done 1"})
        row_shows(tab, "everybody", dict.fromkeys(ROWS, "one runs"))
        tab.shows("one", "one runs")
        gates.open(tab.tag)
        row_shows(tab, "everybody", dict.fromkeys(ROWS, "none runs"))
        tab.shows("one", "none runs")


class TestIsOff:
    def test_for_the_instance_that_was_cancelled(self, tab: Tab, gates: Gates) -> None:
        for index in (1, 2):
            go(tab, gates, index)
        tab.page.click(dict_id(type="cancel", index=1))
        is_idle(tab, 1)
        row_shows(tab, "state", {2: "busy"})
        tab.shows("one", "one runs")
        tab.click("cancel-all")
        is_idle(tab, 2)
        tab.shows("one", "none runs")
        row_shows(tab, "result", dict.fromkeys(ROWS, "nothing yet"))

    def test_after_an_error_of_one_instance(self, tab: Tab, gates: Gates) -> None:
        tab.fill("what", "raise")
        go(tab, gates, 1)
        gates.open(tab.tag)
        is_idle(tab, 1)
        assert "The callback failed" in tab.await_error()

    @pytest.mark.parametrize("kind", ["timeout", "raise", "exit"])
    def test_however_the_run_ends(self, tab: Tab, kind: str) -> None:
        tab.watch(f"{kind}-state")
        tab.click(f"{kind}-start")
        tab.shows(f"{kind}-state", "idle")
        tab.is_enabled(f"{kind}-start")
        tab.await_error()
        assert tab.seen(f"{kind}-state") == ["busy", "idle"]
        assert tab.text(f"{kind}-result") == "nothing yet"

    def test_after_a_lost_connection(self, tab: Tab, gates: Gates, proxy: Proxy) -> None:
        go(tab, gates, 1)
        wait_for(proxy.cut_all, "connections to cut")
        gates.open(tab.tag)
        is_idle(tab, 1)
        row_shows(tab, "result", {1: "done 1"})


class TestAMissingComponent:
    def told(self, tab: Tab, count: int) -> list[str]:
        def enough() -> bool:
            tab.evaluate("null")
            return len(tab.errors) >= count

        wait_for(enough, f"{count} errors on the console")
        return tab.take_errors()

    def test_in_running_is_told_once(self, tab: Tab) -> None:
        for clicks in ("1", "2"):
            tab.click("absent")
            tab.shows("absent-result", clicks)
            tab.shows("absent-state", "idle")
        # Told later than a second time would be, as all wait equally long.
        tab.click("sets")
        plain, pattern, *others = self.told(tab, 4)
        assert "not on the page: nowhere" in plain
        assert "nowhere" in pattern
        assert ["nobody" in other for other in others] == [True, True]

    def test_in_set_props_is_told_once(self, tab: Tab) -> None:
        for clicks in ("1", "2"):
            tab.click("sets")
            tab.shows("sets-result", clicks)
        tab.click("absent")
        plain, pattern, *others = self.told(tab, 4)
        assert "not on the page: nobody" in plain
        assert "nobody" in pattern
        assert ["nowhere" in other for other in others] == [True, True]

    def test_that_comes_with_the_result_is_no_error(self, tab: Tab) -> None:
        tab.click("later")
        tab.shows("late", "in time")
        tab.click("sets")
        assert ["nobody" in error for error in self.told(tab, 2)] == [True, True]


@pytest.mark.parametrize("transport", ["websocket"])
class TestWithDevTools:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_running_debug"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (
                "absent",
                "nowhere.disabled is named in\n`running` or `progress` of the callback absent",
            ),
            ("sets", "nobody.children is named in\nset_props or `progress` of the callback sets-"),
        ],
    )
    def test_a_missing_component(self, tab: Tab, name: str, words: str) -> None:
        tab.click(name)
        tab.page.click(".test-devtools-error-toggle")
        cards = tab.page.locator(".dash-error-card__content")
        expect(cards).to_have_count(2, timeout=WITHIN_MS)
        # The newest is open already, and names a dict id.
        expect(cards.first).to_contain_text('{"index":1,"type":"no', timeout=WITHIN_MS)
        cards.last.locator(".dash-fe-error-item").click()
        expect(cards.last).to_contain_text(words, use_inner_text=True, timeout=WITHIN_MS)
        assert len(tab.take_errors()) == 2
