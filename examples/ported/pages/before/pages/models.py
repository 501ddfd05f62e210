"""The second page: models that are trained one by one; MATCH tells them apart."""

import time

from dash import MATCH, Input, Output, State, callback, ctx, html, register_page

register_page(__name__, path="/models", name="Models")

MODELS = {"small": 2, "large": 5}


def card(name):
    return html.Div(
        [
            html.H3(name, id={"type": "name", "model": name}),
            html.Button("Train", id={"type": "train", "model": name}),
            html.Span("not trained", id={"type": "state", "model": name}),
        ]
    )


layout = html.Div([card(name) for name in MODELS])


@callback(
    Output({"type": "state", "model": MATCH}, "children"),
    Input({"type": "train", "model": MATCH}, "n_clicks"),
    State({"type": "name", "model": MATCH}, "children"),
    background=True,
    running=[(Output({"type": "train", "model": MATCH}, "disabled"), True, False)],
    prevent_initial_call=True,
)
def train(n_clicks, name):
    for _ in range(MODELS[name]):
        time.sleep(0.1)  # an epoch
    return f"{ctx.triggered_id['model']}: trained {n_clicks} times, {MODELS[name]} epochs"
