"""The basic app with the dev tools on."""

from importlib import import_module

app = import_module("basic").app
server = app.server
app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)
