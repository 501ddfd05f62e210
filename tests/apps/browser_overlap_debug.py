"""`browser_overlap` with Dash's dev tools."""

from tests.apps.browser_overlap import app, server

__all__ = ["app", "server"]

app.enable_dev_tools(debug=True, dev_tools_hot_reload=False, dev_tools_disable_version_check=True)
