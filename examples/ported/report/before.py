"""A report with several outputs, kept per user and question, for Celery, or Diskcache at a desk.

celery -A before.celery_app worker    # with REDIS_URL set
python before.py
"""

import os
import time
from pathlib import Path

from dash import CeleryManager, Dash, DiskcacheManager, Input, Output, State, ctx, dcc, html


def current_user():
    return ctx.cookies.get("user", "nobody")


if "REDIS_URL" in os.environ:
    from celery import Celery

    celery_app = Celery(__name__, broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
    background_callback_manager = CeleryManager(celery_app, cache_by=[current_user], expire=3600)
else:
    import diskcache

    cache = diskcache.Cache("./cache")
    background_callback_manager = DiskcacheManager(cache, cache_by=[current_user], expire=3600)

app = Dash(__name__, background_callback_manager=background_callback_manager)
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
