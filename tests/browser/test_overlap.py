"""A callback that is asked for again while it runs: what runs, and what is shown of it."""

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.proxy import Proxy
from tests.browser.tab import WITHIN_MS, Gates, Tab, dict_id
from tests.stack import wait_for

pytestmark = pytest.mark.browser

TOGETHER = ("parallel", "queue")
"""Both runs are shown."""

PENDING = """() => {
    const {watched, blocked, executing, requested, prioritized} =
        window.dash_stores[0].getState().callbacks;
    return [watched, blocked, executing, requested, prioritized].flat().length;
}"""


@pytest.fixture
def app_name() -> str:
    return "browser_overlap"


def spinner(tab: Tab, mode: str) -> Locator:
    return tab.page.locator(f"#{mode}-loading .dash-spinner")


def start_two(tab: Tab, gates: Gates, mode: str) -> None:
    """Two runs of which the second is asked for while the first is at work."""
    tab.watch(f"{mode}-answer", f"{mode}-state")
    tab.click(mode)
    gates.logged("start", tab.tag, mode, 1)
    tab.click(mode)
    tab.page.wait_for_function(f"({PENDING})() >= 2")
    if mode == "parallel":
        gates.logged("start", tab.tag, mode, 2)


class TestRunsThatStandBesideEachOther:
    @pytest.mark.parametrize("mode", TOGETHER)
    def test_are_both_shown(self, tab: Tab, gates: Gates, mode: str) -> None:
        start_two(tab, gates, mode)
        gates.open(f"{tab.tag}-{mode}-1")
        tab.shows(f"{mode}-answer", f"{tab.tag} {mode} 1")
        assert gates.log("cancelled", tab.tag) == []
        gates.open(f"{tab.tag}-{mode}-2")
        tab.shows(f"{mode}-answer", f"{tab.tag} {mode} 2")
        tab.shows(f"{mode}-all", "1 2")
        tab.shows(f"{mode}-after", f"after {tab.tag} {mode} 2")
        tab.has_title("A page")
        assert tab.seen(f"{mode}-answer") == [f"{tab.tag} {mode} {n}" for n in (1, 2)]
        assert gates.log("cancelled", tab.tag) == []

    @pytest.mark.parametrize("mode", TOGETHER)
    def test_look_busy_until_the_last_has_ended(self, tab: Tab, gates: Gates, mode: str) -> None:
        start_two(tab, gates, mode)
        expect(spinner(tab, mode)).to_have_count(1, timeout=WITHIN_MS)
        gates.open(f"{tab.tag}-{mode}-1")
        tab.shows(f"{mode}-answer", f"{tab.tag} {mode} 1")
        gates.logged("start", tab.tag, mode, 2)
        tab.has_title("Updating...")
        tab.click("parallel")  # something else happens, and is over
        gates.open(f"{tab.tag}-parallel-{2 if mode == 'queue' else 3}")
        assert tab.text(f"{mode}-state") == "busy"
        expect(spinner(tab, mode)).to_have_count(1, timeout=WITHIN_MS)
        gates.open(tab.tag)
        tab.shows(f"{mode}-state", "idle")
        expect(spinner(tab, mode)).to_have_count(0, timeout=WITHIN_MS)
        tab.has_title("A page")
        assert tab.seen(f"{mode}-state") == ["busy", "idle"]

    def test_parallel_ones_are_shown_in_the_order_of_their_ends(
        self, tab: Tab, gates: Gates
    ) -> None:
        start_two(tab, gates, "parallel")
        for number in (2, 1):
            gates.open(f"{tab.tag}-parallel-{number}")
            tab.shows("parallel-answer", f"{tab.tag} parallel {number}")
        tab.shows("parallel-all", "2 1")
        tab.shows("parallel-after", f"after {tab.tag} parallel 1")
        tab.shows("parallel-state", "idle")

    def test_queued_ones_run_one_after_the_other(self, tab: Tab, gates: Gates) -> None:
        gates.open(f"{tab.tag}-queue-2", f"{tab.tag}-queue-3")
        tab.watch("queue-answer")
        for number in (1, 2, 3):
            tab.click("queue")
            tab.page.wait_for_function(f"({PENDING})() === {number}")
        gates.logged("start", tab.tag, "queue", 1)
        tab.click("parallel")
        gates.open(f"{tab.tag}-parallel-1")
        tab.shows("parallel-answer", f"{tab.tag} parallel 1")
        assert gates.log("start", tab.tag, "queue", 2) == []

        gates.open(f"{tab.tag}-queue-1")
        tab.shows("queue-all", "1 2 3")
        assert tab.seen("queue-answer")[-1] == f"{tab.tag} queue 3"
        log = [line for line in gates.log() if f"{tab.tag} queue" in line]
        wanted = [f"{word} {tab.tag} queue {n}" for n in (1, 2, 3) for word in ("start", "end")]
        assert log == wanted

    def test_an_error_of_the_older_is_shown_and_the_newer_goes_on(
        self, tab: Tab, gates: Gates
    ) -> None:
        tab.fill("what", "raise")
        tab.click("parallel")
        gates.logged("start", tab.tag, "parallel", 1)
        tab.fill("what", "text")
        tab.click("parallel")
        gates.logged("start", tab.tag, "parallel", 2)
        gates.open(f"{tab.tag}-parallel-1")
        assert "The callback failed" in tab.await_error()
        assert tab.text("parallel-state") == "busy"
        gates.open(f"{tab.tag}-parallel-2")
        tab.shows("parallel-answer", f"{tab.tag} parallel 2")
        tab.shows("parallel-state", "idle")

    def test_components_of_the_older_are_wired_while_the_newer_runs(
        self, tab: Tab, gates: Gates
    ) -> None:
        tab.fill("what", "component")
        start_two(tab, gates, "parallel")
        gates.open(f"{tab.tag}-parallel-1")
        # Not by the mouse: the loading state of the newer hides it.
        tab.page.dispatch_event(dict_id(type="inner", mode="parallel", click=1), "click")
        tab.shows("inner-answer", "inner 1")
        assert gates.log("end", tab.tag, "parallel", 2) == []

    def test_more_than_the_renderer_counts(self, tab: Tab, gates: Gates) -> None:
        for number in range(1, 31):
            tab.click("parallel")
            gates.logged("start", tab.tag, "parallel", number)
        for number in (*range(2, 31), 1):
            gates.open(f"{tab.tag}-parallel-{number}")
            gates.logged("end", tab.tag, "parallel", number)
        tab.shows("parallel-answer", f"{tab.tag} parallel 1")
        shown = tab.text("parallel-all").split()
        assert sorted(map(int, shown)) == list(range(1, 31))
        assert shown[-1] == "1"
        tab.shows("parallel-state", "idle")
        tab.has_title("A page")

    @pytest.mark.parametrize("mode", TOGETHER)
    def test_outlive_a_cut_connection(
        self, tab: Tab, gates: Gates, proxy: Proxy, mode: str
    ) -> None:
        start_two(tab, gates, mode)
        before = proxy.connections
        wait_for(proxy.cut_all, "connections to cut")
        wait_for(lambda: proxy.connections > before, "a new connection")
        gates.open(tab.tag)
        tab.shows(f"{mode}-state", "idle")
        assert sorted(tab.text(f"{mode}-all").split()) == ["1", "2"]


