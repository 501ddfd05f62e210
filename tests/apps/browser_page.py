"""One page with all that the browser tests do.

Whatever is slow waits at a gate whose name begins with the page's tag: an input that each test
fills with a word of its own, or the text that is typed into a box.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from dash import Input, Output, Patch, State, dcc, html, set_props
from quart import Response, request

from dash_dispatch import Dash, Offload
from tests.apps.browser_gates import apass_gate, note, pass_gate

MANY = 20
STEPS = 50
GATED_STEPS = (10, 20, 30)
SECRET = "a secret detail"

app = Dash(__name__, prevent_initial_callbacks=True, title="A page")
server = app.server
tag = State("tag", "value")


@server.after_request  # type: ignore[untyped-decorator]
async def apply_policy(response: Response) -> Response:
    """A test sets the policy of its browser, for pages and scripts alike, by a cookie."""
    if policy := request.cookies.get("policy"):
        response.headers["Content-Security-Policy"] = unquote(policy)
    return response


def clicked(name: str) -> Input:
    return Input(name, "n_clicks")


def shown(name: str, **more: Any) -> Output:
    return Output(name, "children", **more)


# --- a slow and a fast box, for each kind of callback ---------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "def": {},
    "async": {},
    "offloaded-def": {"offload": True},
    "offloaded-async": {"offload": True},
    "offloaded-thread": {"offload": Offload(executor="thread")},
}


def add_boxes(kind: str) -> None:
    def answer(value: str) -> str:
        note("start", value, os.getpid())
        pass_gate(value)
        note("end", value)
        return f"{value} is done"

    async def answer_async(value: str) -> str:
        note("start", value, os.getpid())
        await apass_gate(value)
        note("end", value)
        return f"{value} is done"

    function: Callable[..., Any] = answer_async if "async" in kind else answer
    for speed in ("slow", "fast"):
        box = f"{kind}-{speed}"
        app.callback(shown(f"{box}-answer"), Input(box, "value"), **KINDS[kind])(function)


for kind in KINDS:
    add_boxes(kind)

boxes = [
    html.Div([dcc.Input(id=f"{kind}-{speed}"), html.Div(id=f"{kind}-{speed}-answer")])
    for kind in KINDS
    for speed in ("slow", "fast")
]


# --- a chain --------------------------------------------------------------------------------------


@app.callback(shown("chain-a"), clicked("chain"), tag, offload=True)
async def chain_a(clicks: int, tag: str) -> str:
    note("chain-a", tag)
    return f"{tag} a{clicks}"


@app.callback(shown("chain-b"), Input("chain-a", "children"), tag, offload=True)
def chain_b(before: str, tag: str) -> str:
    note("chain-b", tag)
    return f"{before} b"


@app.callback(shown("chain-c"), Input("chain-b", "children"), tag, offload=True)
async def chain_c(before: str, tag: str) -> str:
    note("chain-c", tag)
    return f"{before} c"


# --- many at a time, and a fast one ---------------------------------------------------------------


def add_slow(number: int) -> None:
    @app.callback(shown(f"many-{number}"), clicked("many"), tag, offload=True)
    async def slow(clicks: int, tag: str) -> str:
        note("many", tag, number)
        await apass_gate(f"{tag}-many")
        return f"{tag} {number}"


for number in range(MANY):
    add_slow(number)


@app.callback(shown("quick-http-answer"), clicked("quick-http"))
async def quick_http(clicks: int) -> str:
    return f"http {clicks}"


@app.callback(shown("quick-offloaded-answer"), clicked("quick-offloaded"), offload=True)
async def quick_offloaded(clicks: int) -> str:
    return f"offloaded {clicks}"


@app.callback(shown("quick-def-answer"), clicked("quick-def"), offload=True)
def quick_def(clicks: int) -> str:
    return f"def {clicks}"


# --- running=, cancel=, and every way to end ------------------------------------------------------


def add_task(kind: str, offload: Offload) -> None:
    def task(clicks: int, tag: str, what: str) -> str:
        note("task", tag, os.getpid())
        pass_gate(f"{tag}-task")
        return finish(tag, what)

    async def task_async(clicks: int, tag: str, what: str) -> str:
        note("task", tag, os.getpid())
        try:
            await apass_gate(f"{tag}-task")
        except asyncio.CancelledError:
            note("cancelled", tag)
            raise
        return finish(tag, what)

    def finish(tag: str, what: str) -> str:
        if what == "raise":
            raise ValueError(f"{SECRET} of {tag}")
        if what == "exit":
            os._exit(3)
        return f"{tag} {what}"

    app.callback(
        shown(f"{kind}-result"),
        clicked(f"{kind}-start"),
        tag,
        State("what", "value"),
        offload=offload,
        running=[
            (Output(f"{kind}-start", "disabled"), True, False),
            (shown(f"{kind}-state"), "busy", "idle"),
        ],
        cancel=[clicked(f"{kind}-cancel")],
    )(task_async if kind == "task-async" else task)


TASKS = {
    "task-def": Offload(),
    "task-async": Offload(),
    "task-doomed": Offload(queue="doomed"),
}
for kind, offload in TASKS.items():
    add_task(kind, offload)

tasks = [
    html.Div(
        [
            html.Button(f"start {kind}", id=f"{kind}-start"),
            html.Button(f"cancel {kind}", id=f"{kind}-cancel"),
            html.Div("at first", id=f"{kind}-state"),
            html.Div("nothing yet", id=f"{kind}-result"),
        ]
    )
    for kind in TASKS
]


# --- set_props ------------------------------------------------------------------------------------


def add_stream(kind: str) -> None:
    def step(tag: str, number: int) -> None:
        set_props(f"{kind}-step", {"children": f"{number}"})
        patch = Patch()
        patch.append(f"{tag}.{number}")
        set_props(f"{kind}-list", {"data": patch})

    def stream(clicks: int, tag: str) -> str:
        note("stream", tag, os.getpid())
        for number in range(STEPS):
            if number in GATED_STEPS:
                pass_gate(f"{tag}-step-{number}")
            step(tag, number)
        pass_gate(f"{tag}-last")
        return f"{tag} all"

    async def stream_async(clicks: int, tag: str) -> str:
        note("stream", tag, os.getpid())
        for number in range(STEPS):
            if number in GATED_STEPS:
                await apass_gate(f"{tag}-step-{number}")
            step(tag, number)
        await apass_gate(f"{tag}-last")
        return f"{tag} all"

    function: Callable[..., Any] = stream if kind == "stream-def" else stream_async
    where = {"websocket": True} if kind == "stream-web" else {"offload": True}
    app.callback(shown(f"{kind}-result"), clicked(kind), tag, **where)(function)

    # As text, so that a test can read it.
    app.clientside_callback(
        "list => list.join(' ')", shown(f"{kind}-all"), Input(f"{kind}-list", "data")
    )


STREAMS = ("stream-def", "stream-async", "stream-web")
for kind in STREAMS:
    add_stream(kind)

streams = [
    html.Div(
        [
            html.Button(kind, id=kind),
            dcc.Store(id=f"{kind}-list", data=[]),
            *(html.Div(id=f"{kind}-{part}") for part in ("step", "all", "result")),
        ]
    )
    for kind in STREAMS
]


# --- superseded -----------------------------------------------------------------------------------


@app.callback(shown("latest-answer"), clicked("latest"), tag, offload=True)
async def latest(clicks: int, tag: str) -> str:
    note("latest", tag, clicks)
    try:
        await apass_gate(f"{tag}-latest-{clicks}")
    except asyncio.CancelledError:
        note("cancelled", tag, clicks)
        raise
    return f"{tag} click {clicks}"


# --- a stream of the web process, for as long as its page is there --------------------------------


@app.callback(shown("tick-answer"), clicked("tick"), tag, websocket=True)
async def tick(clicks: int, tag: str) -> None:
    note("tick", tag)
    try:
        for count in range(100_000):
            set_props("tick-count", {"children": f"{tag} {count}"})
            await asyncio.sleep(0.05)
    finally:
        note("tick-ended", tag)


app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        dcc.Input(id="what", value="done"),
        *boxes,
        *tasks,
        *streams,
        *(
            html.Button(name, id=name)
            for name in (
                "chain", "many", "quick-http", "quick-offloaded", "quick-def", "latest", "tick",
            )
        ),
        *(
            html.Div(id=name)
            for name in (
                "chain-a", "chain-b", "chain-c", "quick-http-answer", "quick-offloaded-answer",
                "quick-def-answer", "latest-answer", "tick-count", "tick-answer",
            )
        ),
        *(
            html.Div(dcc.Loading(html.Div(id=f"many-{number}")), id=f"loading-{number}")
            for number in range(MANY)
        ),
    ]
)  # fmt: skip
