"""``background=True`` without a manager: what Dash promises of it, in a browser."""

import pytest
from playwright.sync_api import expect

from tests.browser.tab import WITHIN_MS, Gates, Tab, dict_id

pytestmark = pytest.mark.browser

BUTTONS_THAT_CANCEL = ("cancel", "abandon")


@pytest.fixture
def app_name() -> str:
    return "browser_background"


def bar_shows(tab: Tab, value: str, most: str) -> None:
    bar = tab.page.locator("#bar")
    expect(bar).to_have_attribute("value", value, timeout=WITHIN_MS)
    expect(bar).to_have_attribute("max", most, timeout=WITHIN_MS)


def row_shows(tab: Tab, kind: str, index: int, text: str) -> None:
    found = tab.page.locator(dict_id(type=kind, index=index))
    expect(found).to_have_text(text, timeout=WITHIN_MS)


class TestProgress:
    def test_is_shown_as_it_comes_and_its_default_afterwards(self, tab: Tab, gates: Gates) -> None:
        tab.watch("words", "state", "report")
        tab.click("start")
        for step in (1, 2, 3):
            tab.shows("words", f"step {step}")
            bar_shows(tab, str(step), "3")
            gates.open(f"{tab.tag}-report-{step}")
        tab.shows("report", "report 1")
        tab.shows("words", "nothing runs")
        bar_shows(tab, "0", "1")
        steps = [f"step {step}" for step in (1, 2, 3)]
        assert tab.seen("words") == [*steps, "nothing runs"]
        assert tab.seen("state") == ["busy", "idle"]
        assert tab.seen("report") == ["report 1"]

    def test_running_is_on_meanwhile(self, tab: Tab, gates: Gates) -> None:
        tab.click("start")
        tab.shows("state", "busy")
        tab.is_enabled("start", enabled=False)
        tab.has_title("Updating...")
        gates.open(tab.tag)
        tab.shows("state", "idle")
        tab.is_enabled("start")
        tab.has_title("A page")


class TestCancel:
    @pytest.mark.parametrize("name", BUTTONS_THAT_CANCEL)
    def test_by_any_of_its_inputs(self, tab: Tab, gates: Gates, name: str) -> None:
        tab.click("start")
        tab.shows("words", "step 1")
        if name == "abandon":
            tab.fill(name, "now")
        else:
            tab.click(name)
        tab.shows("state", "idle")
        tab.is_enabled("start")
        tab.shows("words", "nothing runs")
        bar_shows(tab, "0", "1")
        tab.has_title("A page")
        assert tab.text("report") == ""

        # and the next one works
        gates.open(tab.tag)
        tab.click("start")
        tab.shows("report", "report 2")
        tab.shows("words", "nothing runs")

    def test_when_nothing_runs_does_nothing(self, tab: Tab, gates: Gates) -> None:
        tab.click("cancel")
        gates.open(tab.tag)
        tab.click("start")
        tab.shows("report", "report 1")
        tab.click("cancel")
        tab.click("several")
        tab.shows("several-status", "click 1")
        assert tab.text("report") == "report 1"


class TestResults:
    def test_of_several_outputs_some_without_update(self, tab: Tab) -> None:
        for clicks in (1, 2, 3):
            tab.click("several")
            tab.shows("several-status", f"click {clicks}")
            wanted = [str(n) if n < clicks else "" for n in range(3)]
            assert [tab.text(f"several-{n}") for n in range(3)] == wanted

    def test_no_update_and_an_error_leave_what_is_there(self, tab: Tab) -> None:
        tab.click("mood")
        tab.shows("moody", "mood 1")
        for failing in (False, True):
            tab.watch("moody")
            tab.click("mood")
            if failing:
                assert "The callback failed" in tab.await_error()
            tab.is_enabled("mood")
            tab.has_title("A page")
            assert tab.text("moody") == "mood 1"
        tab.click("mood")
        tab.shows("moody", "mood 4")

    def test_of_on_error(self, tab: Tab) -> None:
        tab.click("fail")
        tab.shows("handled", "handled: ValueError")

    def test_set_props_come_before_the_result(self, tab: Tab, gates: Gates) -> None:
        tab.watch("first", "sets")
        tab.click("set")
        tab.shows("first", "one")
        expect(tab.page.locator("#first")).to_have_attribute(
            "title", "with a title", timeout=WITHIN_MS
        )
        tab.click("made")
        tab.shows("made-answer", "made 1")
        assert tab.text("sets") == ""
        gates.open(tab.tag)
        tab.shows("sets", "all set")
        tab.shows("first", "two")
        assert tab.seen("first") == ["one", "two"]

    def test_without_outputs(self, tab: Tab) -> None:
        for clicks in (1, 2):
            tab.click("quiet")
            tab.shows("quietly", f"done {clicks}")


