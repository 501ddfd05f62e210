"""Web processes and workers that are born with their libraries: forked, instead of started anew.

Most of what such a process does until it is ready is to import the same libraries; a run of the
tests starts hundreds. So one process is kept per command that has imported what the command imports
before it comes to its app, and is forked. From there on all is the command's own, as ``python -m``
runs it: its arguments, environment, directory, output and session. The fork server of a worker's
pool is made in the same way. That the commands start as users write them is what the tests of
compose and of the embedded mode show. Those of one command share the seed of their hashes.

Run as a script, this file is the process that is kept. It has no threads.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from fcntl import F_DUPFD_CLOEXEC, fcntl
from multiprocessing import util
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

LIBRARIES = {
    "hypercorn": ["hypercorn.run", "hypercorn.asyncio.run", "dash_dispatch.server"],
    "arq": ["arq.cli", "dash_dispatch.engine", "dash_dispatch.child", "dash_dispatch.server"],
}
"""What a command imports whatever its app is."""

FORK_SERVER = "from multiprocessing.forkserver import main"
"""What the fork server of a pool runs begins with this."""

MAX_BYTES = 2**20
ABOVE = 500
"""File descriptors from here on are nobody's."""


def can_fork(command: Sequence[str], env: dict[str, str]) -> bool:
    """Whether a fork is the same as a start of this command."""
    if list(command[:2]) != [sys.executable, "-m"] or command[2] not in LIBRARIES:
        return False
    # What a start of Python imports before anything else.
    folders = env.get("PYTHONPATH", "").split(os.pathsep)
    return not any(Path(folder, "sitecustomize.py").exists() for folder in folders)


class Forked:
    """A forked process, to be used as `subprocess.Popen` is.

    Args:
        command: Its arguments, from the name of the module on.
    """

    _starters: ClassVar[dict[Any, socket.socket]] = {}
    _starting = threading.Lock()

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path, output: int) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self._lock = threading.Lock()
        request = {"argv": self.args, "env": env, "cwd": str(cwd)}
        self._news, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            message = json.dumps(request).encode()
            socket.send_fds(self._starter(command[0], env), [message], [output, theirs.fileno()])
        self.pid = self._hear()

    @classmethod
    def _starter(cls, module: str, env: dict[str, str]) -> socket.socket:
        # What Python reads when it starts; its path is given to it later.
        own = {k: v for k, v in env.items() if k.startswith("PYTHON") and k != "PYTHONPATH"}
        kind = module, *sorted(own.items())
        with cls._starting:
            if kind not in cls._starters:
                cls._starters[kind] = _start_starter(module, own)
            return cls._starters[kind]

    def _hear(self) -> int:
        """Its next news: its pid, and then its exit status."""
        news = self._news.recv(16)
        if not news:
            raise RuntimeError(f"what starts {self.args[0]} has ended")
        return int(news)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._news, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            # It stays readable: the other end is closed then.
            with self._lock:
                if self.returncode is None:
                    self.returncode = self._hear()
        return self.returncode

    def __del__(self) -> None:
        self._news.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _start_starter(module: str, own: dict[str, str]) -> socket.socket:
    """Start what is forked for this command; what it is asked with."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    others = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DASH_DISPATCH_"))}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, module, str(theirs.fileno())],
            env=others | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        # It does when nobody can ask any more.
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- the process that is kept ---------------------------------------------------------------------


class Starter:
    """Forks itself when asked to, and tells how each of those has ended.

    Args:
        asked: Where it is asked.
    """

    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self._told: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(asked, selectors.EVENT_READ)
        self._death, wake = socket.socketpair()
        self._wake = wake
        for end in (self._death, wake):
            end.setblocking(False)
        self._selector.register(self._death, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())

    def run(self) -> tuple[dict[str, Any], int] | None:
        """Start what is asked for until nobody can ask; in what was started: the request."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._death:
                    self._death.recv(MAX_BYTES)
                    self._tell()
                    continue
                message, fds, *_ = socket.recv_fds(self._asked, MAX_BYTES, 2)
                if not message:
                    return None
                output, news = fds
                if self._fork(socket.socket(fileno=news)):
                    return json.loads(message), output
                os.close(output)

    def _fork(self, news: socket.socket) -> bool:
        """Whether this is the one that was forked."""
        if pid := os.fork():
            self._told[pid] = news
            _tell(news, pid)
            return False
        news.close()
        self._close()
        return True

    def _tell(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                with self._told.pop(pid) as news:
                    _tell(news, os.waitstatus_to_exitcode(status))

    def _close(self) -> None:
        """What is of no concern to who was forked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for each in (self._asked, self._death, self._wake, *self._told.values()):
            each.close()


def _tell(news: socket.socket, number: int) -> None:
    # Nobody listens where the test has been killed.
    with contextlib.suppress(OSError):
        news.send(b"%d" % number)


def become(request: dict[str, Any], output: int) -> None:
    """Be what was asked for, as if it had been started."""
    os.setsid()
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.chdir(request["cwd"])
    module, *_ = sys.argv = request["argv"]
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if module == "arq":
        keep_fork_server()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def keep_fork_server() -> None:
    """What becomes the fork server of this process' pool, if it wants one.

    Forked here, before there are threads; a second one is started as usual.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        be_fork_server(theirs)
    theirs.close()
    start = util.spawnv_passfds

    def give(path: Any, args: list[str], fds: list[int]) -> int:
        if not args[-1].startswith(FORK_SERVER):
            return start(path, args, fds)
        util.spawnv_passfds = start
        request = {"code": args[-1], "fds": list(fds), "env": dict(os.environ)}
        with ours:
            socket.send_fds(ours, [json.dumps(request).encode()], fds)
        return pid

    cast(Any, util).spawnv_passfds = give


def be_fork_server(asked: socket.socket) -> NoReturn:
    """Wait until one is wanted; does not return."""
    with asked:
        message, given, *_ = socket.recv_fds(asked, MAX_BYTES, 8)
    if not message:
        os._exit(0)
    request = json.loads(message)
    # Its code has the numbers that they had over there.
    moved = [fcntl(fd, F_DUPFD_CLOEXEC, ABOVE) for fd in given]
    os.closerange(3, ABOVE)
    for fd, number in zip(moved, request["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = ""
    sys.argv = ["-c"]
    exec(request["code"], {"__name__": "__main__"})
    os._exit(0)


def main() -> None:
    """Be kept."""
    module, number = sys.argv[1:]
    for name in LIBRARIES[module]:
        importlib.import_module(name)
    with socket.socket(fileno=int(number)) as asked:
        request = Starter(asked).run()
    if request is not None:
        become(*request)


if __name__ == "__main__":
    main()
