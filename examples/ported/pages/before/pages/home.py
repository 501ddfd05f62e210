"""The first page: a word is counted in the background."""

import time

from dash import Input, Output, State, callback, dcc, html, register_page

register_page(__name__, path="/", name="Home")

layout = html.Div(
    [
        dcc.Textarea(id="text", value="to be or not to be"),
        html.Button("Count", id="count"),
        html.Ul(id="words"),
    ]
)


@callback(
    Output("words", "children"),
    Input("count", "n_clicks"),
    State("text", "value"),
    background=True,
    running=[(Output("count", "disabled"), True, False)],
    prevent_initial_call=True,
)
def count(n_clicks, text):
    time.sleep(0.5)  # stands for something slow
    words = text.split()
    return [html.Li(f"{word}: {words.count(word)}") for word in sorted(set(words))]
