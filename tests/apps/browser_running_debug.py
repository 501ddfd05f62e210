"""`browser_running` with Dash's dev tools."""

from tests.apps.browser_running import app, server

__all__ = ["app", "server"]

app.enable_dev_tools(debug=True, dev_tools_hot_reload=False, dev_tools_disable_version_check=True)
