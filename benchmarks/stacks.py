"""What a row measures: dash_dispatch and its peers, each started as its users would."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from redis import Redis

from benchmarks.environments import PEERS, python_of
from benchmarks.processes import Proc, free_port, listens, start_redis


@dataclass(frozen=True)
class Stack:
    """A contestant that runs.

    Attributes:
        address: Of its web process; empty when it has none.
        procs: All its processes, Redis included.
    """

    address: str
    procs: tuple[Proc, ...]


class Bench:
    """One run: its switches, its folder, its Redis, and all that it has started."""

    def __init__(self, folder: Path, *, quick: bool, peers: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.peers = peers
        self._started: list[Proc] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, *, quick: bool, peers: bool) -> Iterator["Bench"]:
        """A run; all it has started is ended with it."""
        with tempfile.TemporaryDirectory(prefix="dash-dispatch-bench-") as folder:
            bench = cls(Path(folder), quick=quick, peers=peers)
            try:
                yield bench
            finally:
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

    def _start(self, name: str, peer: str, *command: str, **env: str) -> Proc:
        cwd = PEERS / peer
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DASH_")}
        # Gunicorn keeps a socket at home.
        clean |= {"PYTHONPATH": str(cwd), "PYTHONUNBUFFERED": "1", "HOME": str(self.folder)}
        env = clean | env
        proc = Proc(name, [str(python_of(peer)), *command], self.folder, cwd, env)
        self._started.append(proc)
        return proc

    def _web(self, peer: str, *command: str, **env: str) -> tuple[str, Proc]:
        port = free_port()
        web = self._start("web", peer, *command, "--bind", f"127.0.0.1:{port}", **env)
        web.wait_until(lambda: listens(port))
        return f"http://127.0.0.1:{port}", web

    def dash_dispatch(self, app: str = "app", workers: int = 1, slow_s: float = 3.0) -> Stack:
        """One web process on Hypercorn, and workers; ``slow_s`` is how long slow callbacks take."""
        env = {
            "SLOW_S": str(slow_s),
            "DASH_DISPATCH_REDIS_URL": self._url(0),
            "DASH_DISPATCH_SECRET_KEY": secrets.token_urlsafe(32),
            "DASH_DISPATCH_APP": f"{app}:app",
            "DASH_DISPATCH_NAMESPACE": f"bench-{secrets.token_hex(4)}",
        }
        peer = "dash_dispatch"
        procs = [
            self._start("worker", peer, "-m", "arq", "dash_dispatch.worker", **env)
            for _ in range(workers)
        ]
        address, web = self._web(peer, "-m", "hypercorn", f"{app}:server", **env)
        for proc in procs:
            proc.wait_until(lambda proc=proc: " ready: " in proc.log)
        return Stack(address, (web, *procs, self._redis[0]))

    def quart(self, slow_s: float = 3.0) -> Stack:
        """Stock Dash, one process of Quart on Hypercorn."""
        env = {"SLOW_S": str(slow_s)}
        address, web = self._web("quart", "-m", "hypercorn", "app:server", **env)
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
        gthread = ("-m", "gunicorn", "app:server", "--worker-class", "gthread", "--threads", "8")
        address, web = self._web("celery", *gthread, **env)
        # At its usual log level it does not say that it is ready; it binds its queue when it is.
        with Redis(port=self.redis_port, db=1) as broker:
            worker.wait_until(lambda: bool(broker.exists("_kombu.binding.celery")))
        return Stack(address, (web, worker, self._redis[0]))

    def floor(self) -> Stack:
        """A process that passes messages back through Redis."""
        echo = self._start("echo", "redis", "echo.py", str(self.redis_port))
        echo.wait_until(lambda: "ready" in echo.log)
        return Stack("", (echo, self._redis[0]))
