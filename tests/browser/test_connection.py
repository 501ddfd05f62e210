"""A connection that goes, and a web process that dies, in the middle of a call."""

import os
import signal
from functools import partial

import pytest

from tests.browser.conftest import Site, port_of
from tests.browser.proxy import Proxy
from tests.browser.streams import GATED_STEPS, all_steps, check_order
from tests.browser.tab import Gates, Tab
from tests.stack import Proc, wait_for

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
