"""What a generator yields over plain HTTP: one response that leaves the page in the same state."""

from typing import Any

import pytest

from dash_dispatch.merging import PATCH, Updates


def patch(*operations: str) -> dict[str, Any]:
    return {PATCH: PATCH, "operations": list(operations)}


def a(value: Any) -> dict[str, Any]:
    return {"a": {"x": value}}


@pytest.mark.parametrize(
    ("yielded", "returned", "side", "response"),
    [
        ([], {}, None, {}),
        ([1], {}, None, a(1)),
        ([1, 2], {}, None, a(2)),
        ([1], a(2), None, a(2)),
        ([None], {}, None, a(None)),
        ([patch("p")], {}, None, a(patch("p"))),
        ([patch("p"), patch("q", "r")], {}, None, a(patch("p", "q", "r"))),
        ([patch("p")], a(patch("q")), None, a(patch("p", "q"))),
        ([patch("p"), 1], {}, None, a(1)),
        ([1, patch("p"), patch("q")], {}, a(1), a(patch("p", "q"))),
        ([1, patch("p"), 2, patch("q")], {}, a(2), a(patch("q"))),
        ([1, patch("p")], a(3), None, a(3)),
        ([1], {"b": {"y": 2}}, None, {**a(1), "b": {"y": 2}}),
    ],
)
def test_the_last_word_on_each_property(
    yielded: list[Any], returned: dict[str, Any], side: Any, response: dict[str, Any]
) -> None:
    updates = Updates()
    for value in yielded:
        updates.add("a", "x", value)
    assert bool(updates) is bool(yielded)
    answer: dict[str, Any] = {"multi": True, "response": returned}
    updates.merge_into(answer)
    assert answer.get("sideUpdate") == side
    assert answer["response"] == response


def test_set_props_of_the_callback_stay() -> None:
    updates = Updates()
    updates.add("a", "x", 1)
    updates.add("a", "x", patch("p"))
    answer = {"multi": True, "sideUpdate": {"a": {"y": 2}, "b": {"z": 3}}, "response": {}}
    updates.merge_into(answer)
    assert answer["sideUpdate"] == {"a": {"x": 1, "y": 2}, "b": {"z": 3}}
