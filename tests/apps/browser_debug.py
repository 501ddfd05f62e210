"""`browser_page` with Dash's dev tools: the renderer's development build, errors with details."""

from tests.apps.browser_page import app, server

__all__ = ["app", "server"]

# Without a look for newer versions: a test asks nothing of the network.
app.enable_dev_tools(debug=True, dev_tools_hot_reload=False, dev_tools_disable_version_check=True)
