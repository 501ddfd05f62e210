"""Callbacks as they are written for Celery or Diskcache, with no manager; and what they may ask."""

import asyncio
import time
from pathlib import Path

import tqdm.auto
from dash import MATCH, Input, Output, Patch, State, dcc, html, no_update

from dash_dispatch import Dash, Offload, callback, ctx

app = Dash(__name__)
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="bar"), html.Div(id="words")])
asked = Input("in", "data")
BAR = [Output("bar", "value"), Output("bar", "max"), Output("words", "children")]


def note(tag, what):
    Path(f"{tag}.{what}").touch()


def released(tag):
    return Path(f"{tag}.go").exists()


def steps(set_progress, count):
    for step in range(count):
        set_progress((step, count, html.B(f"step {step}")))
    patch = Patch()
    patch["children"] = "patched"
    set_progress([no_update, no_update, patch])


@callback(
    Output("process", "children"),
    asked,
    background=True,
    interval=50,
    progress=BAR,
    progress_default=[0, 1, ""],
    running=[(Output("run", "disabled"), True, False)],
)
def in_process(set_progress, count):
    steps(set_progress, count)
    return f"{count} steps"


@app.callback(Output("thread", "children"), asked, offload=Offload(executor="thread"), progress=BAR)
def in_thread(set_progress, count):
    steps(set_progress, count)
    return f"{count} steps"


@app.callback(Output("loop", "children"), asked, background=True, progress=BAR)
async def on_loop(set_progress, count):
    steps(set_progress, count)
    await asyncio.sleep(0)
    return f"{count} steps"


def bars(count):
    """Two loops, one in the other, as they would stand in a script."""
    for step in tqdm.auto.trange(count, mininterval=0, miniters=1):
        for _ in tqdm.auto.tqdm(range(7), mininterval=0):
            pass
        yield step


def register_tqdm(name, **options):
    @app.callback(Output(f"tqdm-{name}", "children"), asked, progress=BAR, **options)
    def function(_, count):
        return len(list(bars(count)))


register_tqdm("process", background=True)
register_tqdm("thread", offload=Offload(executor="thread"))


@app.callback(Output("tqdm-loop", "children"), asked, background=True, progress=BAR)
async def tqdm_on_loop(_, count):
    for _step in bars(count):
        await asyncio.sleep(0)
    return count


def of(kind):
    return {"kind": kind, "index": MATCH}


@app.callback(
    Output(of("result"), "children"),
    Input(of("run"), "n_clicks"),
    State(of("tag"), "data"),
    background=True,
    progress=Output(of("bar"), "value"),
    progress_default=0,
    cancel=Input(of("stop"), "n_clicks"),
)
def matched(set_progress, _, tag):
    set_progress(tag)
    note(tag, "started")
    while not released(tag):
        time.sleep(0.01)
    return tag


@app.callback(
    Output("polite", "children"),
    asked,
    offload=Offload(executor="thread"),
    cancel=Input("stop", "n_clicks"),
)
def polite(tag):
    note(tag, "started")
    while not ctx.is_cancelled():
        time.sleep(0.01)
    note(tag, "cancelled")


@app.callback(Output("told", "children"), asked, offload=True)
def told(_):
    return [ctx.call_id, ctx.attempt, ctx.worker, ctx.is_cancelled(), ctx.triggered_id]


@app.callback(Output("cookie", "children"), asked, offload=True)
def cookie(value):
    ctx.response.set_cookie("baked", str(value))
    return "set"


@app.callback(Output("local-cookie", "children"), asked, websocket=True)
def local_cookie(value):
    ctx.response.set_cookie("baked", str(value))
    return "set"


@app.callback(Output("breaks", "children"), asked, background=True, progress=BAR)
def breaks(set_progress, _):
    set_progress((1, 2, "so far"))
    raise ValueError("a user's words")
