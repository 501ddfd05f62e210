"""A connection that goes, and a web process that dies, in the middle of a call."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.browser.conftest import OpenTab, Site, port_of
from tests.browser.proxy import Proxy
from tests.browser.streams import GATED_STEPS, all_steps, check_order
from tests.browser.tab import Gates, Tab
from tests.browser.test_fallbacks import set_policy
from tests.stack import Proc, free_port, wait_for

pytestmark = pytest.mark.browser

MANY = 20
STREAMS = ["stream-def", "stream-async", "stream-web"]


def cut(proxy: Proxy) -> None:
    """Cut what is there; between two polls there may be nothing for a moment."""
    wait_for(proxy.cut_all, "a connection to cut")


def cut_and_wait(proxy: Proxy, times: int) -> None:
    """Cut, and cut again as soon as the browser comes back."""
    for _ in range(times):
        known = proxy.connections
        cut(proxy)
        wait_for(partial(has_new_connections, proxy, known), "the browser comes back")


def has_new_connections(proxy: Proxy, known: int) -> bool:
    return proxy.connections > known


def kill_group(proc: Proc) -> None:
    """Kill -9, the server and the processes that it serves from."""
    os.killpg(proc.pid, signal.SIGKILL)
    proc.process.wait(10)


FALL_ASLEEP = """() => {
    const setTimeout = window.setTimeout;
    const slept = window.slept = [];
    window.setTimeout = (...call) => slept.push(call);
    window.wakeUp = () => {
        window.setTimeout = setTimeout;
        slept.forEach(([work]) => work());
    };
}"""
"""As far as the page's scripts go: nothing happens later."""
WAKE_UP = "window.wakeUp()"


@contextlib.contextmanager
def script_killer(chromium: Browser) -> Iterator[Callable[[], object]]:
    """Ends the SharedWorker, as a browser does with a process that has crashed."""
    devtools = chromium.new_browser_cdp_session()
    (script,) = (
        target["targetId"]
        for target in devtools.send("Target.getTargets")["targetInfos"]
        if target["type"] == "shared_worker"
    )
    yield lambda: devtools.send("Target.closeTarget", {"targetId": script})
    devtools.detach()


class TestACutConnection:
    @pytest.mark.parametrize("kind", STREAMS)
    def test_costs_nothing(self, tab: Tab, gates: Gates, proxy: Proxy, kind: str) -> None:
        tab.watch(f"{kind}-step", f"{kind}-result")
        tab.click(kind)
        for step in GATED_STEPS:
            tab.shows(f"{kind}-step", f"{step - 1}")
            cut_and_wait(proxy, 1)
            gates.open(f"{tab.tag}-step-{step}")
        tab.shows(f"{kind}-all", all_steps(tab))
        cut(proxy)
        gates.open(f"{tab.tag}-last")
        tab.shows(f"{kind}-result", f"{tab.tag} all")
        check_order(tab, kind)
        assert len(gates.log("stream", tab.tag)) == 1

    def test_again_and_again(self, tab: Tab, gates: Gates, proxy: Proxy, transport: str) -> None:
        tab.watch("stream-def-step", "stream-def-result")
        tab.click("stream-def")
        tab.shows("stream-def-step", "9")
        cut_and_wait(proxy, 5)
        gates.open(tab.tag)
        tab.shows("stream-def-result", f"{tab.tag} all")
        check_order(tab, "stream-def")
        assert len(gates.log("stream", tab.tag)) == 1
        tab.travels_by(transport)

    def test_while_the_answer_comes(self, tab: Tab, gates: Gates, proxy: Proxy) -> None:
        tab.watch(*(f"many-{number}" for number in range(MANY)))
        tab.click("many")
        gates.logged("many", tab.tag, count=MANY)
        gates.open(f"{tab.tag}-many")
        cut_and_wait(proxy, 2)
        for number in range(MANY):
            tab.shows(f"many-{number}", f"{tab.tag} {number}")
            assert tab.seen(f"many-{number}") == [f"{tab.tag} {number}"]
        assert len(gates.log("many", tab.tag)) == MANY

    def test_leaves_running_as_it_was(self, tab: Tab, gates: Gates, proxy: Proxy) -> None:
        tab.watch("task-def-state")
        tab.click("task-def-start")
        gates.logged("task", tab.tag)
        cut_and_wait(proxy, 1)
        tab.shows("task-def-state", "busy")
        gates.open(f"{tab.tag}-task")
        tab.shows("task-def-result", f"{tab.tag} done")
        tab.shows("task-def-state", "idle")
        assert tab.seen("task-def-state") == ["busy", "idle"]


