"""An app of several pages, below a prefix; the callbacks are where their page is."""

import dash
from dash import html

from dash_dispatch import Dash

app = Dash(
    __name__,
    use_pages=True,
    pages_folder="browser_pages_of",
    url_base_pathname="/some/tools/",
    suppress_callback_exceptions=True,
)
server = app.server
app.layout = html.Div(
    [
        html.A("report", id="to-report", href="/some/tools/report"),
        dash.page_container,
    ]
)
