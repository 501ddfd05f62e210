"""The forms of the parity tests in a real page: it ends as with stock Dash's server.

`tests/parity` plays them everywhere, on a model of the page. Here the page is the renderer's.
"""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.apps import parity_forms
from tests.browser.conftest import TRANSPORTS, Serve, Site
from tests.browser.proxy import Proxy
from tests.browser.tab import WITHIN_MS
from tests.parity import test_matrix as matrix

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

PLACE = "worker-process"

SETTLED = """() => {
    const state = window.dash_stores?.[0]?.getState();
    if (!state?.callbacks || state.appLifecycle !== 'HYDRATED') return false;
    const {completed, stored, ...busy} = state.callbacks;
    return Object.values(busy).every(callbacks => callbacks.length === 0);
}"""
"""Whether no callback is on its way."""

STATE = """() => {
    const {layout, error} = window.dash_stores[0].getState();
    return {layout: layout.components, errors: error.backEnd.map(({error}) => error.message)};
}"""

ASSET = "window.dash_clientside = {parity: {asset: text => `asset ${text}`}}"

SETTLED_MS = 4 * WITHIN_MS

DO = """changes => changes.forEach(
    ([id, prop, value]) => window.dash_clientside.set_props(id, {[prop]: value})
)"""


class Ended:
    """A page after every form's user has done everything."""

    def __init__(self, state: dict[str, Any], kits: dict[str, Any]) -> None:
        self._kits = kits
        self._sections: dict[str, Any] = {}
        for part in state["layout"]["props"]["children"]:
            for name in set(matrix.FORM.findall(json.dumps(part))):
                self._sections.setdefault(name, part)
        self.errors: list[str] = state["errors"]

    def of(self, form: str) -> Any:
        """What the components of a form have become."""
        kit = self._kits[form]
        text = json.dumps(self._sections[matrix.name_of(kit)], sort_keys=True)
        return json.loads(matrix.unnamed(_WHEN.sub("", text), kit))


_WHEN = re.compile(r', "modified_timestamp": -?\d+')


def play(context: BrowserContext, address: str, kits: dict[str, Any]) -> Ended:
    """Do all that the users of the forms do, step by step, everybody at once."""
    page = context.new_page()
    page.add_init_script(ASSET)
    page.goto(address)
    page.wait_for_function(SETTLED, timeout=SETTLED_MS)
    for number in range(max(len(kit.steps) for kit in kits.values())):
        steps = [kit.steps[number] for kit in kits.values() if number < len(kit.steps)]
        page.evaluate(DO, [change for step in steps for change in step])
        page.wait_for_function(SETTLED, timeout=SETTLED_MS)
    ended = Ended(page.evaluate(STATE), kits)
    page.close()
    return ended


def forms_of(place: str) -> dict[str, Any]:
    """The forms that are on the page itself."""
    return {kit.name: kit for kit in parity_forms.build(place, browser=True)}


FORMS = forms_of("stock")


@pytest.fixture(scope="module")
def stock(chromium: Browser, serve: Serve) -> Ended:
    """Stock Dash's page, over POST."""
    site = serve("parity_browser_stock", worker=False)
    context = chromium.new_context()
    try:
        return play(context, f"http://127.0.0.1:{site.port}", forms_of("stock"))
    finally:
        context.close()


@pytest.fixture(scope="module")
def endings(chromium: Browser, serve: Serve) -> dict[str, Ended]:
    """Ours, by transport."""
    site: Site = serve("parity_browser")
    found = {}
    for transport in TRANSPORTS.values():
        proxy = Proxy(site.port, refuse_upgrades=transport == "polling")
        context = chromium.new_context()
        try:
            found[transport] = play(context, proxy.address, forms_of(PLACE))
        finally:
            context.close()
            proxy.end()
    return found


@pytest.mark.parametrize("transport", TRANSPORTS.values())
@pytest.mark.parametrize("form", [name for name, kit in FORMS.items() if not kit.streamed])
def test_a_real_page_ends_as_with_stock_dash(
    stock: Ended, endings: dict[str, Ended], form: str, transport: str
) -> None:
    assert endings[transport].of(form) == stock.of(form)


@pytest.mark.parametrize("transport", TRANSPORTS.values())
def test_as_many_errors_reach_the_page(
    stock: Ended, endings: dict[str, Ended], transport: str
) -> None:
    assert len(endings[transport].errors) == len(stock.errors) > 0
