"""A browser tab with a Dash page in it, in the words of the tests."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect

from tests.stack import wait_for

WITHIN_MS = 30_000
"""Deadline of every condition; nothing waits for it to pass."""

_WATCH = """id => {
    const element = document.getElementById(id);
    const seen = (window.seen ??= {})[id] = [];
    new MutationObserver(() => {
        if (element.textContent !== seen.at(-1)) seen.push(element.textContent);
    }).observe(element, {subtree: true, childList: true, characterData: true});
}"""


def dict_id(**parts: object) -> str:
    """The DOM id of a component with a dict id, as a selector."""
    return f"[id='{json.dumps(dict(sorted(parts.items())), separators=(',', ':'))}']"


class Tab:
    """One page of a browser context, with all that it says on its console.

    Args:
        context: Whose tabs share storage, cookies and the SharedWorker.
        tag: Begins the names of this page's gates, and tells its calls from those of others.
    """

    def __init__(self, context: BrowserContext, tag: str) -> None:
        self.tag = tag
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WITHIN_MS)
        self.console: list[str] = []
        self.errors: list[str] = []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self._on_error(f"uncaught: {error}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._on_error(message.text)
        else:
            self.console.append(f"{message.type}: {message.text}")

    def _on_error(self, text: str) -> None:
        self.console.append(f"error: {text}")
        self.errors.append(text)

    def take_errors(self) -> list[str]:
        """The errors on the console so far, which the test expects."""
        errors, self.errors = self.errors, []
        return errors

    def await_error(self) -> str:
        """Wait for an error on the console, and take it. The test expects no other."""

        def first() -> list[str]:
            self.evaluate("null")  # events are heard of only while something is asked
            return self.errors

        wait_for(first, "an error on the console")
        [error] = self.take_errors()
        return error

    def await_errors(self, words: str) -> list[str]:
        """Wait for an error on the console that says this; takes it, and all before it."""

        def said() -> bool:
            self.evaluate("null")
            return any(words in error for error in self.errors)

        wait_for(said, f"an error that says {words!r}")
        return self.take_errors()

    def open(self, address: str, transport: str) -> None:
        """Load `browser_page`, and wait until its callbacks travel as they should."""
        self.page.goto(address)
        self.fill("tag", self.tag)
        self.travels_by(transport)

    def travels_by(self, transport: str) -> None:
        """Wait until callbacks travel that way: 'websocket' or 'polling'."""
        self.page.wait_for_function("window.dash_dispatch?.transport() !== 'connecting'")
        self.page.wait_for_function(
            "wanted => window.dash_dispatch.transport() === wanted", arg=transport
        )

    def click(self, name: str) -> None:
        self.page.click(f"#{name}")

    def fill(self, name: str, text: str) -> None:
        self.page.fill(f"#{name}", text)

    def text(self, name: str) -> str:
        """What the component shows now."""
        return self.page.inner_text(f"#{name}")

    def shows(self, name: str, text: str) -> None:
        """Wait until the component shows this text."""
        expect(self.page.locator(f"#{name}")).to_have_text(text, timeout=WITHIN_MS)

    def is_enabled(self, name: str, *, enabled: bool = True) -> None:
        """Wait until the component can be used, or can not."""
        expect(self.page.locator(f"#{name}")).to_be_enabled(enabled=enabled, timeout=WITHIN_MS)

    def has_title(self, title: str) -> None:
        """Wait for the document's title."""
        expect(self.page).to_have_title(title, timeout=WITHIN_MS)

    def watch(self, *names: str) -> None:
        """Begin to write down every text that these components show."""
        for name in names:
            self.page.evaluate(_WATCH, name)

    def seen(self, name: str) -> list[str]:
        """What the component has shown since `watch`, in order."""
        texts: list[str] = self.page.evaluate("id => window.seen[id]", name)
        return texts

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


class Gates:
    """The test's side of ``tests/apps/browser_gates.py``.

    Args:
        folder: Working directory of the stack.
    """

    def __init__(self, folder: Path) -> None:
        self._gates = folder / "gates"
        self._gates.mkdir(exist_ok=True)
        self._log = folder / "calls.log"

    def open(self, *names: str) -> None:
        """Let callbacks pass."""
        for name in names:
            (self._gates / name).touch()

    def log(self, *words: object) -> list[str]:
        """Lines that begin with these words; the rest of each."""
        if not self._log.exists():
            return []
        start = "".join(f"{word} " for word in words)
        lines = self._log.read_text().splitlines()
        return [line[len(start) :].strip() for line in lines if f"{line} ".startswith(start)]

    def logged(self, *words: object, count: int = 1) -> list[str]:
        """Wait for so many of those lines."""

        def enough() -> list[str]:
            lines = self.log(*words)
            return lines if len(lines) >= count else []

        lines: list[str] = wait_for(enough, f"{count} times {words} in the log")
        return lines
