"""The README's first app is run as it says: ``python app.py``, and nothing else."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.client import WebsocketClient
from tests.docs.pages import ROOT, Document
from tests.programs import require_program
from tests.stack import Proc, body, free_port, wait_for


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The app, with a Redis and a worker of its own."""
    require_program("redis-server")
    Document(ROOT / "README.md").extract(tmp_path)
    env = {name: value for name, value in os.environ.items() if "DASH" not in name}
    port = free_port()
    env |= {"PORT": str(port), "PYTHONPATH": str(ROOT)}
    proc = Proc("app", [sys.executable, "app.py"], env, tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: serves(address, proc), "the app is served")
        yield address
    finally:
        proc.signal(signal.SIGINT)
        proc.end()


def serves(address: str, proc: Proc) -> bool:
    assert proc.process.poll() is None, proc.log
    try:
        return httpx.get(f"{address}/_dash-layout", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


async def test_the_smallest_example_answers(address: str) -> None:
    source = Document(ROOT / "README.md").files["app.py"]
    [count] = re.findall(r"sum\(i % 7 for i in range\(([\d_]+)\)\)", source)
    weeks, days = divmod(int(count), 7)
    async with WebsocketClient(address) as client:
        await client.ask("r", body("answer.children", {"run.n_clicks": 1}))
        assert await client.children("r", within_s=50) == weeks * 21 + sum(range(days))
