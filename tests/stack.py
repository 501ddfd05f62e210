"""A real deployment on free ports of this machine: Redis, web processes, workers.

Everything is started by the test that uses it and ended with it, by pid.
"""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import redis

from tests.programs import require_program
from tests.starter import Forked, can_fork

SECRET = "a secret for tests only"
START_S = 30.0
APPS = Path(__file__).parent / "apps"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], what: str, within_s: float = START_S) -> Any:
    """Wait until the condition is true, and return its value; fail in words when it is late."""
    deadline = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.02)


async def eventually(condition: Callable[[], Any], what: str, within_s: float = START_S) -> Any:
    """`wait_for`, for tests on a loop."""
    deadline = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(0.02)


def text_in(path: Path) -> str:
    """What stands in a file, if there is one: it is there before its text."""
    return path.read_text().strip() if path.exists() else ""


def _start(
    command: list[str], env: dict[str, str], folder: Path, log: IO[bytes], *, fresh: bool
) -> subprocess.Popen[bytes] | Forked:
    if not fresh and can_fork(command, env):
        return Forked(command[2:], env, folder, log.fileno())
    return subprocess.Popen(
        command,
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Proc:
    """A child process with its output in a file.

    Args:
        name: Begins the name of the file.
        command: What is run; a web process or a worker is forked (see `tests.starter`).
        env: Its environment.
        folder: Where it runs.
        fresh: It is started by the command itself, whatever it is.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        folder: Path,
        *,
        fresh: bool = False,
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = _start(command, env, folder, log, fresh=fresh)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self, within_s: float = 40.0) -> int:
        """SIGTERM, and wait; returns the exit status."""
        self.process.terminate()
        return self.process.wait(within_s)

    def end(self) -> None:
        """End it, whatever state it is in, with its whole session."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill_all()
        self.process.wait(10)

    def kill_all(self) -> None:
        """Kill -9, with its whole session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class RedisServer:
    """A Redis of the test's own, that can be stopped, killed and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.proc: Proc | None = None
        self.start()

    def start(self) -> None:
        command = [require_program("redis-server"), "--port", str(self.port), "--bind"]
        command += ["127.0.0.1", "--save", "", "--dir", str(self._folder), *self._options]
        self.proc = Proc("redis", command, dict(os.environ), self._folder)
        wait_for(self._answers, "Redis answers")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client().ping())
        return False

    def client(self) -> Any:
        """A ``redis.Redis`` of the test's own. (Its types are those of both its kinds at once.)"""
        return redis.Redis(port=self.port, socket_timeout=5)

    def end(self) -> None:
        if self.proc is not None:
            self.proc.end()


