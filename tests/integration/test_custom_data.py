"""A ``custom_data`` hook that fails before its callback gets to a worker."""

from typing import Any

import pytest
from dash import Input, Output, hooks, html

from dash_dispatch import Dash
from tests.integration.conftest import SettingsFactory
from tests.stack import body


@pytest.mark.parametrize("debug", [True, False])
async def test_its_words_stay_here_in_production(
    make_settings: SettingsFactory, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setitem(hooks._ns, "custom_data", [])
    settings = make_settings(secret_key="a secret for tests only")
    app = Dash("failing_hook", dispatch_settings=settings)
    app.layout = html.Div(id="out")
    if debug:
        app.enable_dev_tools(debug=True, dev_tools_hot_reload=False)

    @app.callback(Output("out", "children"), Input("in", "value"), offload=True)
    def run(value: Any) -> Any:
        return value

    def fails(_: Any) -> None:
        raise ValueError("inside words")

    hooks.custom_data("fails")(fails)
    client = app.server.test_client()
    answer = await client.post(
        "/_dash-update-component", json=body("out.children", {"in.value": 7})
    )
    await app.runtime.shutdown()
    assert answer.status_code == 500
    assert ("inside words" in await answer.get_data(as_text=True)) == debug
