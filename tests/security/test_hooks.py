"""The app's websocket hooks, whatever they answer and whatever they are asked about."""

from typing import Any

import msgspec
import pytest

from dash_dispatch import guards
from dash_dispatch.protocol import CallMessage, PingMessage


class App:
    """As much of a Dash app as hooks need."""

    def __init__(self, answer: object) -> None:
        self._hooks = self
        self._answer = answer
        self.asked: list[Any] = []

    def get_hooks(self, _name: str) -> list[Any]:
        return [self._hook]

    async def _hook(self, *args: Any) -> object:
        self.asked.append(args)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


REFUSALS: dict[str, tuple[object, tuple[int, str]]] = {
    "no": (False, (4001, "Rejected")),
    "an error": (RuntimeError("inside"), (4001, "Authentication error")),
    "a code of its own": ((4403, "who are you?"), (4403, "who are you?")),
    "a code that no websocket can say": ((99_999, "so"), (4001, "so")),
    "a code for connections that were lost": ((1006, "so"), (4001, "so")),
    "no number": (("4403", "so"), (4001, "so")),
    "no text": ((4403, None), (4403, "None")),
    "a long text": ((4403, "ü" * 200), (4403, "ü" * 61)),
    "half a character": ((4403, "\ud800"), (4403, "?")),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_hook_that_refuses_is_heard(name: str) -> None:
    answer, refusal = REFUSALS[name]
    assert await guards.run_connect_hooks(App(answer), None) == refusal


@pytest.mark.parametrize("answer", [True, None, (), (1, 2, 3), "fine"])
async def test_all_else_lets_in_as_with_dash(answer: object) -> None:
    assert await guards.run_connect_hooks(App(answer), None) is None


@pytest.mark.parametrize("payload", [b"[" * 2000 + b"]" * 2000, b'{"a":"\\ud800"}'])
async def test_what_a_hook_cannot_be_shown_does_not_pass_it(payload: bytes) -> None:
    app = App(True)
    message = CallMessage("page", "request", msgspec.Raw(payload))
    assert await guards.run_message_hooks(app, None, message) == (4001, "not a callback request")
    assert not app.asked


async def test_a_message_is_shown_in_the_form_of_dash() -> None:
    app = App(True)
    message = CallMessage("page", "request", msgspec.Raw(b'{"output":"a.b"}'))
    assert await guards.run_message_hooks(app, "connection", message) is None
    assert await guards.run_message_hooks(app, "connection", PingMessage()) is None
    known = {"type": "callback_request", "rendererId": "page", "requestId": "request",
             "payload": {"output": "a.b"}}  # fmt: skip
    assert app.asked == [("connection", known), ("connection", {"type": "heartbeat"})]
