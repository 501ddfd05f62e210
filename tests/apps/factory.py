"""An app that is made by a function."""

from dash import Input, Output, dcc, html

from dash_dispatch import Dash


def create():
    made = Dash("factory")
    made.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="made")])

    @made.callback(Output("made", "children"), Input("in", "data"), offload=True)
    def answer(value):
        return f"made {value}"

    return made


server = create().server
