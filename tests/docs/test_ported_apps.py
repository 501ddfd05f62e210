"""Apps for Celery and Diskcache, as they were and as they are here, played side by side.

Each runs on stock Dash with its manager, and moved; a browser clicks through both, and their pages
are the same after every step.
"""

import difflib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.conftest import CHROMIUM_ARGUMENTS
from tests.docs.pages import ROOT
from tests.programs import require_chromium
from tests.stack import Proc, RedisServer, Stack, free_port, wait_for

PORTED = ROOT / "examples" / "ported"
WITHIN_MS = 30_000

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

State = dict[str, Any]
"""What of a page a user sees: id → text, and whether it can be used, and how it looks."""

_STATE = """() => Object.fromEntries(
    [...document.querySelectorAll('#react-entry-point [id]')].map(element => [element.id, {
        tag: element.tagName,
        text: element.textContent,
        disabled: element.disabled ?? null,
        value: element.value ?? null,
        style: element.getAttribute('style'),
    }])
)"""


@dataclass(frozen=True)
class Side:
    """One of the two, served.

    Attributes:
        address: Where.
        folder: Its working directory.
    """

    address: str
    folder: Path


Visitor = Callable[..., Page]


class User:
    """Somebody who clicks through one side, and looks.

    Args:
        side: The app.
        context: The browser.
    """

    def __init__(self, side: Side, context: BrowserContext) -> None:
        self.side = side
        self._context = context
        self.page = context.new_page()
        self.page.set_default_timeout(WITHIN_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.states: list[State] = []

    def come(self, name: str, path: str = "/") -> None:
        """Open the app under a name."""
        self._context.clear_cookies()
        self._context.add_cookies([{"name": "user", "value": name, "url": self.side.address}])
        self.page.goto(self.side.address + path)

    def click(self, selector: str) -> None:
        self.page.click(selector)

    def sees(self, selector: str, text: str) -> None:
        """Wait for a text."""
        expect(self.page.locator(selector)).to_have_text(text, timeout=WITHIN_MS)

    def can_use(self, selector: str) -> None:
        """Wait until it is enabled."""
        expect(self.page.locator(selector)).to_be_enabled(timeout=WITHIN_MS)

    def look(self, *varying: tuple[str, str]) -> State:
        """Note the state of the page, but for what is another one from run to run."""
        state: State = self.page.evaluate(_STATE)
        for component, part in varying:
            state[component][part] = "…"
        self.states.append(state)
        return state


# --- what a user does ---------------------------------------------------------------------------

POLLED = ("progress_bar", "value")
"""On stock Dash, the last report that was polled, which need not be the last."""


def watch_progress(user: User) -> None:
    user.come("ann")
    user.can_use("#button_id")
    user.look()
    user.click("#button_id")
    user.page.wait_for_selector("#progress_bar[max='6']", state="attached")
    user.click("#cancel_button_id")
    user.can_use("#button_id")
    after_cancel = user.look(POLLED)
    assert after_cancel["paragraph_id"]["text"] == "Button not clicked"
    assert after_cancel["cancel_button_id"]["disabled"]
    user.click("#button_id")
    user.sees("#paragraph_id", "Clicked 2 times")
    user.can_use("#button_id")
    user.look(POLLED)


def make_reports(user: User) -> None:
    user.come("ann")
    for change, total in ((None, 19), ("plums", 22), ("plums", 19)):
        if change:
            user.click(f"#fruits >> text={change}")
        user.click("#make")
        user.sees("#total", f"{total} in all")
        user.can_use("#make")
        user.sees("#status", "")
        user.look()
    user.come("bob")
    user.click("#make")
    user.sees("#total", "19 in all")
    user.can_use("#make")
    user.look()
    # The third of ann's was kept; bob's is his own.
    asked = (user.side.folder / "queries.log").read_text().splitlines()
    assert asked == ["north apples pears", "north apples pears plums", "north apples pears"]


def turn_pages(user: User) -> None:
    user.come("ann")
    user.click("#count")
    user.sees("#words", "be: 2not: 1or: 1to: 2")
    user.can_use("#count")
    user.look()
    user.click("#to-models")
    user.page.wait_for_selector("h3")
    user.look()
    for model, epochs in (("small", 2), ("large", 5)):
        user.click(f"button[id*={model}]")
        user.sees(f"span[id*={model}]", f"{model}: trained 1 times, {epochs} epochs")
        user.can_use(f"button[id*={model}]")
        user.look()


APPS: dict[str, tuple[Callable[[User], None], int]] = {
    "progress": (watch_progress, 3),
    "report": (make_reports, 4),
    "pages": (turn_pages, 7),
}
"""App → what a user does, and how many lines had to be written to move it."""


# --- both sides ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser of these tests."""
    executable = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def sides(app: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """The app as it was, with Diskcache, and as it is."""
    old, old_script = taken(app, "before", tmp_path)
    new, new_script = taken(app, "after", tmp_path)
    port = free_port()
    env = {k: v for k, v in os.environ.items() if "DASH" not in k and k != "REDIS_URL"}
    stack = Stack(redis_server, new_script.removesuffix(".py"), new)
    stock = Proc("before", [sys.executable, old_script], env | {"PORT": str(port)}, old)
    try:
        [address] = stack.up()
        old_address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(old_address, stock), "the app as it was is served")
        yield Side(old_address, old), Side(address, new)
    finally:
        stock.end()
        stack.end()


def taken(app: str, which: str, tmp_path: Path) -> tuple[Path, str]:
    """A copy of an app in a folder of its own, and its script."""
    target = tmp_path / which
    source = PORTED / app / which
    if source.is_dir():
        shutil.copytree(source, target)
        return target, "app.py"
    target.mkdir()
    shutil.copy(source.with_suffix(".py"), target)
    return target, f"{which}.py"


def answers(address: str, proc: Proc) -> bool:
    assert proc.process.poll() is None, proc.log
    try:
        return httpx.get(f"{address}/_dash-layout", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


# --- tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", APPS)
def test_a_moved_app_shows_what_it_showed_before(
    app: str, chromium: Browser, sides: tuple[Side, Side]
) -> None:
    act, _ = APPS[app]
    states = [clicked_through(act, side, chromium) for side in sides]
    assert states[1] == states[0]


def clicked_through(act: Callable[[User], None], side: Side, chromium: Browser) -> list[State]:
    """The states of the page on the way."""
    context = chromium.new_context()
    try:
        user = User(side, context)
        act(user)
        assert user.errors == []
        return user.states
    finally:
        context.close()


@pytest.mark.parametrize("app", APPS)
def test_little_had_to_be_changed(app: str) -> None:
    _, most = APPS[app]
    changed = [line for pair in pairs(app) for line in differing(*pair)]
    written = [line for line in changed if line.startswith("+")]
    assert 0 < len(written) <= most, changed
    # Nothing but where things come from, the manager, and what was an argument of it.
    words = ("import", "anager", "cache", "Dash(", "elery", "REDIS_URL", "else:")
    assert [line for line in changed if not any(word in line for word in words)] == []


def pairs(app: str) -> list[tuple[Path, Path]]:
    """The files of an app, as they were and as they are."""
    folder = PORTED / app / "before"
    if not folder.is_dir():
        return [(folder.with_suffix(".py"), PORTED / app / "after.py")]
    olds = sorted(folder.rglob("*.py"))
    return [(old, PORTED / app / "after" / old.relative_to(folder)) for old in olds]


def differing(old: Path, new: Path) -> list[str]:
    """Lines of code that were taken out or put in."""
    diff = difflib.ndiff(code(old), code(new))
    return [line for line in diff if line[:2] in ("- ", "+ ")]


def code(path: Path) -> list[str]:
    """Lines below the docstring, empty ones left out."""
    _, _, rest = path.read_text().split('"""', 2)
    return [line for line in rest.splitlines() if line.strip()]


def test_every_ported_app_is_played() -> None:
    assert {path.name for path in PORTED.iterdir() if path.is_dir()} == APPS.keys()
