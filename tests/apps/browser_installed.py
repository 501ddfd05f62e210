"""Workers whose callbacks import component libraries, without the dev tools."""

from dash import dcc, html

from dash_dispatch import Dash
from tests.apps import libraries

app = Dash(__name__)
server = app.server
app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        *(
            part
            for place, callback in libraries.places(app.callback).items()
            for part in libraries.add(callback, place)
        ),
    ]
)