class TestDropped:
    def test_the_first_run_goes_on_and_is_shown(self, tab: Tab, gates: Gates) -> None:
        tab.watch("drop-answer", "drop-state")
        tab.click("drop")
        gates.logged("start", tab.tag, "drop", 1)
        for _ in range(3):
            tab.click("drop")
            tab.page.wait_for_function(f"({PENDING})() === 1")
        tab.has_title("Updating...")
        expect(spinner(tab, "drop")).to_have_count(1, timeout=WITHIN_MS)
        assert tab.text("drop-state") == "busy"

        gates.open(tab.tag)
        tab.shows("drop-answer", f"{tab.tag} drop 1")
        tab.shows("drop-state", "idle")
        tab.has_title("A page")
        expect(spinner(tab, "drop")).to_have_count(0, timeout=WITHIN_MS)
        assert tab.seen("drop-answer") == [f"{tab.tag} drop 1"]
        assert tab.seen("drop-state") == ["busy", "idle"]
        assert gates.log("start", tab.tag) == ["drop 1"]
        assert gates.log("cancelled", tab.tag) == []

    def test_running_does_not_write_over_what_the_first_run_shows(
        self, tab: Tab, gates: Gates
    ) -> None:
        tab.watch("drop-state")
        tab.fill("what", "state")
        tab.click("drop")
        tab.shows("drop-state", "at work")
        tab.click("drop")
        tab.page.wait_for_function(f"({PENDING})() === 1")
        gates.open(tab.tag)
        tab.shows("drop-state", "idle")
        assert tab.seen("drop-state") == ["busy", "at work", "idle"]

    def test_after_its_end_the_next_runs(self, tab: Tab, gates: Gates) -> None:
        gates.open(tab.tag)
        for number in (1, 2):
            tab.click("drop")
            tab.shows("drop-answer", f"{tab.tag} drop {number}")
        tab.shows("drop-all", "1 2")
        tab.shows("drop-state", "idle")


