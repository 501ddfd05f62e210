"""Browsers and networks in which something is missing."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.conftest import OpenTab, Site
from tests.browser.proxy import Proxy
from tests.browser.streams import GATED_STEPS
from tests.browser.tab import Gates, Tab
from tests.programs import require_program
from tests.stack import Proc, free_port, wait_for

pytestmark = pytest.mark.browser

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{target};
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


def works(tab: Tab, gates: Gates) -> None:
    """Offloaded callbacks are answered, and stream."""
    gates.open(f"{tab.tag}-task", *(f"{tab.tag}-step-{number}" for number in GATED_STEPS))
    tab.click("task-def-start")
    tab.shows("task-def-result", f"{tab.tag} done")
    tab.click("stream-async")
    tab.shows("stream-async-step", "49")
    gates.open(f"{tab.tag}-last")
    tab.shows("stream-async-result", f"{tab.tag} all")
    tab.has_title("A page")


def test_no_shared_worker(
    context: BrowserContext, open_tab: OpenTab, proxy: Proxy, transport: str, gates: Gates
) -> None:
    context.add_init_script("delete window.SharedWorker")
    tab = open_tab()
    tab.open(proxy.address, transport)
    assert len(tab.page.workers) == 1
    works(tab, gates)


def set_policy(context: BrowserContext, address: str, policy: str) -> None:
    """Give the browser a content security policy, for pages and worker scripts alike."""
    context.add_cookies([{"name": "policy", "value": quote(policy), "url": address}])


def only_policy_errors(tab: Tab) -> bool:
    """Where the worker script runs in the page, so do its vain tries to open a websocket."""
    expected = ("Content Security Policy", "WebSocket connection to")
    return all(any(words in error for words in expected) for error in tab.take_errors())


def test_a_policy_without_workers(
    context: BrowserContext, open_tab: OpenTab, proxy: Proxy, transport: str, gates: Gates
) -> None:
    set_policy(context, proxy.address, "worker-src 'none'")
    tab = open_tab()
    tab.open(proxy.address, transport)
    assert tab.page.workers == []
    works(tab, gates)
    assert only_policy_errors(tab)


@pytest.mark.parametrize("place", ["shared worker", "worker", "page"])
def test_a_policy_without_websockets(
    context: BrowserContext, open_tab: OpenTab, site: Site, gates: Gates, place: str
) -> None:
    policy = "connect-src http:"
    if place == "worker":
        context.add_init_script("delete window.SharedWorker")
    elif place == "page":
        policy += "; worker-src 'none'"
    address = f"http://127.0.0.1:{site.port}"
    set_policy(context, address, policy)
    tab = open_tab()
    tab.open(address, "polling")
    works(tab, gates)
    assert only_policy_errors(tab)


@pytest.fixture
def nginx(site: Site, tmp_path: Path) -> Iterator[str]:
    """An nginx as people set it up first: no Upgrade header passed on, answers buffered."""
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, target=site.port))
    proc = Proc("nginx", [require_program("nginx"), "-c", str(config)], dict(os.environ), tmp_path)
    try:
        wait_for(lambda: answers(port), "nginx answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        proc.end()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def test_a_plain_nginx(nginx: str, open_tab: OpenTab, gates: Gates) -> None:
    tab = open_tab()
    tab.open(nginx, "polling")
    works(tab, gates)
