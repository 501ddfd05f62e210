"""An app of several pages with background callbacks in their modules, for stock Dash and Diskcache.

python app.py
"""

import diskcache
from dash import Dash, DiskcacheManager, dcc, html, page_container, page_registry

cache = diskcache.Cache("./cache")
app = Dash(__name__, use_pages=True, background_callback_manager=DiskcacheManager(cache))
server = app.server

app.layout = html.Div(
    [
        html.Nav(
            [
                dcc.Link(page["name"], href=page["relative_path"], id=f"to-{page['name'].lower()}")
                for page in page_registry.values()
            ]
        ),
        page_container,
    ]
)

if __name__ == "__main__":
    app.run()
