"""Exactly the commands of compose.yaml, with nothing changed but addresses and folders."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from tests import deployment
from tests.programs import require_program
from tests.stack import APPS, Proc, body, free_port, wait_for

PASSWORD = "letters0and1digits"
CHOSEN = {
    "REDIS_PASSWORD": PASSWORD,
    "DASH_DISPATCH_SECRET_KEY": "a secret for tests only",
    "WEB_APP": "basic:server",
    "WORKER_APP": "basic:app",
}


class Composed:
    """The four services of compose.yaml, on ports of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis, self.web, self.proxy = free_port(), free_port(), free_port()
        self.procs: dict[str, Proc] = {}
        self._moves = {
            "/data": str(folder),
            "0.0.0.0:8000": f"127.0.0.1:{self.web}",
            "127.0.0.1:8000": f"127.0.0.1:{self.web}",
            "127.0.0.1:8080": f"127.0.0.1:{self.proxy}",
            "@redis:6379": f"@127.0.0.1:{self.redis}",
            "exec redis-server": f"exec redis-server --port {self.redis} --bind 127.0.0.1",
            "redis-cli ": f"redis-cli -p {self.redis} ",
            "/etc/nginx/dash-dispatch.conf": str(folder / "nginx.conf"),
        }

    def start(self, name: str) -> None:
        words = [self._moved(word) for word in deployment.command(name, CHOSEN)]
        self.procs[name] = Proc(name, words, self._environment(name), self.folder)

    def healthy(self, name: str) -> bool:
        words = [self._moved(word) for word in deployment.health_command(name, CHOSEN)]
        check = subprocess.run(
            words, env=self._environment(name), cwd=self.folder, capture_output=True, check=False
        )
        return check.returncode == 0

    def end(self) -> None:
        for name in ("proxy", "web", "worker", "redis"):
            if name in self.procs:
                self.procs[name].end()

    def _moved(self, text: str) -> str:
        for old, new in self._moves.items():
            text = text.replace(old, new)
        return text

    def _environment(self, name: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("DASH_DISPATCH_")}
        path = [str(Path(sys.executable).parent), own.get("PATH", os.defpath), "/usr/sbin"]
        given = deployment.service(name, CHOSEN).get("environment", {})
        return (
            own
            | {"PATH": os.pathsep.join(path), "PYTHONPATH": str(APPS)}
            | {key: self._moved(str(value)) for key, value in given.items()}
        )


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    for program in ("redis-server", "redis-cli", "nginx", "wget"):
        require_program(program)
    composed = Composed(tmp_path_factory.mktemp("composed"))
    address = f"127.0.0.1:{composed.proxy}", f"127.0.0.1:{composed.web}"
    config = deployment.proxy_config(listen=address[0], web=address[1], folder=composed.folder)
    (composed.folder / "nginx.conf").write_text(config)
    try:
        composed.start("redis")
        wait_for(lambda: composed.healthy("redis"), "redis is healthy")
        composed.start("web")
        composed.start("worker")
        wait_for(lambda: composed.healthy("web"), "web is healthy")
        composed.start("proxy")
        wait_for(lambda: composed.healthy("proxy"), "proxy is healthy")
        # Its check is a process of a second's work: not to be asked over and over while it starts.
        wait_for(lambda: " ready: " in composed.procs["worker"].log, "worker is ready")
        wait_for(lambda: composed.healthy("worker"), "worker is healthy")
        yield composed
    finally:
        composed.end()


def test_an_offloaded_callback_answers_through_the_proxy(composed: Composed) -> None:
    answer = httpx.post(
        f"http://127.0.0.1:{composed.proxy}/_dash-update-component",
        json=body("def.children", {"in.data": 7}),
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    text = answer.json()["response"]["def"]["children"]
    assert text.startswith("process ")
    assert text.endswith(" 7")


def test_a_websocket_comes_through_the_proxy(composed: Composed) -> None:
    origin = f"http://127.0.0.1:{composed.proxy}"
    with connect(
        f"ws://{urlsplit(origin).netloc}/_dash-ws-callback",
        additional_headers={"Origin": origin},
    ) as websocket:
        websocket.send(json.dumps({"type": "hello", "version": 1, "session": None, "cursor": None}))
        [[mark, welcome]] = json.loads(websocket.recv(timeout=20))
    assert mark is None
    assert welcome["type"] == "welcome"


def test_the_password_is_asked_for(composed: Composed) -> None:
    words = ["redis-cli", "-p", str(composed.redis), "ping"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "NOAUTH" in answer.stdout
    assert all(PASSWORD not in proc.log for proc in composed.procs.values())


def test_the_worker_ends_within_its_grace(composed: Composed) -> None:
    """On a stop, and with its exit status 0: compose does not take it for a failure."""
    period_s = deployment.seconds(deployment.service("worker", CHOSEN)["stop_grace_period"])
    assert composed.procs["worker"].terminate(period_s) == 0
