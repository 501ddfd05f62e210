"""The command line: what it prints, and that an error is words and an exit code."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dash_dispatch import Settings
from dash_dispatch.cli import main

APP = """
from dash import Input, Output, html
from dash_dispatch import Dash, Offload

app = Dash(__name__)
app.layout = html.Div([html.Div(id="a"), html.Div(id="b")])


@app.callback(Output("a", "children"), Input("a", "n_clicks"))
def near(clicks):
    return clicks


@app.callback(Output("b", "children"), Input("b", "n_clicks"), offload=Offload(queue="far"))
def far(clicks):
    return clicks
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an app, no settings, and no traces in this process."""
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DASH_DISPATCH_")]:
        monkeypatch.delenv(name)
    (tmp_path / "shop.py").write_text(APP)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def _call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env={**environment, "COLUMNS": "100"})


@pytest.mark.parametrize("command", ["", "run", "worker", "settings", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    result = _call(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_version_names_what_it_builds_on() -> None:
    result = _call("--version")
    assert result.exit_code == 0
    assert result.output.startswith("dash-dispatch ")
    assert "dash 4.4" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere"], "Error: APP=nowhere: there is no module 'nowhere'"),
        (["run", "shop:nothing"], "Error: APP=shop:nothing: shop has no attribute 'nothing'"),
        (["worker", "shop"], "Error: DASH_DISPATCH_REDIS_URL is not set"),
        (["worker", "shop", "--redis-url", "http://x"], "Error: DASH_DISPATCH_REDIS_URL: takes a"),
        (["worker", "shop", "--processes", "0"], "Error: DASH_DISPATCH_PROCESSES: "),
    ],
)
def test_an_error_is_words_without_a_traceback(arguments: list[str], words: str) -> None:
    result = _call(*arguments)
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


class TestWorker:
    def test_becomes_arq_with_the_options_as_settings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        became: list[tuple[str, list[str], dict[str, str]]] = []
        monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
        result = _call(
            *["worker", "shop:app", "--queues", "far,near", "--concurrency", "3"],
            DASH_DISPATCH_REDIS_URL="redis://localhost:1/0",
        )
        assert result.exit_code == 0, result.output
        [(program, command, environment)] = became
        assert program == sys.executable
        assert command[-2:] == ["arq", "dash_dispatch.worker"]
        assert environment["DASH_DISPATCH_APP"] == "shop:app"
        assert environment["DASH_DISPATCH_QUEUES"] == "far,near"
        assert environment["DASH_DISPATCH_CONCURRENCY"] == "3"
        assert environment["DASH_DISPATCH_REDIS_URL"] == "redis://localhost:1/0"
        assert "DASH_DISPATCH_PROCESSES" not in environment


class TestSettings:
    def test_lists_each_with_what_it_means(self) -> None:
        result = _call("settings")
        assert result.exit_code == 0
        for name, field in Settings.model_fields.items():
            if name != "embedded_app":
                assert f"DASH_DISPATCH_{name.upper()}  default " in result.output
                assert (field.description or "?")[:40] in result.output

    def test_shows_what_is_set_and_no_secret(self) -> None:
        result = _call(
            "settings",
            DASH_DISPATCH_THREADS="7",
            DASH_DISPATCH_SECRET_KEY="nobody may read this",
            DASH_DISPATCH_REDIS_URL="redis://me:hush@far:1/0",
        )
        assert "* DASH_DISPATCH_THREADS  default 32  now 7" in result.output
        assert "* DASH_DISPATCH_SECRET_KEY  default none  now ***" in result.output
        assert "now redis://me:***@far:1/0" in result.output
        assert "hush" not in result.output
        assert "nobody" not in result.output

    def test_points_at_a_name_that_is_none(self) -> None:
        result = _call("settings", DASH_DISPATCH_REDISURL="redis://x")
        assert "! DASH_DISPATCH_REDISURL is set, but is no setting" in result.output


class TestDoctor:
    def test_counts_the_callbacks(self) -> None:
        result = _call("doctor", "shop")
        assert "app: shop: 2 callbacks, 1 of them offloaded, in the queues far" in result.output

    def test_takes_the_app_from_the_environment(self) -> None:
        assert "shop:app: 2 callbacks" in _call("doctor", DASH_DISPATCH_APP="shop:app").output

    def test_is_content_with_a_redis_server_to_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = tmp_path / "redis-server"
        server.write_text("#!/bin/sh\n")
        server.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        result = _call("doctor")
        assert result.exit_code == 0
        assert f"app.run() starts its own, {server}" in result.output

    def test_names_all_that_is_wrong(self) -> None:
        result = _call(
            *["doctor", "shop:nothing"],
            DASH_DISPATCH_THREAD="7",
            DASH_DISPATCH_REDIS_URL="unix:///nowhere/redis.sock",
        )
        assert result.exit_code == 1
        assert "FAIL  settings: no such setting: DASH_DISPATCH_THREAD" in result.output
        assert "FAIL  Redis: unix:///nowhere/redis.sock: Redis is not available" in result.output
        assert "FAIL  app: APP=shop:nothing" in result.output

    def test_shows_a_wrong_setting_in_each_check_that_needs_it(self) -> None:
        result = _call("doctor", DASH_DISPATCH_THREADS="0")
        assert result.exit_code == 1
        assert "FAIL  settings: DASH_DISPATCH_THREADS: " in result.output
