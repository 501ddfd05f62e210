"""The smallest app: one import and one word make a slow callback harmless.

python examples/quickstart.py
"""

import time

import plotly.express as px
from dash import Input, Output, dcc, html

from dash_dispatch import Dash

app = Dash(__name__)  # a drop-in for dash.Dash, on Quart
server = app.server  # an ASGI app: hypercorn examples/quickstart:server

app.layout = html.Div(
    [
        html.Button("Run", id="run"),
        dcc.Loading(dcc.Graph(id="chart")),
    ]
)


def expensive_figure():
    time.sleep(3)  # stands for your query, your model, your report
    return px.line(px.data.stocks(), x="date", y=["GOOG", "AAPL", "AMZN"])


@app.callback(Output("chart", "figure"), Input("run", "n_clicks"), offload=True)
def report(n_clicks):  # runs in a worker process, perhaps on another machine
    return expensive_figure()


if __name__ == "__main__":
    app.run()
