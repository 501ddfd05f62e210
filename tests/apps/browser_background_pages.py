"""Two pages with a background callback each, and a button that cancels both."""

import dash
from dash import Input, Output, State, dcc, html

from dash_dispatch import Dash
from tests.apps.browser_gates import note, pass_gate

app = Dash(__name__, title="A page", use_pages=True, pages_folder="")
server = app.server
PAGES = {"one": "/", "two": "/two"}


def layout_of(name: str) -> html.Div:
    return html.Div(
        [
            html.Button("start", id=f"{name}-start"),
            html.Button("cancel", id=f"{name}-cancel"),
            html.Div("at first", id=f"{name}-state"),
            html.Div("nothing yet", id=f"{name}-result"),
        ]
    )


def add_page(name: str) -> None:
    dash.register_page(name, PAGES[name], title="A page", layout=layout_of(name))

    @app.callback(
        Output(f"{name}-result", "children"),
        Input(f"{name}-start", "n_clicks"),
        State("tag", "value"),
        background=True,
        prevent_initial_call=True,
        running=[(Output(f"{name}-state", "children"), "busy", "idle")],
        cancel=[Input(f"{name}-cancel", "n_clicks"), Input("cancel-both", "n_clicks")],
    )
    def work(clicks: int, tag: str) -> str:
        note("work", tag, name)
        pass_gate(f"{tag}-work-{name}-{clicks}")
        return f"{name} {clicks}"


for name in PAGES:
    add_page(name)

app.layout = html.Div(
    [
        dcc.Input(id="tag", value="none"),
        *(dcc.Link(name, href=path, id=f"to-{name}") for name, path in PAGES.items()),
        html.Button("cancel both", id="cancel-both"),
        dash.page_container,
    ]
)