class Stack:
    """Web processes and workers of one app, on one Redis, in a namespace of their own.

    Args:
        redis_server: The Redis.
        app: Name of a module in ``tests/apps`` (its ``app`` and ``server``), or of one in folder.
        folder: Where processes run and log.
        prefix: The app's ``url_base_pathname``, without its last slash.
        settings: Environment variables without their prefix, as in ``lease_s="2"``.
    """

    def __init__(
        self, redis_server: RedisServer, app: str, folder: Path, prefix: str = "", **settings: str
    ) -> None:
        self.redis = redis_server
        self.app = app
        self.folder = folder
        self.prefix = prefix
        # Hypercorn takes a connection for idle after 5 s, also when it was itself that could not
        # come to read, on a machine that stood still; what had been sent is then reset.
        self.keep_alive_s = 30
        self.server = "hypercorn"
        self.server_options: list[str] = []
        self.namespace = f"t{os.getpid()}-{time.monotonic_ns()}"
        self._settings = settings
        self.webs: list[Proc] = []
        self.workers: list[Proc] = []
        self._others: list[Proc] = []

    def env(self, **more: str) -> dict[str, str]:
        """The environment of both sides."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("DASH_DISPATCH_")}
        env["PYTHONPATH"] = os.pathsep.join([str(APPS), str(self.folder)])
        env["PYTHONUNBUFFERED"] = "1"
        settings = {
            "redis_url": self.redis.url,
            "namespace": self.namespace,
            "secret_key": SECRET,
            **self._settings,
            **more,
        }
        return env | {f"DASH_DISPATCH_{name.upper()}": value for name, value in settings.items()}

    def web(self, port: int | None = None, *, wait: bool = True, **settings: str) -> str:
        """Start a web process; returns its address."""
        port = port or free_port()
        command = [sys.executable, "-m", self.server, f"{self.app}:server"]
        if self.server == "hypercorn":
            # No worker processes below it: its pid is the one that serves.
            command += ["--bind", f"127.0.0.1:{port}", "--workers", "0"]
            command += ["--keep-alive", str(self.keep_alive_s)]
        else:
            command += ["--port", str(port)]
        command += self.server_options
        proc = Proc(f"web-{port}", command, self.env(**settings), self.folder)
        self.webs.append(proc)
        address = f"http://127.0.0.1:{port}"
        if wait:
            self._await_web(address, proc)
        return address

    def _await_web(self, address: str, proc: Proc) -> None:
        wait_for(lambda: _serves(f"{address}{self.prefix}", proc), f"{proc.name} serves")

    def worker(self, *, wait: bool = True, fresh: bool = False, **settings: str) -> Proc:
        """Start a worker; a fresh one where a test counts its processes."""
        command = [sys.executable, "-m", "arq", "dash_dispatch.worker"]
        env = self.env(**{"app": f"{self.app}:app", **settings})
        proc = Proc(f"worker-{len(self.workers)}", command, env, self.folder, fresh=fresh)
        self.workers.append(proc)
        if wait:
            _await_worker(proc)
        return proc

    def up(self, webs: int = 1, workers: int = 1) -> list[str]:
        """Start several at once; returns the addresses of the web processes."""
        addresses = [self.web(wait=False) for _ in range(webs)]
        procs = [self.worker(wait=False) for _ in range(workers)]
        for address, proc in zip(addresses, self.webs[-webs:], strict=True):
            self._await_web(address, proc)
        for proc in procs:
            _await_worker(proc)
        return addresses

    def run(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Proc:
        """Start something else that belongs to the test."""
        proc = Proc(name, command, env or self.env(), self.folder)
        self._others.append(proc)
        return proc

    def logs(self) -> str:
        """What all processes said, for a failure's message."""
        procs = [*self.webs, *self.workers, *self._others]
        return "\n".join(f"--- {proc.name}\n{proc.log[-4000:]}" for proc in procs)

    def end(self) -> None:
        """Nothing is asked of how it ends here: a test that wants to know ends it by itself."""
        procs = [*self._others, *self.webs, *self.workers]
        for proc in procs:
            proc.kill_all()
        for proc in procs:
            proc.end()


def _await_worker(proc: Proc) -> None:
    wait_for(lambda: _alive(proc) and " ready: " in proc.log, f"{proc.name} is ready")


def _alive(proc: Proc) -> bool:
    if proc.process.poll() is not None:
        raise AssertionError(f"{proc.name} ended at its start:\n{proc.log}")
    return True


def _serves(address: str, proc: Proc) -> bool:
    _alive(proc)
    return serves(f"{address}/_dash-layout")


def serves(url: str) -> bool:
    """Whether it is answered. (By less than `httpx`, which is long in the making.)"""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    return False


def body(output: str, inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A callback request as Dash's renderer posts it, for one output.

    Args:
        output: ``component.property``.
        inputs: ``component.property`` → value; all count as changed.
        more: Further keys of the request.
    """
    component, prop = output.split(".")
    return {
        "output": output,
        "outputs": {"id": component, "property": prop},
        "inputs": [_dependency(name, value) for name, value in inputs.items()],
        "changedPropIds": list(inputs),
        **more,
    }


def _dependency(name: str, value: Any) -> dict[str, Any]:
    component, prop = name.split(".")
    return {"id": component, "property": prop, "value": value}


def started(stack: Stack) -> Iterator[Stack]:
    """For fixtures: the stack, ended afterwards."""
    try:
        yield stack
    finally:
        stack.end()
