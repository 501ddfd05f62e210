"""A long job with a progress bar and a Cancel button, moved here from Diskcache.

What changed: the imports, and the manager is gone (see before.py).

python after.py
"""

import time

from dash import Input, Output, html

from dash_dispatch import Dash

app = Dash(__name__)
server = app.server

app.layout = html.Div(
    [
        html.Div(
            [
                html.P(id="paragraph_id", children=["Button not clicked"]),
                html.Progress(id="progress_bar", value="0"),
            ]
        ),
        html.Button(id="button_id", children="Run Job!"),
        html.Button(id="cancel_button_id", children="Cancel Running Job!", disabled=True),
    ]
)


@app.callback(
    output=Output("paragraph_id", "children"),
    inputs=Input("button_id", "n_clicks"),
    background=True,
    running=[
        (Output("button_id", "disabled"), True, False),
        (Output("cancel_button_id", "disabled"), False, True),
        (
            Output("paragraph_id", "style"),
            {"visibility": "hidden"},
            {"visibility": "visible"},
        ),
        (
            Output("progress_bar", "style"),
            {"visibility": "visible"},
            {"visibility": "hidden"},
        ),
    ],
    cancel=Input("cancel_button_id", "n_clicks"),
    progress=[Output("progress_bar", "value"), Output("progress_bar", "max")],
    prevent_initial_call=True,
)
def update_progress(set_progress, n_clicks):
    total = 6
    for i in range(total + 1):
        set_progress((str(i), str(total)))
        time.sleep(0.3)

    return [f"Clicked {n_clicks} times"]


if __name__ == "__main__":
    app.run()
