"""`browser_page` with Dash's dev tools: the renderer's development build, errors with details."""

from browser_page import app, server

__all__ = ["app", "server"]

app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
