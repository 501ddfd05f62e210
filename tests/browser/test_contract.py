"""What the scripts rely on inside Dash's renderer, in both of its builds."""

from pathlib import Path

import dash
import pytest
from playwright.sync_api import expect

from tests.browser.tab import WITHIN_MS, Gates, Tab

pytestmark = pytest.mark.browser

BUILD = Path(dash.__file__).parent / "dash-renderer" / "build"

ACTIONS = [
    f"Callbacks.{name}"
    for name in (
        "Aggregate", "AddBlocked", "RemoveBlocked", "AddWatched", "RemoveWatched", "AddExecuted",
        "Completed",
    )
]  # fmt: skip
MESSAGES = [
    "connect", "connected", "disconnect", "callback_request", "callback_response", "set_props",
    "set_props_batch", "get_props_request", "get_props_response", "tab_visible", "prevent_update",
]  # fmt: skip

LOOK = """() => {
    const [store, ...others] = window.dash_stores;
    const {callbacks, config, paths, error, loading} = store.getState();
    const lists = ['requested', 'prioritized', 'blocked', 'executing', 'watched', 'executed'];
    return {
        others: others.length,
        lists: lists.filter(name => Array.isArray(callbacks[name])),
        counter: typeof callbacks.completed,
        worker: config.websocket.worker_url,
        enabled: Boolean(config.websocket.enabled),
        paths: [typeof paths.strs, typeof paths.objs],
        errors: Array.isArray(error.backEnd),
        loading: typeof loading,
        version: window.dash_dispatch.version
    };
}"""

PENDING = """() => {
    const {callbacks, paths} = window.dash_stores[0].getState();
    const {blocked, watched, executing} = callbacks;
    const isPending = entry =>
        typeof entry.executionPromise?.then === 'function' &&
        typeof entry.getOutputs === 'function' &&
        entry.getOutputs(paths).length > 0 &&
        typeof entry.callback.output === 'string' &&
        entry.callback.dispatch.overlap === 'latest' &&
        (typeof entry.anyVals === 'string' || Array.isArray(entry.anyVals));
    return {
        counted: executing.length + watched.length,
        pending: [...blocked, ...watched].filter(isPending).length
    };
}"""


@pytest.mark.parametrize("build", ["min", "dev"])
@pytest.mark.parametrize("word", ["window.dash_stores", "LOADING", *ACTIONS, *MESSAGES])
def test_a_build_knows_the_word(build: str, word: str) -> None:
    text = (BUILD / f"dash_renderer.{build}.js").read_text()
    forms = (f"'{word}'", f'"{word}"', f"{word}=", f"{word} =")
    assert any(form in text for form in forms)


@pytest.mark.parametrize("app_name", ["browser_page", "browser_debug"])
@pytest.mark.parametrize("transport", ["websocket"])
class TestARunningRenderer:
    def test_is_as_we_know_it(self, tab: Tab, app_name: str) -> None:
        build = "dev" if app_name == "browser_debug" else "min"
        renderer = tab.page.locator(f"script[src*='dash_renderer.'][src$='.{build}.js']")
        expect(renderer).to_have_count(1, timeout=WITHIN_MS)
        found = tab.evaluate(LOOK)
        assert "/_dash-dispatch/worker." in found.pop("worker")
        assert found == {
            "others": 0,
            "lists": ["requested", "prioritized", "blocked", "executing", "watched", "executed"],
            "counter": "number",
            "enabled": False,
            "paths": ["object", "object"],
            "errors": True,
            "loading": "object",
            "version": 1,
        }

    def test_has_more_pending_than_it_counts(self, tab: Tab, gates: Gates) -> None:
        tab.click("many")
        gates.logged("many", tab.tag, count=20)
        found = tab.evaluate(PENDING)
        assert found["pending"] == 20
        assert found["counted"] < 12
        gates.open(f"{tab.tag}-many")
        for number in range(20):
            tab.shows(f"many-{number}", f"{tab.tag} {number}")
        tab.has_title("A page")
        assert tab.evaluate(PENDING) == {"counted": 0, "pending": 0}
