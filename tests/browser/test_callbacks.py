"""What people do with offloaded callbacks, over a websocket and without one."""

import psutil
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Site
from tests.browser.streams import GATED_STEPS, STEPS, all_steps, check_order
from tests.browser.tab import WITHIN_MS, Gates, Tab
from tests.stack import wait_for

pytestmark = pytest.mark.browser

KINDS = ["def", "async", "offloaded-def", "offloaded-async", "offloaded-thread"]
STREAMS = ["stream-def", "stream-async", "stream-web"]
TASKS = ["task-def", "task-async"]
MANY = 20


def family(pid: int) -> set[int]:
    """A process and its descendants."""
    return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class TestTwoBoxes:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_fast_one_answers_while_a_slow_one_runs(
        self, tab: Tab, gates: Gates, kind: str
    ) -> None:
        slow, fast = f"{tab.tag}-slow", f"{tab.tag}-fast"
        gates.open(fast)
        tab.fill(f"{kind}-slow", slow)
        gates.logged("start", slow)

        tab.fill(f"{kind}-fast", fast)
        tab.shows(f"{kind}-fast-answer", f"{fast} is done")
        assert gates.log("end", slow) == []
        assert tab.text(f"{kind}-slow-answer") == ""

        gates.open(slow)
        tab.shows(f"{kind}-slow-answer", f"{slow} is done")
        assert len(gates.log("start", slow)) == len(gates.log("start", fast)) == 1

    def test_offloaded_ones_run_in_other_processes(
        self, tab: Tab, gates: Gates, site: Site
    ) -> None:
        gates.open(tab.tag)
        pids = {}
        for kind in KINDS:
            name = f"{tab.tag}-{kind}"
            tab.fill(f"{kind}-fast", name)
            [pid] = gates.logged("start", name)
            pids[kind] = int(pid)
        [worker] = site.stack.workers
        assert pids["def"] == pids["async"] in family(site.stack.webs[0].pid)
        assert pids["offloaded-async"] == pids["offloaded-thread"] == worker.pid
        assert pids["offloaded-def"] in family(worker.pid) - {worker.pid}


class TestAChain:
    def test_ends_in_the_right_state_and_runs_each_link_once(self, tab: Tab, gates: Gates) -> None:
        tab.watch("chain-a", "chain-b", "chain-c")
        tab.click("chain")
        tab.shows("chain-c", f"{tab.tag} a1 b c")
        tab.has_title("A page")
        assert tab.seen("chain-a") == [f"{tab.tag} a1"]
        assert tab.seen("chain-b") == [f"{tab.tag} a1 b"]
        assert tab.seen("chain-c") == [f"{tab.tag} a1 b c"]
        assert [len(gates.log(f"chain-{link}", tab.tag)) for link in "abc"] == [1, 1, 1]


class TestTwentySlow:
    def test_and_a_fast_one_at_once(self, tab: Tab, gates: Gates) -> None:
        spinners = tab.page.locator("[id^=loading-] .dash-spinner")
        tab.click("many")
        running = gates.logged("many", tab.tag, count=MANY)
        assert sorted(map(int, running)) == list(range(MANY))

        tab.click("quick-http")
        tab.shows("quick-http-answer", "http 1")
        tab.click("quick-offloaded")
        tab.shows("quick-offloaded-answer", "offloaded 1")
        tab.click("quick-def")
        tab.shows("quick-def-answer", "def 1")
        assert [tab.text(f"many-{number}") for number in range(MANY)] == [""] * MANY
        expect(spinners).to_have_count(MANY, timeout=WITHIN_MS)
        tab.has_title("Updating...")

        gates.open(f"{tab.tag}-many")
        for number in range(MANY):
            tab.shows(f"many-{number}", f"{tab.tag} {number}")
        expect(spinners).to_have_count(0, timeout=WITHIN_MS)
        tab.has_title("A page")
        assert len(gates.log("many", tab.tag)) == MANY


