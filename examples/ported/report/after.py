"""A report with several outputs, kept per user and question, moved here from Celery.

What changed: the imports, the manager is gone, its `cache_by` is the callback's (see before.py).

python after.py
"""

import time
from pathlib import Path

from dash import Input, Output, State, ctx, dcc, html

from dash_dispatch import Dash


def current_user():
    return ctx.cookies.get("user", "nobody")


app = Dash(__name__)
server = app.server

SALES = {
    "north": {"apples": 12, "pears": 7, "plums": 3},
    "south": {"apples": 5, "pears": 21, "plums": 9},
}

app.layout = html.Div(
    [
        dcc.RadioItems(list(SALES), "north", id="region"),
        dcc.Checklist(["apples", "pears", "plums"], ["apples", "pears"], id="fruits"),
        html.Button("Make report", id="make"),
        html.Span(id="status"),
        html.H2(id="title"),
        html.Table(id="table"),
        html.P(id="total"),
    ]
)


@app.callback(
    output={
        "title": Output("title", "children"),
        "table": Output("table", "children"),
        "total": Output("total", "children"),
    },
    inputs={"n_clicks": Input("make", "n_clicks")},
    state={"region": State("region", "value"), "fruits": State("fruits", "value")},
    background=True,
    interval=200,
    running=[
        (Output("make", "disabled"), True, False),
        (Output("status", "children"), "Making the report ...", ""),
    ],
    cache_by=current_user,
    cache_args_to_ignore=["n_clicks"],
    prevent_initial_call=True,
)
def make_report(n_clicks, region, fruits):
    time.sleep(1)  # stands for the query
    with Path("queries.log").open("a") as log:
        log.write(f"{region} {' '.join(fruits)}\n")
    rows = [(fruit, SALES[region][fruit]) for fruit in fruits]
    return {
        "title": f"Sales in the {region}",
        "table": [html.Tr([html.Td(fruit), html.Td(count)]) for fruit, count in rows],
        "total": f"{sum(count for _, count in rows)} in all",
    }


if __name__ == "__main__":
    app.run()