class TestLatest:
    def test_only_the_last_is_shown_and_running_is_on_throughout(
        self, tab: Tab, gates: Gates
    ) -> None:
        tab.watch("latest-answer", "latest-state")
        for number in (1, 2, 3):
            tab.click("latest")
            gates.logged("start", tab.tag, "latest", number)
        for number in (1, 2):
            gates.logged("cancelled", tab.tag, "latest", number)
        assert tab.text("latest-state") == "busy"
        gates.open(tab.tag)
        tab.shows("latest-answer", f"{tab.tag} latest 3")
        tab.shows("latest-state", "idle")
        tab.has_title("A page")
        assert tab.seen("latest-answer") == [f"{tab.tag} latest 3"]
        assert tab.seen("latest-state") == ["busy", "idle"]


class TestSiblings:
    @pytest.mark.parametrize("mode", ["latest", "queue", "drop"])
    def test_of_a_pattern_do_not_meet(self, tab: Tab, gates: Gates, mode: str) -> None:
        for index in (1, 2):
            tab.page.click(dict_id(type="ask", mode=mode, index=index))
            gates.logged("start", tab.tag, f"{mode}-sibling", f"{index}-1")
        gates.open(tab.tag)
        for index in (1, 2):
            cell = tab.page.locator(dict_id(type="cell", mode=mode, index=index))
            expect(cell).to_have_text(f"{index}: 1", timeout=WITHIN_MS)
        assert gates.log("cancelled", tab.tag) == []


class TestWithoutOutputs:
    def test_parallel_runs_show_what_they_do_and_their_errors(self, tab: Tab, gates: Gates) -> None:
        tab.watch("silent-parallel-state")
        tab.fill("what", "raise")
        tab.click("silent-parallel")
        gates.logged("start", tab.tag, "silent-parallel", 1)
        tab.fill("what", "text")
        tab.click("silent-parallel")
        gates.logged("start", tab.tag, "silent-parallel", 2)
        gates.open(f"{tab.tag}-silent-parallel-1")
        assert "The callback failed" in tab.await_error()
        assert tab.text("silent-parallel-state") == "busy"
        gates.open(tab.tag)
        tab.shows("silent-parallel-answer", "2")
        tab.shows("silent-parallel-state", "idle")
        assert tab.seen("silent-parallel-state") == ["busy", "idle"]

    def test_latest(self, tab: Tab, gates: Gates) -> None:
        tab.watch("silent-latest-answer", "silent-latest-state")
        for number in (1, 2):
            tab.click("silent-latest")
            gates.logged("start", tab.tag, "silent-latest", number)
        gates.logged("cancelled", tab.tag, "silent-latest", 1)
        gates.open(tab.tag)
        tab.shows("silent-latest-answer", "2")
        tab.shows("silent-latest-state", "idle")
        assert tab.seen("silent-latest-answer") == ["2"]
        assert tab.seen("silent-latest-state") == ["busy", "idle"]


@pytest.mark.parametrize("transport", ["websocket"])
class TestWithDevTools:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_overlap_debug"

    def test_an_error_of_the_older(self, tab: Tab, gates: Gates) -> None:
        tab.fill("what", "raise")
        tab.click("parallel")
        gates.logged("start", tab.tag, "parallel", 1)
        tab.fill("what", "text")
        tab.click("parallel")
        gates.logged("start", tab.tag, "parallel", 2)
        gates.open(f"{tab.tag}-parallel-1")
        tab.page.click(".test-devtools-error-toggle")
        card = tab.page.locator(".dash-error-card")
        expect(card).to_contain_text(f"ValueError: run 1 of {tab.tag}", timeout=WITHIN_MS)
        assert len(tab.take_errors()) == 1
