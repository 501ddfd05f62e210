"""A long computation that says how far it is, and can be stopped.

python examples/progress_and_cancel.py
"""

import numpy as np
from dash import Input, Output, html, set_props

from dash_dispatch import Dash

STEPS, DARTS = 200, 1_000_000

app = Dash(__name__)
server = app.server

app.layout = html.Div(
    [
        html.Button("Estimate pi", id="run"),
        html.Button("Cancel", id="cancel", disabled=True),
        html.Progress(id="progress", value="0", max=str(STEPS)),
        html.Div(id="result"),
    ]
)


@app.callback(
    Output("result", "children"),
    Input("run", "n_clicks"),
    # While it runs, and always set back: also after an error, or a cancel.
    running=[
        (Output("run", "disabled"), True, False),
        (Output("cancel", "disabled"), False, True),
    ],
    cancel=[Input("cancel", "n_clicks")],  # ends the run where it is
    prevent_initial_call=True,
    offload=True,
)
def estimate(n_clicks):
    random = np.random.default_rng()
    inside = 0
    for step in range(1, STEPS + 1):
        x, y = random.random((2, DARTS))
        inside += np.count_nonzero(x * x + y * y < 1)
        set_props("progress", {"value": str(step)})  # reaches the page at once
    return f"pi is about {4 * inside / (STEPS * DARTS):.6f}"


if __name__ == "__main__":
    app.run()
