"""What the streaming callbacks of ``tests/apps/browser_page.py`` have to leave on the page."""

from tests.browser.tab import Tab

STEPS = 50
GATED_STEPS = (10, 20, 30)


def all_steps(tab: Tab) -> str:
    """What the steps' patches make of an empty list, each applied once and in order."""
    return " ".join(f"{tab.tag}.{number}" for number in range(STEPS))


def check_order(tab: Tab, kind: str) -> None:
    """Steps that arrive together are rendered together, so some need not be seen."""
    steps = [int(text) for text in tab.seen(f"{kind}-step")]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS - 1
    assert tab.seen(f"{kind}-result") == [f"{tab.tag} all"]
    assert tab.text(f"{kind}-all") == all_steps(tab)
