"""The processes of a row: started here, ended here, by pid."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

START_S = 60.0
END_S = 10.0


class StartError(Exception):
    """A process of a row did not start; the message ends with what it said."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Proc:
    """A child process, its log, and the CPU time of its whole family."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        cwd: Path,
        env: Mapping[str, str],
        told: str = "",
    ) -> None:
        self.name = name
        self._log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        # In a file: a pipe would have to be written to while it is read.
        words = folder / f"{name}-{time.monotonic_ns()}.in"
        words.write_text(told)
        with self._log_path.open("wb") as log, words.open("rb") as heard:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=heard,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._family = psutil.Process(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when it is ready.

        Raises:
            StartError: It ended, or is not ready within ``START_S``.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            if self._process.poll() is not None:
                raise StartError(f"{self.name} ended at its start:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} is not ready:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def cpu_s(self) -> float:
        """CPU seconds used so far by it and its children."""
        total = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self._family, *self._family.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    def ask_to_end(self) -> None:
        """Let it end by itself, beside others."""
        if self._process.poll() is None:
            self._process.terminate()

    def end(self, patience_s: float = END_S) -> None:
        """End it and its session, whatever state it is in."""
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(END_S)


@contextlib.contextmanager
def served_first() -> Iterator[bool]:
    """Have a core whenever this process wants one; yields whether the system permits that.

    For a client that stands for browsers: they have machines of their own. What is started
    meanwhile is served first, too.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield False
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


def start_redis(folder: Path) -> tuple[Proc, int]:
    """A Redis of our own, as Debian runs it but without snapshots: the process and its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise StartError("redis-server is not installed (scripts/system-deps names the package)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    proc = Proc("redis", [*command, "--dir", str(folder)], folder, folder, os.environ)
    proc.wait_until(lambda: listens(port))
    return proc, port
