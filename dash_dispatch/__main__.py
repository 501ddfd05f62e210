"""``python -m dash_dispatch``: the command line."""

from dash_dispatch.cli import main

main()
