"""``dash_dispatch.ctx``: all of ``dash.ctx``, and the call that runs."""

import contextvars
import json
from collections.abc import Iterator
from typing import Any

import dash
import orjson
import pytest
from dash import Input, Output, _callback, html
from dash.exceptions import MissingCallbackContextException

from dash_dispatch import ConfigError, Dash, Settings, bridge, ctx
from dash_dispatch.protocol import CallbackBody, CallSpec, RequestSnapshot
from tests.unit.test_streaming import Sink

SETTINGS = Settings(redis_url=None)


@pytest.fixture
def app() -> Iterator[Dash]:
    made = Dash("context", dispatch_settings=SETTINGS)
    made.layout = html.Div()
    yield made
    _callback.GLOBAL_CALLBACK_MAP.clear()
    _callback.GLOBAL_CALLBACK_LIST.clear()


BODY = CallbackBody(
    "a.children",
    {"id": "a", "property": "children"},
    [{"id": "in", "property": "value", "value": 3}],
    None,
    ["in.value"],
)


def asks(app: Dash, question: Any, **options: Any) -> None:
    app.callback(Output("a", "children"), Input("in", "value"), **options)(lambda _: question())
    bridge.ready(app)


def answer(invocation: bridge.Invocation) -> Any:
    return json.loads(invocation.run())["response"]["a"]["children"]


def test_it_is_dashs_own_and_more() -> None:
    assert isinstance(ctx, type(dash.ctx))
    assert set(dir(dash.ctx)) <= set(dir(ctx))


def test_outside_of_a_callback() -> None:
    for ask in (
        lambda: ctx.call_id,
        lambda: ctx.attempt,
        lambda: ctx.worker,
        ctx.is_cancelled,
    ):
        with pytest.raises(MissingCallbackContextException):
            contextvars.Context().run(ask)


def test_what_an_offloaded_call_is_told(app: Dash) -> None:
    asks(
        app,
        lambda: [ctx.call_id, ctx.attempt, ctx.worker, ctx.is_cancelled(), ctx.triggered_id],
        offload=True,
    )
    payload = orjson.dumps(
        {
            "output": BODY.output,
            "outputs": BODY.outputs,
            "inputs": BODY.inputs,
            "changedPropIds": BODY.changedPropIds,
        }
    )
    for stream in (True, False):
        spec = CallSpec(
            "the id", "s", "p", "r", BODY.output, "lane", 1, payload, b"{}", stream=stream
        )
        sink = Sink()
        invocation = bridge.bind_call(app, spec, sink, 2, "w1")
        sink.is_shutdown = True
        assert answer(invocation) == ["the id", 2, "w1", True, "in"]
        sink.is_shutdown = False
        assert answer(bridge.bind_call(app, spec, sink)) == ["the id", 1, "", False, "in"]


def test_what_a_callback_over_plain_http_is_told(app: Dash) -> None:
    asks(app, lambda: [ctx.call_id, ctx.attempt, ctx.worker, ctx.is_cancelled()])
    invocation = bridge.bind(app, BODY, RequestSnapshot(), None)
    assert answer(invocation) == ["", 1, "", False]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda response: response.set_cookie("k", "v"), "the cookie 'k' cannot be sent"),
        (lambda response: response.append_header("X-A", "v"), "the header 'X-A' cannot be sent"),
        (lambda response: response.set_header("X-A", "v"), "the header 'X-A' cannot be sent"),
    ],
)
@pytest.mark.parametrize("context", [ctx, dash.ctx], ids=["ours", "dash's"])
def test_a_response_that_nothing_can_carry(app: Dash, context: Any, what: Any, words: str) -> None:
    asks(app, lambda: what(context.response), websocket=True)
    with pytest.raises(NotImplementedError, match=f"{words}.*over plain HTTP"):
        bridge.bind(app, BODY, RequestSnapshot(), Sink()).run()
    over_http = bridge.bind(app, BODY, RequestSnapshot(), None)
    over_http.run()
    assert over_http.response.encode() != b""


# --- Dash(user=) ---------------------------------------------------------------------------------


def test_who_the_user_is_says_a_function() -> None:
    def user(request: RequestSnapshot) -> str:
        return request.cookies["who"]

    made = Dash("user", dispatch_settings=SETTINGS, user=user)
    assert made.user_of is user
    assert Dash("nobody", dispatch_settings=SETTINGS).user_of is None


@pytest.mark.parametrize("user", ["alice", 3, True, {}])
def test_a_user_that_is_no_function(user: Any) -> None:
    with pytest.raises(ConfigError, match=r"user=.*takes a function of the request"):
        Dash("user", dispatch_settings=SETTINGS, user=user)
