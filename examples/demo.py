"""The demo: one page, every kind of callback, over gapminder's data.

    python examples/demo.py

and open http://127.0.0.1:8050. With no Redis configured this starts a private one and a worker.
With one (DASH_DISPATCH_REDIS_URL, and DASH_DISPATCH_SECRET_KEY for the web), on as many machines as
wanted:

    hypercorn examples/demo:server
    DASH_DISPATCH_APP=examples/demo.py:app arq dash_dispatch.worker
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import ALL, MATCH, ClientsideFunction, Input, Output, State, html, set_props
from demo_layout import layout
from gapminder import (
    BY_YEAR,
    DATA,
    MEASURES,
    Array,
    Figure,
    bootstrap,
    bubbles,
    finding,
    most_alike,
    preston_figure,
    words,
)

from dash_dispatch import Dash

app = Dash(__name__, title="dash_dispatch", update_title=None, assets_folder="demo_assets")
server = app.server
app.layout = layout()  # made once: it is the same for everyone


def where(place: str, since: float) -> str:
    """What stands at the foot of each card: who answered, and how long the work took."""
    took = time.perf_counter() - since
    shown = f"{took:.1f} s" if took >= 1 else f"{took * 1000:.0f} ms"
    return f"{place} {os.getpid()} · {shown}"


# 1. A filter that answers at once: `async def` runs on the event loop, so it must be quick.


@app.callback(
    Output("bubbles", "figure"),
    Output("bubbles-where", "children"),
    Input("year", "value"),
    Input("continents", "value"),
    Input("country", "value"),
)
async def show_bubbles(year: int, continents: list[str], country: str) -> tuple[Figure, str]:
    since = time.perf_counter()
    return bubbles(year, continents, country), where("Event loop of web process", since)


app.clientside_callback(
    "clicked => clicked?.points[0].customdata ?? dash_clientside.no_update",
    Output("country", "value"),
    Input("bubbles", "clickData"),
    prevent_initial_call=True,
)


# 2. A query: `def` runs in a thread, so blocking libraries (pandas, a database driver) are fine.


@app.callback(
    Output("facts", "children"),
    Output("facts-where", "children"),
    Input("country", "value"),
    Input("year", "value"),
)
def show_country(country: str, year: int) -> tuple[list[Any], str]:
    since = time.perf_counter()
    history = DATA[DATA["country"] == country].set_index("year")
    world = BY_YEAR[year].set_index("country")
    ranks = world[list(MEASURES)].rank(ascending=False).loc[country]
    facts = [
        html.Div(
            [
                labelled(label, words(name, history.loc[year, name])),
                dmc.Sparkline(data=history[name].tolist(), **SPARK),
                labelled("rank", f"{ranks[name]:.0f}"),
            ],
            className="fact",
        )
        for name, label in MEASURES.items()
    ]
    return [*facts, alike_table(country, year)], where("Thread of web process", since)


def labelled(label: str, value: str) -> html.Div:
    return html.Div([html.Div(label, className="label"), html.Div(value)])


SPARK = {"w": 70, "h": 26, "color": "blue", "fillOpacity": 0.12, "strokeWidth": 1.5}


def alike_table(country: str, year: int) -> dmc.Table:
    rows = [
        [name, f"{row['lifeExp']:.1f}", f"${row['gdpPercap']:,.0f}"]
        for name, row in most_alike(country, year).iterrows()
    ]
    return dmc.Table(
        data={"head": [f"Most alike in {year}", "Years", "GDP"], "body": rows},
        className="alike",
        fz=12,
        tabularNums=True,
        verticalSpacing=4,
        horizontalSpacing=0,
    )


# 3. The heavy one: `offload=True` sends it to a worker process. set_props reaches the page as it
#    happens; `cancel` ends the process in mid-computation.


@app.callback(
    Output("curves", "figure"),
    Output("progress-note", "children"),
    Output("curves-where", "children"),
    Input("run", "n_clicks"),
    State("draws", "value"),
    running=[
        (Output("run", "loading"), True, False),
        (Output("cancel", "disabled"), False, True),
        (Output("draws", "disabled"), True, False),
        (Output("progress", "animated"), True, False),
    ],
    cancel=[Input("cancel", "n_clicks")],
    prevent_initial_call=True,
    offload=True,
)
def compare(n_clicks: int, draws: str) -> tuple[Figure, str, str]:
    since = time.perf_counter()
    total = int(draws)
    drawn: list[tuple[Array, Array]] = []
    set_props("curves-where", {"children": f"Worker process {os.getpid()} · running"})
    for pair in bootstrap(total):
        drawn.append(pair)
        if len(drawn) % (total // 20) == 0:
            set_props("progress", {"value": 100 * len(drawn) / total})
            set_props("progress-note", {"children": f"{len(drawn):,} of {total:,} draws"})
            set_props("curves", {"figure": preston_figure(drawn)})
    return preston_figure(drawn), finding(drawn), where("Worker process", since)


@app.callback(
    Output("curves-where", "children", allow_duplicate=True),
    Input("cancel", "n_clicks"),
    prevent_initial_call=True,
)
async def say_cancelled(n_clicks: int) -> str:
    return "Cancelled: its process was ended in mid-computation"


# 4. Two boxes. The four slow ones differ in one thing only: where they wait.

Answer = dict[str, str]


def slow_box(kind: str) -> tuple[Output, Input]:
    names = {"kind": kind, "speed": "slow"}
    return Output({"part": "answer", **names}, "data"), Input({"part": "text", **names}, "value")


@app.callback(*slow_box("blocking"), prevent_initial_call=True)
async def answer_blocking(text: str) -> Answer:
    time.sleep(2)  # noqa: ASYNC251 - the mistake to show: nothing else runs on the loop meanwhile
    return {"text": text, "from": f"event loop of {os.getpid()}"}


@app.callback(*slow_box("thread"), prevent_initial_call=True)
def answer_in_thread(text: str) -> Answer:
    time.sleep(2)
    return {"text": text, "from": f"thread of {os.getpid()}"}


@app.callback(*slow_box("async"), prevent_initial_call=True)
async def answer_async(text: str) -> Answer:
    await asyncio.sleep(2)
    return {"text": text, "from": f"event loop of {os.getpid()}"}


@app.callback(*slow_box("offload"), prevent_initial_call=True, offload=True)
def answer_offloaded(text: str) -> Answer:
    time.sleep(2)
    return {"text": text, "from": f"worker {os.getpid()}"}


@app.callback(
    Output({"part": "answer", "kind": MATCH, "speed": "fast"}, "data"),
    Input({"part": "text", "kind": MATCH, "speed": "fast"}, "value"),
    prevent_initial_call=True,
)
async def answer_fast(text: str) -> Answer:
    return {"text": text, "from": f"event loop of {os.getpid()}"}


# The browser's own clock takes the time, from the letter typed to the answer shown. Two callbacks:
# one that had both inputs would run only when the answer is there.
app.clientside_callback(
    ClientsideFunction("demo", "typed"),
    Output({"part": "shown", "kind": MATCH, "speed": MATCH}, "children"),
    Output({"part": "latency", "kind": MATCH, "speed": MATCH}, "children"),
    Output({"part": "latency", "kind": MATCH, "speed": MATCH}, "c"),
    Input({"part": "text", "kind": MATCH, "speed": MATCH}, "value"),
    prevent_initial_call=True,
)
app.clientside_callback(
    ClientsideFunction("demo", "answered"),
    Output({"part": "shown", "kind": MATCH, "speed": MATCH}, "children", allow_duplicate=True),
    Output({"part": "latency", "kind": MATCH, "speed": MATCH}, "children", allow_duplicate=True),
    Output({"part": "latency", "kind": MATCH, "speed": MATCH}, "c", allow_duplicate=True),
    Input({"part": "answer", "kind": MATCH, "speed": MATCH}, "data"),
    prevent_initial_call=True,
)


# 5. The strip: how late the event loop is, and who answers.


class LoopLag:
    """How much later than asked the event loop wakes a sleeper: what every callback on it waits."""

    NAP_S = 0.05
    BIN_S = 0.5

    def __init__(self) -> None:
        self.bins_s = deque([0.0] * 60, maxlen=60)  # 30 s, the worst of each half second

    async def watch(self) -> None:
        """Measure for as long as the server runs."""
        clock = asyncio.get_running_loop().time
        while True:
            start, worst_s = clock(), 0.0
            while clock() < start + self.BIN_S:
                due = clock() + self.NAP_S
                await asyncio.sleep(self.NAP_S)
                worst_s = max(worst_s, clock() - due)
            # A loop that was held for two seconds is four bins wide.
            self.bins_s.extend([worst_s] * round((clock() - start) / self.BIN_S))

    def bars(self) -> list[html.I]:
        """One bar per bin; height by logarithm, from 1 ms to 2 s."""
        heights = (np.log10(max(lag_s * 1000, 1)) / np.log10(2000) for lag_s in self.bins_s)
        return [
            html.I(
                style={"height": f"{max(6, min(100, 100 * height)):.0f}%"},
                className="bad" if lag_s > 0.2 else "fair" if lag_s > 0.04 else "good",
            )
            for lag_s, height in zip(self.bins_s, heights, strict=True)
        ]


lag = LoopLag()


@server.while_serving
async def watch_lag() -> AsyncIterator[None]:
    task = asyncio.create_task(lag.watch())
    yield
    task.cancel()
    await asyncio.wait([task])


@app.callback(
    Output("lag", "children"),
    Output("lag-worst", "children"),
    Output("lag-bars", "children"),
    Output("web-pid", "children"),
    Input("second", "n_intervals"),
)
async def show_lag(_: int | None) -> tuple[str, str, list[html.I], int]:
    latest, worst = max(list(lag.bins_s)[-2:]), max(lag.bins_s)
    return f"{latest * 1000:,.1f} ms", f"{worst * 1000:,.0f} ms", lag.bars(), os.getpid()


app.clientside_callback(
    ClientsideFunction("demo", "transport"),
    Output("transport", "children"),
    Input("second", "n_intervals"),
)

app.clientside_callback(
    ClientsideFunction("demo", "lastAnswer"),
    Output("last-answer", "children"),
    Input("bubbles-where", "children"),
    Input("facts-where", "children"),
    Input("curves-where", "children"),
    Input({"part": "answer", "kind": ALL, "speed": ALL}, "data"),
    prevent_initial_call=True,
)


if __name__ == "__main__":
    app.run()