class TestAKilledWebProcess:
    @pytest.fixture
    def victim(self, site: Site, proxy: Proxy) -> Proc:
        """Serves the page until it is killed; the site's own process takes over."""
        proxy.target = port_of(site.stack.web())
        return site.stack.webs[-1]

    def test_is_replaced_by_another_and_nothing_is_lost(
        self, victim: Proc, tab: Tab, gates: Gates, proxy: Proxy, site: Site
    ) -> None:
        kinds = ("stream-def", "stream-async")
        for kind in kinds:
            tab.watch(f"{kind}-step", f"{kind}-result")
            tab.click(kind)
            tab.shows(f"{kind}-step", "9")

        kill_group(victim)
        gates.open(f"{tab.tag}-step-10", f"{tab.tag}-step-20")
        proxy.target = site.port
        for kind in kinds:
            tab.shows(f"{kind}-step", "29")

        gates.open(f"{tab.tag}-step-30", f"{tab.tag}-last")
        for kind in kinds:
            tab.shows(f"{kind}-result", f"{tab.tag} all")
            check_order(tab, kind)
        assert len(gates.log("stream", tab.tag)) == len(kinds)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_with_calls_on_their_way(
        self, victim: Proc, tab: Tab, gates: Gates, proxy: Proxy, site: Site, number: int
    ) -> None:
        tab.click("many")
        os.killpg(victim.pid, number)
        proxy.target = site.port
        gates.logged("many", tab.tag, count=MANY)

        gates.open(f"{tab.tag}-many")
        for slow in range(MANY):
            tab.shows(f"many-{slow}", f"{tab.tag} {slow}")
        tab.has_title("A page")
        assert len(gates.log("many", tab.tag)) == MANY
        victim.process.wait(30)


class TestAScriptThatDies:
    """Which nothing in a browser forbids. Its pages begin another, and lose nothing by it."""

    def test_leaves_its_calls_to_the_next(self, tab: Tab, gates: Gates, chromium: Browser) -> None:
        tab.watch("stream-def-step", "stream-def-result", "task-def-result")
        tab.click("stream-def")
        tab.click("task-def-start")
        tab.shows("stream-def-step", "9")
        gates.logged("task", tab.tag)
        with script_killer(chromium) as kill:
            gates.open(f"{tab.tag}-step-10")
            tab.shows("stream-def-step", "19")
            # Before it has confirmed these, as a rule: they are sent once more.
            kill()
        gates.open(tab.tag, f"{tab.tag}-step-20", f"{tab.tag}-step-30", f"{tab.tag}-task")
        gates.open(f"{tab.tag}-last")

        tab.shows("stream-def-result", f"{tab.tag} all")
        tab.shows("task-def-result", f"{tab.tag} done")
        check_order(tab, "stream-def")
        assert tab.seen("task-def-result") == [f"{tab.tag} done"]
        assert len(gates.log("stream", tab.tag)) == len(gates.log("task", tab.tag)) == 1

    @pytest.mark.parametrize("transport", ["websocket"], indirect=True)
    def test_where_each_page_has_its_own(
        self, context: BrowserContext, open_tab: OpenTab, proxy: Proxy, transport: str, gates: Gates
    ) -> None:
        context.add_init_script("delete window.SharedWorker")
        tab = open_tab()
        tab.open(proxy.address, transport)
        tab.watch("task-def-result")
        tab.click("task-def-start")
        gates.logged("task", tab.tag)
        (script,) = tab.page.workers
        script.evaluate("self.close()")
        gates.open(f"{tab.tag}-task")
        tab.shows("task-def-result", f"{tab.tag} done")
        assert tab.seen("task-def-result") == [f"{tab.tag} done"]
        assert len(gates.log("task", tab.tag)) == 1

    def test_with_pages_that_sleep_and_one_that_is_new(
        self, open_tab: OpenTab, proxy: Proxy, transport: str, gates: Gates, chromium: Browser
    ) -> None:
        """The new one comes first and begins a session; what the others left is kept for each."""
        tabs = first, second = open_tab(), open_tab()
        for tab in tabs:
            tab.open(proxy.address, transport)
            tab.watch("task-def-result")
            tab.click("task-def-start")
            gates.logged("task", tab.tag)
            tab.evaluate(FALL_ASLEEP)
        with script_killer(chromium) as kill:
            kill()
        new = open_tab()
        new.open(proxy.address, transport)
        new.click("quick-offloaded")
        new.shows("quick-offloaded-answer", "offloaded 1")

        for tab in tabs:
            gates.open(f"{tab.tag}-task")
        first.evaluate(WAKE_UP)
        first.shows("task-def-result", f"{first.tag} done")
        # By now the script has been sent the second one's result as well.
        first.click("quick-offloaded")
        first.shows("quick-offloaded-answer", "offloaded 1")
        second.evaluate(WAKE_UP)
        second.shows("task-def-result", f"{second.tag} done")

        for tab in tabs:
            assert tab.seen("task-def-result") == [f"{tab.tag} done"]
            assert len(gates.log("task", tab.tag)) == 1


