"""Components of a library that the page has not loaded: a callback imported it."""

import itertools

import pytest
from playwright.sync_api import Route

from tests.apps.libraries import PLACES, WAYS, name_of
from tests.browser.conftest import Site
from tests.browser.tab import Tab
from tests.components import write_library
from tests.stack import wait_for

pytestmark = pytest.mark.browser

SCRIPT = """
for (const where of ['offloaded', 'web']) {
    for (const clicks of [1, 2, 3]) {
        window[`parts_%s_${where}_${clicks}`] = {
            Badge: ({id, children}) => React.createElement('b', {id}, children)
        };
    }
}
"""


@pytest.fixture
def app_name() -> str:
    return "browser_library"


class Library:
    """Answers the page's requests for the library's script when it is told to."""

    def __init__(self, tab: Tab) -> None:
        self.held: list[Route] = []
        self._tab = tab
        # Its process may know those of other tests.
        tab.page.route("**/parts/*.js", lambda route: route.fulfill(body=""))
        tab.page.route(f"**/parts/{tab.tag}.js", self._hold)

    def _hold(self, route: Route) -> None:
        self.held.append(route)

    def asked_for(self) -> None:
        """Wait until the page asks."""

        def asked() -> list[Route]:
            self._tab.evaluate("null")  # routes are heard of only while something is asked
            return self.held

        wait_for(asked, "the page asks for the library")

    def deliver(self) -> None:
        for route in self.held:
            route.fulfill(content_type="text/javascript", body=SCRIPT % self._tab.tag)


@pytest.fixture
def library(tab: Tab) -> Library:
    return Library(tab)


@pytest.mark.parametrize("where", ["offloaded", "web"])
class TestALibrary:
    def test_is_loaded_once_and_before_its_components_are_shown(
        self, tab: Tab, library: Library, where: str
    ) -> None:
        tab.click(where)
        library.asked_for()
        tab.shows("told", f"{where} 1")
        assert tab.text(f"{where}-place") == ""
        tab.has_title("Updating...")
        library.deliver()
        tab.shows(f"{where}-badge", "badge 1")
        tab.has_title("A page")

        tab.click(where)
        tab.shows(f"{where}-badge", "badge 2")
        assert len(library.held) == 1

    def test_that_cannot_be_loaded_is_an_error_and_is_tried_again(
        self, tab: Tab, library: Library, where: str
    ) -> None:
        tab.click(where)
        library.asked_for()
        library.held.pop().abort()

        def told() -> bool:
            tab.evaluate("null")
            return any("component library could not be loaded" in error for error in tab.errors)

        wait_for(told, "the error")
        tab.has_title("A page")
        assert tab.text(f"{where}-place") == ""
        tab.take_errors()  # the browser says, too, that it could not load the file

        tab.click(where)
        library.asked_for()
        library.deliver()
        tab.shows(f"{where}-badge", "badge 2")


class TestAnInstalledLibrary:
    """Only workers have imported it; the web process is asked for its files."""

    @pytest.fixture
    def app_name(self) -> str:
        return "browser_installed"

    @pytest.fixture(autouse=True)
    def installed(self, site: Site) -> None:
        for place, way in itertools.product(PLACES, WAYS):
            if not (site.stack.folder / name_of(place, way, True)).exists():
                write_library(site.stack.folder, name_of(place, way, True))

    @pytest.mark.parametrize("place", PLACES)
    def test_is_shown_on_every_page(self, tab: Tab, place: str) -> None:
        name = name_of(place, "websocket", True)
        for clicks in (1, 2):
            tab.click(f"{name}-in")
            tab.shows(f"{name}-badge", f"badge {clicks}")
        style = f"getComputedStyle(document.getElementById('{name}-badge')).color"
        wait_for(lambda: tab.evaluate(style) == "rgb(1, 2, 3)", "its stylesheet applies")
