"""An app of several pages with background callbacks in their modules, moved here.

What changed: the imports, here and in the pages, and the manager is gone (see ../before).

python app.py
"""

from dash import dcc, html, page_container, page_registry

from dash_dispatch import Dash

app = Dash(__name__, use_pages=True)
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