class TestWhatTheScriptSays:
    def test_of_a_request_that_is_too_large(
        self, site: Site, proxy: Proxy, open_tab: OpenTab, gates: Gates, transport: str
    ) -> None:
        """A websocket is closed for it; the others' calls go on over the next."""
        proxy.target = port_of(site.stack.web(max_request_bytes="100000"))
        tab = open_tab()
        tab.open(proxy.address, transport)
        tab.click("task-def-start")
        gates.logged("task", tab.tag)
        tab.evaluate("dash_clientside.set_props('tag', {value: 'x'.repeat(200000)})")
        tab.click("chain")
        says = {
            "websocket": "The request of this callback is too large for the server.",
            "polling": "the request is larger than DASH_DISPATCH_MAX_REQUEST_BYTES",
        }
        for error in tab.await_errors(says[transport]):
            assert says[transport] in error or "413" in error
        gates.open(f"{tab.tag}-task")
        tab.shows("task-def-result", f"{tab.tag} done")
        assert len(gates.log("task", tab.tag)) == 1
        site.stack.webs[-1].end()

    @pytest.mark.parametrize("transport", ["websocket"], indirect=True)
    def test_of_an_answer_that_is_not_kept_any_more(
        self,
        context: BrowserContext,
        open_tab: OpenTab,
        proxy: Proxy,
        transport: str,
        gates: Gates,
        site: Site,
    ) -> None:
        """By the age that the script tells; without it, the callback would be run again."""
        # The script runs in the page, where its clock can be set.
        set_policy(context, proxy.address, "worker-src 'none'")
        tab = open_tab()
        tab.open(proxy.address, transport)
        tab.click("task-def-start")
        gates.logged("task", tab.tag)
        redis = site.stack.redis.client()
        (call,) = (
            key
            for key in redis.scan_iter(f"{site.stack.namespace}:call:*", count=1000)
            if tab.tag.encode() in (redis.hget(key, "payload") or redis.hget(key, "spec") or b"")
        )
        mailbox = f"{site.stack.namespace}:mailbox:{redis.hget(call, 'session').decode()}"
        proxy.target = free_port()
        cut(proxy)
        gates.open(f"{tab.tag}-task")
        wait_for(lambda: redis.hget(call, "status") == b"ok", "it has ended")

        redis.delete(call, mailbox)
        tab.evaluate("() => { const now = Date.now; Date.now = () => now() + 2 * 3600e3; }")
        proxy.target = site.port

        tab.await_errors("The page was away for too long")
        assert len(gates.log("task", tab.tag)) == 1
