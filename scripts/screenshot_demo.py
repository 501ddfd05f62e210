"""Take the README's screenshot: start the demo, use it as a person would, write a PNG.

    python scripts/screenshot_demo.py docs/demo.png

Needs Playwright (the Python package) and a Chromium (``--chromium``, by default the one on PATH).
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
START_S, HEAVY_S, ANSWER_S, STOP_S = 60, 180, 20, 30
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("png", type=Path, nargs="?", default=ROOT / "docs" / "demo.png")
    parser.add_argument("--scale", type=float, default=2, help="pixels per CSS pixel")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser to use")
    options = parser.parse_args()
    options.png.parent.mkdir(parents=True, exist_ok=True)
    with served_demo() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        try:
            page = browser.new_page(
                viewport={"width": 1400, "height": 1000}, device_scale_factor=options.scale
            )
            page.goto(url, timeout=START_S * 1000)
            use(page)
            page.screenshot(path=options.png, full_page=True)
        finally:
            browser.close()
    print(options.png)


@contextmanager
def served_demo() -> Iterator[str]:
    """The demo on a free port, ended as by Ctrl-C."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryFile("w+") as log:
        demo = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "demo.py")],
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_served(url, demo)
            yield url
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read())
            raise
        finally:
            stop(demo)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_served(url: str, demo: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if demo.poll() is not None:
            raise SystemExit(f"the demo ended with {demo.returncode} instead of serving")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"the demo did not serve within {START_S} s")


def stop(demo: subprocess.Popen[bytes]) -> None:
    if demo.poll() is not None:
        return
    demo.send_signal(signal.SIGINT)
    try:
        demo.wait(STOP_S)
    except subprocess.TimeoutExpired:
        demo.kill()
        demo.wait()


def use(page: Page) -> None:
    """Run the heavy computation to its end, and type in all the boxes."""
    expect(page.locator("#facts .fact")).to_have_count(3, timeout=START_S * 1000)
    page.locator("#run").click()
    expect(page.locator("#curves-where")).to_contain_text(" s", timeout=HEAVY_S * 1000)
    # One pair after the other: what is shown is its own doing, not that of a busy browser.
    for color in ("red", "blue", "teal", "violet"):
        type_in(page, color)
        for answer in page.locator(f".boxes.{color} .foot").all():
            expect(answer).to_contain_text("from", timeout=ANSWER_S * 1000)
    page.locator("header").click()  # takes the focus out of the last box
    page.wait_for_timeout(1500)  # the strip is renewed once a second


def type_in(page: Page, color: str) -> None:
    slow, fast = page.locator(f".boxes.{color} input").all()
    slow.press_sequentially("slow")
    page.wait_for_timeout(450)  # as a person: the slow question goes out after 300 ms
    fast.press_sequentially("fast", delay=30)


if __name__ == "__main__":
    main()
