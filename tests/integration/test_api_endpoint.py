"""``api_endpoint=`` of an offloaded callback, where no worker takes its calls."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dash import Input, Output, html

from dash_dispatch import Dash
from tests.integration.conftest import SettingsFactory, StoreFactory


@pytest.fixture
async def app(make_settings: SettingsFactory) -> AsyncIterator[Dash]:
    settings = make_settings(secret_key="a secret for tests only", post_timeout_s=1, max_queue=1)
    made = Dash("api_endpoint", dispatch_settings=settings)
    made.layout = html.Div(id="out")

    @made.callback(
        Output("out", "children"), Input("in", "value"), offload=True, api_endpoint="/api"
    )
    def run(value: Any = None) -> Any:
        return value

    set_up: Any = made.setup_apis
    set_up()
    yield made
    await made.runtime.shutdown()


async def ask(app: Dash) -> tuple[int, Any]:
    answer = await app.server.test_client().post("/api", json={"value": 1})
    return answer.status_code, await answer.get_json()


async def test_a_call_that_waits_too_long_is_cancelled(app: Dash, make_store: StoreFactory) -> None:
    status, answer = await ask(app)
    assert status == 504
    assert "DASH_DISPATCH_POST_TIMEOUT_S" in answer["error"]
    store = make_store()
    await store.renew("w", join=True)
    assert await store.claim("w", "default:process", 1) == []


async def test_a_full_queue_is_said(app: Dash) -> None:
    answers = await asyncio.gather(ask(app), ask(app))
    assert {status for status, _ in answers} == {503, 504}
