"""Component libraries that a test makes up, as a user would install them."""

from pathlib import Path

_PACKAGE = """
from dash.development.base_component import Component

__version__ = "1.0.0"
_js_dist = [{{"relative_package_path": "parts.js", "namespace": "{name}"}}]
_css_dist = [{{"relative_package_path": "parts.css", "namespace": "{name}"}}]


class Badge(Component):
    _children_props = []
    _base_nodes = ["children"]
    _namespace = "{name}"
    _type = "Badge"

    def __init__(self, children=None, id=None):
        self._prop_names = ["children", "id"]
        self._valid_wildcard_attributes = []
        self.available_properties = ["children", "id"]
        self.available_wildcard_properties = []
        super().__init__(children=children, id=id)
"""

_SCRIPT = """window.{name} = {{
    Badge: ({{id, children}}) => React.createElement('b', {{id}}, children)
}};
"""


def write_library(folder: Path, name: str) -> None:
    """Make a package with one component, ``Badge``, and its script and stylesheet."""
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text(_PACKAGE.format(name=name))
    (package / "parts.js").write_text(_SCRIPT.format(name=name))
    (package / "parts.css").write_text("b { color: rgb(1, 2, 3); }")