class TestRunning:
    def is_busy(self, tab: Tab, kind: str) -> None:
        tab.shows(f"{kind}-state", "busy")
        tab.is_enabled(f"{kind}-start", enabled=False)

    def is_idle(self, tab: Tab, kind: str) -> None:
        tab.shows(f"{kind}-state", "idle")
        tab.is_enabled(f"{kind}-start")
        tab.has_title("A page")

    def start(self, tab: Tab, gates: Gates, kind: str, what: str = "done") -> int:
        """Start the task; the process that runs it."""
        assert tab.text(f"{kind}-state") == "at first"
        tab.fill("what", what)
        tab.click(f"{kind}-start")
        [pid] = gates.logged("task", tab.tag)
        self.is_busy(tab, kind)
        return int(pid)

    def test_is_off_after_a_result(self, tab: Tab, gates: Gates) -> None:
        self.start(tab, gates, "task-def")
        gates.open(f"{tab.tag}-task")
        self.is_idle(tab, "task-def")
        tab.shows("task-def-result", f"{tab.tag} done")

    @pytest.mark.parametrize(
        ("kind", "what"), [("task-def", "raise"), ("task-async", "raise"), ("task-def", "exit")]
    )
    def test_is_off_after_a_failure(self, tab: Tab, gates: Gates, kind: str, what: str) -> None:
        self.start(tab, gates, kind, what)
        gates.open(f"{tab.tag}-task")
        self.is_idle(tab, kind)
        assert tab.text(f"{kind}-result") == "nothing yet"
        assert len(tab.take_errors()) == 1

    @pytest.mark.parametrize("kind", TASKS)
    def test_is_off_after_a_cancel_that_stops_the_callback(
        self, tab: Tab, gates: Gates, kind: str
    ) -> None:
        pid = self.start(tab, gates, kind)
        tab.click(f"{kind}-cancel")
        self.is_idle(tab, kind)
        assert tab.text(f"{kind}-result") == "nothing yet"
        if kind == "task-def":
            wait_for(lambda: has_ended(pid), "the process is gone")
        else:
            gates.logged("cancelled", tab.tag)

        # and the next one works
        gates.open(f"{tab.tag}-task")
        tab.click(f"{kind}-start")
        tab.shows(f"{kind}-result", f"{tab.tag} done")
        self.is_idle(tab, kind)

    def test_is_off_after_the_death_of_the_worker(self, tab: Tab, gates: Gates, site: Site) -> None:
        worker = site.stack.worker(queues="doomed")
        try:
            self.start(tab, gates, "task-doomed")
            worker.kill()
            self.is_idle(tab, "task-doomed")
        finally:
            worker.end()
        assert tab.text("task-doomed-result") == "nothing yet"
        assert len(tab.take_errors()) == 1
        assert len(gates.log("task", tab.tag)) == 1


class TestSetProps:
    @pytest.mark.parametrize("kind", STREAMS)
    def test_arrives_in_order_and_before_the_result(
        self, tab: Tab, gates: Gates, kind: str
    ) -> None:
        tab.watch(f"{kind}-step", f"{kind}-result")
        tab.click(kind)
        tab.shows(f"{kind}-step", "9")
        assert tab.text(f"{kind}-result") == ""

        gates.open(*(f"{tab.tag}-step-{number}" for number in GATED_STEPS))
        tab.shows(f"{kind}-all", all_steps(tab))
        tab.shows(f"{kind}-step", f"{STEPS - 1}")
        assert tab.text(f"{kind}-result") == ""

        gates.open(f"{tab.tag}-last")
        tab.shows(f"{kind}-result", f"{tab.tag} all")
        check_order(tab, kind)


CLICK_FIVE_TIMES = """async () => {
    for (let i = 0; i < 5; i++) {
        document.getElementById('latest').click();
        await new Promise(requestAnimationFrame); // one click a frame: React merges those within
    }
}"""


class TestSuperseded:
    def test_the_second_click_wins_and_the_first_call_is_stopped(
        self, tab: Tab, gates: Gates
    ) -> None:
        tab.watch("latest-answer")
        tab.click("latest")
        gates.logged("latest", tab.tag, 1)
        tab.click("latest")
        gates.logged("latest", tab.tag, 2)
        gates.logged("cancelled", tab.tag, 1)

        gates.open(f"{tab.tag}-latest-1")
        tab.click("quick-offloaded")
        tab.shows("quick-offloaded-answer", "offloaded 1")
        assert tab.text("latest-answer") == ""
        tab.has_title("Updating...")

        gates.open(f"{tab.tag}-latest-2")
        tab.shows("latest-answer", f"{tab.tag} click 2")
        tab.has_title("A page")
        assert tab.seen("latest-answer") == [f"{tab.tag} click 2"]

    def test_many_clicks_in_one_moment(self, tab: Tab, gates: Gates) -> None:
        gates.open(tab.tag)
        tab.watch("latest-answer")
        tab.evaluate(CLICK_FIVE_TIMES)
        tab.shows("latest-answer", f"{tab.tag} click 5")
        tab.has_title("A page")
        clicks = [int(text.rpartition(" ")[2]) for text in tab.seen("latest-answer")]
        assert clicks == sorted(set(clicks))
