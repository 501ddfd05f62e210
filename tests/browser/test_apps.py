"""Apps of another shape: several pages, a prefix, Dash's own counts."""

from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import OpenTab, Serve, Site
from tests.browser.proxy import Proxy
from tests.browser.tab import Tab

pytestmark = pytest.mark.browser

WIDTH = 13
CAP = 12
"""So many callbacks Dash's renderer lets run at a time."""
PREFIX = "/some/tools"


class TestPagesBelowAPrefix:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_pages"

    @pytest.fixture
    def prefix(self) -> str:
        return PREFIX

    def test_a_page_has_offloaded_callbacks(
        self, open_tab: OpenTab, proxy: Proxy, transport: str, site: Site
    ) -> None:
        tab = open_tab()
        paths: list[str] = []
        tab.page.on("request", lambda request: paths.append(urlsplit(request.url).path))
        tab.page.goto(f"{proxy.address}{PREFIX}/")
        tab.click("to-report")
        tab.shows("report", "report on None")
        tab.travels_by(transport)
        tab.fill("city", "Oslo")
        tab.shows("report", "report on Oslo")
        [worker] = site.stack.workers
        tab.shows("pid", str(worker.pid))
        assert [path for path in paths if not path.startswith(f"{PREFIX}/")] == []
        assert any(path.startswith(f"{PREFIX}/_dash-dispatch/page.") for path in paths)


class TestAnInitialChain:
    @pytest.fixture
    def app_name(self) -> str:
        return "browser_chain"

    def test_of_more_than_twelve_runs_as_often_as_on_stock_dash(
        self, open_tab: OpenTab, site: Site, serve: Serve
    ) -> None:
        ours = self.load(open_tab(), site)
        stock = self.load(open_tab(), serve("browser_chain_stock", worker=False))
        assert ours == stock
        assert stock.total() == WIDTH + 1

    def load(self, tab: Tab, site: Site) -> Counter[str]:
        """What runs until the page is complete."""
        tab.page.goto(f"http://127.0.0.1:{site.port}")
        site.gates.logged("link", count=CAP)
        site.gates.open("chain-links")
        tab.shows("end", " ".join(map(str, range(WIDTH))))
        tab.has_title("Dash")
        return Counter([*site.gates.log("link"), *site.gates.log("end")])