class TestPatterns:
    def test_the_context_knows_what_triggered(self, tab: Tab) -> None:
        tab.page.click(dict_id(type="button", index=2))
        tab.shows("who", "2 of [None, 1]")
        tab.page.click(dict_id(type="button", index=1))
        tab.shows("who", "1 of [1, 1]")

    def test_siblings_run_independently(self, tab: Tab, gates: Gates) -> None:
        for index in (1, 2):
            tab.page.click(dict_id(type="go", index=index))
            row_shows(tab, "step", index, f"step of {index}")
            row_shows(tab, "state", index, "busy")
        gates.open(f"{tab.tag}-row-2")
        row_shows(tab, "result", 2, "row 2")
        row_shows(tab, "state", 2, "idle")
        row_shows(tab, "state", 1, "busy")
        gates.open(tab.tag)
        row_shows(tab, "result", 1, "row 1")
        row_shows(tab, "state", 1, "idle")

    def test_a_sibling_is_cancelled_alone(self, tab: Tab, gates: Gates) -> None:
        for index in (1, 2):
            tab.page.click(dict_id(type="go", index=index))
            row_shows(tab, "step", index, f"step of {index}")
        tab.page.click(dict_id(type="stop", index=1))
        row_shows(tab, "state", 1, "idle")
        row_shows(tab, "state", 2, "busy")
        gates.open(tab.tag)
        row_shows(tab, "result", 2, "row 2")
        row_shows(tab, "state", 2, "idle")
        row_shows(tab, "result", 1, "")


class TestChains:
    def test_from_the_load_of_the_page_through_ordinary_callbacks(self, tab: Tab) -> None:
        tab.shows("loaded", "loaded 7")
        tab.shows("end", "loaded 7, passed on, ended")
        tab.has_title("A page")

    def test_a_newer_run_takes_the_place_of_the_older(self, tab: Tab, gates: Gates) -> None:
        tab.watch("newest", "newest-state")
        for word in ("a", "ab", "abc"):
            tab.fill("word", word)
            gates.logged("newest", tab.tag, word)
        tab.shows("newest-state", "busy")
        gates.open(tab.tag)
        tab.shows("newest", "the word is abc")
        tab.shows("newest-state", "idle")
        tab.has_title("A page")
        assert tab.seen("newest") == ["the word is abc"]
        assert tab.seen("newest-state") == ["busy", "idle"]


class TestPages:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_background_pages"

    def test_a_shared_and_an_own_button_cancel(self, tab: Tab, gates: Gates) -> None:
        for name in ("one", "two"):
            tab.click(f"to-{name}")
            for button in (f"{name}-cancel", "cancel-both"):
                tab.click(f"{name}-start")
                tab.shows(f"{name}-state", "busy")
                tab.click(button)
                tab.shows(f"{name}-state", "idle")
                assert tab.text(f"{name}-result") == "nothing yet"
            gates.open(f"{tab.tag}-work-{name}-3")
            tab.click(f"{name}-start")
            tab.shows(f"{name}-result", f"{name} 3")

    def test_one_that_is_left_is_found_as_new_and_works(self, tab: Tab, gates: Gates) -> None:
        tab.click("one-start")
        gates.logged("work", tab.tag, "one")
        tab.shows("one-state", "busy")
        tab.click("to-two")
        tab.shows("two-state", "at first")
        gates.open(tab.tag)
        tab.click("two-start")
        tab.shows("two-result", "two 1")
        tab.has_title("A page")

        tab.click("to-one")
        tab.shows("one-state", "at first")
        assert tab.text("one-result") == "nothing yet"
        tab.click("one-start")
        tab.shows("one-result", "one 1")
        tab.shows("one-state", "idle")


@pytest.mark.parametrize("transport", ["websocket"])
class TestWithDevTools:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_background_debug"

    def test_an_error_with_its_traceback(self, tab: Tab) -> None:
        for clicks in ("1", "2", "3"):
            tab.click("mood")
            tab.is_enabled("mood")
            if clicks == "1":
                tab.shows("moody", "mood 1")
        tab.page.click(".test-devtools-error-toggle")
        card = tab.page.locator(".dash-error-card")
        for words in ("ValueError: a bad mood", "in moody", 'raise ValueError("a bad mood")'):
            expect(card).to_contain_text(words, timeout=WITHIN_MS)
        assert len(tab.take_errors()) == 1
