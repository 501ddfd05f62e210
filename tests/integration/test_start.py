"""What is said when a process cannot start: one line in words, the setting's name, no traceback."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client import http, post, written
from tests.conftest import StackFactory
from tests.stack import Proc, RedisServer, Stack, free_port, wait_for

GOOD = """
from dash import Input, Output, html
from dash_dispatch import Dash
app = Dash(__name__)
server = app.server
app.layout = html.Div(id="in")
@app.callback(Output("out", "children"), Input("in", "data"), offload=True)
def out(value):
    return value
"""
MODULES = {
    "good": GOOD,
    "broken": "\n\ndef fails():\n    raise RuntimeError('what the user wrote')\n\nfails()\n",
    "needs": "import no_such_package\n",
    "syntax": "def (\n",
    "plain": "import dash\napp = dash.Dash(__name__)\n",
    "number": "app = 7\n",
    "exits": "import sys\nsys.exit(3)\n",
    "no_layout": "from dash_dispatch import Dash\napp = Dash(__name__)\n",
}


@pytest.fixture
def stack(make_stack: StackFactory) -> Stack:
    stack: Stack = make_stack("good")
    for name, source in MODULES.items():
        (stack.folder / f"{name}.py").write_text(source)
    return stack


def end_of(proc: Proc) -> str:
    """What a process said that could not start."""
    wait_for(lambda: proc.process.poll() is not None, f"{proc.name} ends")
    assert proc.process.returncode not in (0, None)
    assert "Traceback" not in proc.log, proc.log
    assert len(proc.log.strip().splitlines()) <= 12, proc.log
    return proc.log


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("nowhere:app", ["no module", "'nowhere'"]),
        ("good:nothing", ["nothing"]),
        ("good.inner:app", ["good.inner"]),
        ("broken:app", ["RuntimeError", "what the user wrote", "broken.py", "4"]),
        ("needs:app", ["no_such_package", "needs.py"]),
        ("syntax:app", ["SyntaxError", "syntax.py"]),
        ("plain:app", ["dash_dispatch"]),
        ("number:app", ["int"]),
        ("exits:app", ["SystemExit"]),
        ("good app", ["module:attribute"]),
    ],
)
def test_an_app_that_cannot_be_loaded(stack: Stack, app: str, words: list[str]) -> None:
    said = end_of(stack.worker(wait=False, app=app))
    assert "DASH_DISPATCH_APP" in said
    for word in words:
        assert word in said, said


def test_the_app_is_not_named(stack: Stack) -> None:
    env = stack.env()
    proc = stack.run("worker", [*_arq()], env)
    assert "DASH_DISPATCH_APP is not set" in end_of(proc)


def test_redis_is_not_named(stack: Stack) -> None:
    env = {k: v for k, v in stack.env(app="good:app").items() if not k.endswith("REDIS_URL")}
    assert "DASH_DISPATCH_REDIS_URL is not set" in end_of(stack.run("worker", _arq(), env))


def _arq() -> list[str]:
    return [sys.executable, "-m", "arq", "dash_dispatch.worker"]


def test_redis_cannot_be_reached(stack: Stack) -> None:
    url = f"redis://ann:secret-word@127.0.0.1:{free_port()}/0"
    said = end_of(stack.worker(wait=False, redis_url=url))
    assert "DASH_DISPATCH_REDIS_URL" in said
    assert "127.0.0.1" in said
    assert "secret-word" not in said


def test_redis_refuses_the_password(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = _Guarded(folder, "--requirepass", "right-word")
    try:
        url = f"redis://:secret-word@127.0.0.1:{server.port}/0"
        said = end_of(stack.worker(wait=False, redis_url=url))
        assert "DASH_DISPATCH_REDIS_URL" in said
        assert "password" in said
        assert "secret-word" not in said
    finally:
        server.end()


class _Guarded(RedisServer):
    """With a password."""

    def _answers(self) -> bool:
        assert self.proc is not None
        return "Ready to accept" in self.proc.log


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("lease_s", "soon", "number"),
        ("lease_s", "0", "1"),
        ("processes", "0", "1"),
        ("queues", ",", "queue"),
        ("namespace", "a b", "pattern"),
        ("redis_url", "http://secret-word", "redis://"),
        ("inline_result_bytes", "many", "integer"),
    ],
)
def test_a_bad_setting(stack: Stack, name: str, value: str, word: str) -> None:
    settings: dict[str, Any] = {name: value}
    said = end_of(stack.worker(wait=False, **settings))
    assert f"DASH_DISPATCH_{name.upper()}" in said
    assert word in said
    assert "secret-word" not in said


def test_a_web_without_a_secret_key(stack: Stack) -> None:
    env = {k: v for k, v in stack.env().items() if not k.endswith("SECRET_KEY")}
    proc = stack.run("web", _hypercorn(), env)
    said = end_of(proc)
    assert "DASH_DISPATCH_SECRET_KEY" in said


def test_a_web_with_a_bad_setting(stack: Stack) -> None:
    """Read while the app is imported, so the server shows where; the last line says what."""
    proc = stack.run("web", _hypercorn(), stack.env(threads="none"))
    wait_for(lambda: proc.process.poll() is not None, "it ends")
    assert proc.process.returncode != 0
    assert "DASH_DISPATCH_THREADS" in proc.log.strip().splitlines()[-1]


def _hypercorn() -> list[str]:
    bind = f"127.0.0.1:{free_port()}"
    return [sys.executable, "-m", "hypercorn", "good:server", "--bind", bind, "--workers", "0"]


async def test_a_callback_that_only_the_web_knows(stack: Stack) -> None:
    """Said at the start on both sides, and by each call."""
    newer = GOOD.replace('"out"', '"newer"').replace("def out", "def newer").partition("@app")
    (stack.folder / "newer.py").write_text(GOOD + "".join(newer[1:]))
    stack.app = "newer"
    web = stack.web()
    worker = stack.worker(app="good:app")
    assert "does not know" in worker.log or "do not know" in worker.log
    assert "newer.children" in worker.log
    second = stack.web()
    wait_for(lambda: "newer.children" in stack.webs[1].log, "the web says so, too")
    for address in (web, second):
        async with http(address) as client:
            assert written(await post(client, "out.children", 1)) == 1
            answer = await post(client, "newer.children", 1)
            assert answer.status_code == 500
            assert "does not know" in worker.log
