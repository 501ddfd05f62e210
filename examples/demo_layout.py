"""What the demo's page looks like; `demo.py` has what it does."""

from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html
from gapminder import CONTINENTS, DATA, FONT, LATE, YEARS, Figure, bubbles, preston_figure

KINDS = {
    # kind: colour, title, how the slow box is answered, what one sees
    "blocking": (
        "red",
        "Blocking",
        "async def + time.sleep",
        "Holds the event loop: every page waits. Stock Dash on Quart does so for any def.",
    ),
    "thread": (
        "blue",
        "Threaded",
        "def + time.sleep",
        "Waits in a thread of the web process. The loop stays free.",
    ),
    "async": (
        "teal",
        "Async",
        "async def + await sleep",
        "Waits on the loop and lets it go on. Costs nothing.",
    ),
    "offload": (
        "violet",
        "Offloaded",
        "offload=True",
        "Calls time.sleep in a worker process. The web process has nothing to do.",
    ),
}


def kind_badge(text: str, color: str) -> dmc.Badge:
    return dmc.Badge(
        text, color=color, variant="light", radius="sm", tt="none", fw=500, className="code"
    )


def card(title: str, aside: str, badge: dmc.Badge, body: list[Any], foot: html.Div) -> dmc.Card:
    head = dmc.Group(
        [dmc.Text(title, fw=600, fz=15), badge], justify="space-between", wrap="nowrap"
    )
    return dmc.Card(
        [
            html.Div([head, dmc.Text(aside, c="dimmed", fz=12)]),
            *body,
            foot,
        ],
        className="card",
    )


def graph(graph_id: str, figure: Figure) -> dcc.Graph:
    return dcc.Graph(
        id=graph_id,
        figure=figure,
        responsive=True,
        className="graph",
        config={"displayModeBar": False},
    )


def filter_card() -> dmc.Card:
    chips = [
        dmc.Chip(name, value=name, size="xs", variant="light", color=color)
        for name, color in CONTINENTS.items()
    ]
    marks = [{"value": year, "label": f"’{year % 100:02}"} for year in YEARS]
    return card(
        "Wealth and health of nations",
        "Filters on the event loop. Drag the year; click a bubble.",
        kind_badge("async def", "teal"),
        [
            dmc.Group(
                dmc.ChipGroup(chips, id="continents", multiple=True, value=list(CONTINENTS)), gap=6
            ),
            graph("bubbles", bubbles(LATE, list(CONTINENTS), "Vietnam")),
            dmc.Slider(
                id="year",
                min=YEARS[0],
                max=YEARS[-1],
                value=LATE,
                marks=marks,
                restrictToMarks=True,
                updatemode="drag",
                color="teal",
                size="sm",
                label=None,
                mx=12,
                mb=18,
            ),
        ],
        html.Div("Event loop", id="bubbles-where", className="foot"),
    )


def query_card() -> dmc.Card:
    return card(
        "One country",
        "Queries data the blocking way, in a thread.",
        kind_badge("def", "blue"),
        [
            dmc.Select(
                id="country",
                data=sorted(DATA["country"].unique()),
                value="Vietnam",
                size="sm",
                searchable=True,
                allowDeselect=False,
                nothingFoundMessage="No such country",
            ),
            html.Div(id="facts", className="facts"),
        ],
        html.Div("Thread", id="facts-where", className="foot"),
    )


def heavy_card() -> dmc.Card:
    return card(
        "What did the same income buy?",
        "Bootstraps two regressions for seconds, in a worker process.",
        kind_badge("offload=True", "violet"),
        [
            dmc.Group(
                [
                    dmc.Select(
                        id="draws",
                        value="2000",
                        size="xs",
                        w=132,
                        allowDeselect=False,
                        data=[
                            {"value": str(n), "label": f"{n:,} draws"} for n in (1000, 2000, 5000)
                        ],
                    ),
                    dmc.Button("Run", id="run", size="xs", color="violet", px=22),
                    dmc.Button("Cancel", id="cancel", size="xs", variant="default", disabled=True),
                ],
                gap=8,
            ),
            dmc.Progress(id="progress", value=0, color="violet", size="sm"),
            dmc.Text(
                "Run it to see how sure these curves are.",
                id="progress-note",
                fz=13,
                fw=500,
                className="note",
            ),
            graph("curves", preston_figure([])),
        ],
        html.Div("Not run yet", id="curves-where", className="foot"),
    )


def box(kind: str, speed: str, placeholder: str) -> html.Div:
    def part(name: str) -> dict[str, str]:
        return {"part": name, "kind": kind, "speed": speed}

    return html.Div(
        [
            dcc.Store(id=part("answer")),
            dmc.TextInput(
                id=part("text"),
                placeholder=placeholder,
                size="sm",
                spellCheck=False,
                # One call when the typing stops, not one per letter: each costs two seconds.
                debounce=300 if speed == "slow" else False,
                leftSection=dmc.Text(speed, fz=12, c="dimmed"),
                leftSectionWidth=44,
                rightSection=dmc.Text("", id=part("latency"), className="latency"),
                rightSectionWidth=70,
            ),
            dmc.Text("", id=part("shown"), className="foot"),
        ]
    )


def two_boxes(kind: str) -> dmc.Card:
    color, title, code, meaning = KINDS[kind]
    return dmc.Card(
        [
            dmc.Group(
                [dmc.Text(title, fw=600, fz=15), kind_badge(code, color)],
                justify="space-between",
                wrap="nowrap",
            ),
            dmc.Text(meaning, c="dimmed", fz=12, className="meaning"),
            box(kind, "slow", "type here first"),
            box(kind, "fast", "then here, quickly"),
        ],
        className=f"card boxes {color}",
    )


def stat(label: str, stat_id: str) -> html.Div:
    return html.Div(
        [html.Div(label, className="label"), html.Div("–", id=stat_id, className="value")]
    )


def strip() -> html.Header:
    return html.Header(
        [
            html.Div(
                [
                    dmc.Text("dash_dispatch", className="brand"),
                    dmc.Text("Distributed callbacks for Plotly Dash", c="dimmed", fz=13),
                ]
            ),
            html.Div(
                [
                    stat("Event loop lag", "lag"),
                    html.Div(
                        id="lag-bars",
                        className="bars",
                        title="The last 30 s, worst of each half second",
                    ),
                    stat("Worst of 30 s", "lag-worst"),
                    stat("Transport", "transport"),
                    stat("Web process", "web-pid"),
                    stat("Last answer from", "last-answer"),
                ],
                className="stats",
            ),
        ]
    )


def layout() -> dmc.MantineProvider:
    return dmc.MantineProvider(
        html.Div(
            [
                dcc.Interval(id="second", interval=1000),
                strip(),
                html.Div([filter_card(), query_card(), heavy_card()], className="three"),
                html.Div(
                    [
                        dmc.Text("Two boxes", fw=600, fz=15),
                        dmc.Text(
                            "Type in a slow one, then quickly in the fast one below it. Every slow"
                            " answer takes two seconds; watch what that does to the fast one,"
                            " and to the lag above.",
                            c="dimmed",
                            fz=13,
                        ),
                    ],
                    className="heading",
                ),
                html.Div([two_boxes(kind) for kind in KINDS], className="four"),
            ],
            className="page",
        ),
        theme={"fontFamily": FONT, "defaultRadius": "md", "primaryColor": "violet"},
        forceColorScheme="light",
    )
