"""What a row measures: dash_dispatch and its peers, each started as its users would."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from redis import Redis

from benchmarks.environments import PEERS, python_of
from benchmarks.processes import Proc, free_port, listens, start_redis

ROOT = PEERS.parents[1]

FASTEST = "uvicorn"
"""The fastest of the ASGI servers that run a dash_dispatch app, with httptools and uvloop."""

ASGI = {
    "hypercorn": ("-m", "hypercorn", "app:server", "--bind", "127.0.0.1:{port}"),
    "uvicorn": ("-m", "uvicorn", "app:server", "--port", "{port}", "--no-access-log"),
}
"""How each is started: as it comes, without a line of log per request."""

QUICK_S = 0.2
"""What a slow callback takes in a quick run."""

GUNICORN = (
    *("-m", "gunicorn", "app:server", "--worker-class", "gthread", "--threads", "8"),
    *("--bind", "127.0.0.1:{port}"),
)


@dataclass(frozen=True)
class Stack:
    """A contestant that runs.

    Attributes:
        address: Of its web process; empty when it has none.
        procs: All its processes, the web process first, Redis included.
        env: With what the processes were started.
        workers: Those of ``procs`` that are workers, where their number can change.
        start_workers: Starts that many more of them.
    """

    address: str
    procs: tuple[Proc, ...]
    env: dict[str, str] = field(default_factory=dict)
    workers: tuple[Proc, ...] = ()
    start_workers: Callable[[int], list[Proc]] | None = None

    def resized(self, count: int) -> "Stack":
        """The same with so many workers: more are started, or the last ones ended."""
        others = tuple(proc for proc in self.procs if proc not in self.workers)
        leaving = self.workers[count:]
        for worker in leaving:
            worker.ask_to_end()
        for worker in leaving:
            worker.end()
        missing = count - len(self.workers)
        new = self.start_workers(missing) if self.start_workers and missing > 0 else []
        workers = (*self.workers[:count], *new)
        return replace(self, procs=(*others, *workers), workers=workers)


class Bench:
    """One run: its switches, its folder, its Redis, and all that it has started."""

    def __init__(self, folder: Path, *, quick: bool, peers: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.peers = peers
        self._started: list[Proc] = []
        # To start them is most of what a quick run does: its rows share what is alike.
        self._kept: dict[str, Stack] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, *, quick: bool, peers: bool) -> Iterator["Bench"]:
        """A run; all it has started is ended with it."""
        with tempfile.TemporaryDirectory(prefix="dash-dispatch-bench-") as folder:
            bench = cls(Path(folder), quick=quick, peers=peers)
            try:
                yield bench
            finally:
                # Redis, which the others need, is the last; they end side by side.
                for proc in reversed(bench._started):
                    if proc.name != "redis":
                        proc.ask_to_end()
                for proc in reversed(bench._started):
                    proc.end()

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        return "\n".join(f"--- {proc.name}\n{proc.log[-2000:]}" for proc in self._started)

    @cached_property
    def _redis(self) -> tuple[Proc, int]:
        proc, port = start_redis(self.folder)
        self._started.append(proc)
        return proc, port

    @property
    def redis_port(self) -> int:
        """Of the Redis that all contestants share, in databases of their own."""
        return self._redis[1]

    def _url(self, database: int) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/{database}"

    def _start(self, name: str, peer: str, *command: str, told: str = "", **env: str) -> Proc:
        cwd = PEERS / peer
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DASH_")}
        # Gunicorn keeps a socket at home.
        clean |= {"PYTHONPATH": str(cwd), "PYTHONUNBUFFERED": "1", "HOME": str(self.folder)}
        env = clean | env
        proc = Proc(name, [str(python_of(peer)), *command], self.folder, cwd, env, told)
        self._started.append(proc)
        return proc

    def _web(self, peer: str, *command: str, **env: str) -> tuple[str, Proc]:
        port = free_port()
        web = self._start("web", peer, *(word.format(port=port) for word in command), **env)
        web.wait_until(lambda: listens(port))
        return f"http://127.0.0.1:{port}", web

    def _asgi(self, peer: str, server: str, **env: str) -> tuple[str, Proc]:
        return self._web(peer, *ASGI[server], **env)

    def dash_dispatch(
        self,
        *,
        workers: int = 1,
        slow_s: float = 3.0,
        server: str = "hypercorn",
        ticking: bool = False,
        **settings: str,
    ) -> Stack:
        """One web process, and workers. All that is quick shares one.

        Args:
            workers: How many.
            slow_s: How long slow callbacks take.
            server: A key of ``ASGI``.
            ticking: Whether the web process watches its event loop.
            **settings: Of dash_dispatch, in lower case.
        """
        if self.quick:
            if server in self._kept:
                return self._kept[server]
            workers, slow_s, ticking = int(server == "hypercorn"), QUICK_S, True
            settings["processes"] = "1"
        settings = {"max_call_rate": "1000000", "max_session_calls": "100000"} | settings
        env = {f"DASH_DISPATCH_{name.upper()}": value for name, value in settings.items()} | {
            "SLOW_S": str(slow_s),
            "DASH_DISPATCH_REDIS_URL": self._url(0),
            "DASH_DISPATCH_SECRET_KEY": secrets.token_urlsafe(32),
            "DASH_DISPATCH_APP": "app:app",
            "DASH_DISPATCH_NAMESPACE": f"bench-{secrets.token_hex(4)}",
        }
        started = self._workers(workers, env)
        ticks = {"TICK": "1"} if ticking else {}
        address, web = self._asgi("dash_dispatch", server, **env | ticks)
        running = tuple(_ready(started))
        stack = Stack(
            address,
            (web, *running, self._redis[0]),
            env,
            running,
            lambda count: _ready(self._workers(count, env)),
        )
        if self.quick:
            self._kept[server] = stack
        return stack

    def pusher(self, stack: Stack, sessions: str) -> Proc:
        """A process that sends updates to the pages of these sessions (``peers`` has it)."""
        return self._start("pusher", "dash_dispatch", "fanout.py", told=sessions, **stack.env)

    def load(self, *args: str) -> Proc:
        """A process that keeps slow callbacks in flight (``load`` says how it is told)."""
        return self._start("load", "", "-m", "benchmarks.load", *args, PYTHONPATH=str(ROOT))

    def _workers(self, count: int, env: dict[str, str]) -> list[Proc]:
        command = ("-m", "arq", "dash_dispatch.worker")
        return [self._start("worker", "dash_dispatch", *command, **env) for _ in range(count)]

    def quart(self, slow_s: float = 3.0) -> Stack:
        """Stock Dash, one process of Quart on Hypercorn."""
        env = {"SLOW_S": str(slow_s)}
        address, web = self._asgi("quart", "hypercorn", **env)
        return Stack(address, (web,))

    def flask(self) -> Stack:
        """Stock Dash, one process of Flask on Gunicorn, with threads."""
        address, web = self._web("flask", *GUNICORN)
        return Stack(address, (web,))

    def fastapi(self) -> Stack:
        """Stock Dash, one process of FastAPI on Uvicorn."""
        address, web = self._asgi("fastapi", "uvicorn")
        return Stack(address, (web,))

    def bare(self, server: str) -> Stack:
        """An ASGI app that does nothing."""
        address, web = self._asgi("bare", server)
        return Stack(address, (web,))

    def celery(self) -> Stack:
        """Stock Dash, one process of Flask on Gunicorn, and a Celery worker with two processes."""
        env = {"BROKER_URL": self._url(1), "BACKEND_URL": self._url(2)}
        worker = self._start(
            "worker",
            "celery",
            *("-m", "celery", "-A", "app:celery_app", "worker", "--concurrency", "2"),
            **env,
        )
        address, web = self._web("celery", *GUNICORN, **env)
        # At its usual log level it does not say that it is ready; it binds its queue when it is.
        with Redis(port=self.redis_port, db=1) as broker:
            worker.wait_until(lambda: bool(broker.exists("_kombu.binding.celery")))
        return Stack(address, (web, worker, self._redis[0]))

    def diskcache(self) -> Stack:
        """Stock Dash, one process of Flask on Gunicorn, which starts a process per call."""
        address, web = self._web("diskcache", *GUNICORN, CACHE_FOLDER=str(self.folder / "cache"))
        return Stack(address, (web,))

    def arq(self, workers: int, database: int, *, poll_s: float, at_once: int) -> Stack:
        """Workers of plain arq."""
        env = {
            "REDIS_URL": self._url(database),
            "POLL_DELAY_S": str(poll_s),
            "MAX_JOBS": str(at_once),
        }

        def start(count: int) -> list[Proc]:
            command = ("-m", "arq", "tasks.Worker")
            started = [self._start("worker", "arq", *command, **env) for _ in range(count)]
            return _ready(started, "redis_version=")

        # A worker stands where others have their web process, which it has none of.
        running = tuple(start(workers))
        return Stack("", (*running, self._redis[0]), env, running, start)

    def floor(self) -> Stack:
        """A process that passes messages back through Redis."""
        echo = self._start("echo", "redis", "echo.py", str(self.redis_port))
        echo.wait_until(lambda: "ready" in echo.log)
        return Stack("", (echo, self._redis[0]))


def _ready(workers: list[Proc], words: str = " ready: ") -> list[Proc]:
    for worker in workers:
        worker.wait_until(lambda worker=worker: words in worker.log)
    return workers
