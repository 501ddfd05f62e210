"""Callbacks that do what no callback should, and neighbours that must not feel it."""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from dash import Input, Output, dcc, html, set_props

from dash_dispatch import Dash, Offload

TIMEOUT_S = 2.0

app = Dash(__name__)
server = app.server
NAMES = [
    f"{what}-{where}" for what in ("acts", "neighbour") for where in ("loop", "thread", "process")
]
app.layout = html.Div([dcc.Store(id="in", data=0), *(html.Div(id=name) for name in NAMES)])
asked = Input("in", "data")


def exhausts_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**32, hard))
    try:
        return len(bytearray(2**33))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forks_and_leaves_a_child():
    """The child goes on by itself, for longer than its parent's call."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    return "forked"


def forks_and_returns_twice():
    """As of somebody who forgets that the child returns, too."""
    child = os.fork() == 0
    with contextlib.suppress(OSError):
        set_props("bar", {"children": "child" if child else "parent"})
    return "child" if child else "parent"


def blocks_signals():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    while True:
        time.sleep(1)


def prints():
    megabytes = int(os.environ["PRINTED_MB"])
    for _ in range(megabytes):
        sys.stdout.write("x" * (2**20 - 1) + "\n")
        sys.stderr.write("y" * 1000 + "\n")
    return "printed"


def closes_its_streams():
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    return "closed"


def closes_the_descriptors():
    for number in range(3):
        os.close(number)
    return "closed"


def closes_everything():
    os.closerange(3, 1024)
    time.sleep(60)


def leaves_threads():
    for _ in range(10):
        threading.Thread(target=time.sleep, args=(60,)).start()
    return "left"


def interrupts_itself():
    signal.raise_signal(signal.SIGINT)
    return "went on"


def never_ends():
    while True:
        time.sleep(0.01)


ACTS = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "no memory": exhausts_memory,
    "sys.exit": lambda: sys.exit(3),
    "os._exit": lambda: os._exit(4),
    "KeyboardInterrupt": interrupts_itself,
    "fork": forks_and_leaves_a_child,
    "fork twice": forks_and_returns_twice,
    "blocked signals": blocks_signals,
    "prints": prints,
    "closed streams": closes_its_streams,
    "closed descriptors": closes_the_descriptors,
    "closed everything": closes_everything,
    "threads": leaves_threads,
    "never ends": never_ends,
}


def note(tag):
    Path(f"{tag}.started").write_text(str(os.getpid()))


def released(tag):
    return Path(f"{tag}.go").exists()


def acts(name):
    note(name)
    return name if name.startswith("echo") else ACTS[name]()


async def acts_on_the_loop(name):
    await asyncio.sleep(0)
    if name == "never ends":
        while True:
            await asyncio.sleep(0.01)
    result = acts(name)
    await asyncio.sleep(0)
    return result


def neighbour(tag):
    note(tag)
    while not released(tag):
        time.sleep(0.02)
    return f"{tag} in {os.getpid()}"


async def neighbour_on_the_loop(tag):
    note(tag)
    while not released(tag):
        await asyncio.sleep(0.02)
    return f"{tag} in {os.getpid()}"


def brief(**more):
    return Offload(overlap="parallel", timeout=TIMEOUT_S, **more)


def long(**more):
    return Offload(overlap="parallel", **more)


for where, act, other in (
    ("loop", acts_on_the_loop, neighbour_on_the_loop),
    ("thread", acts, neighbour),
    ("process", acts, neighbour),
):
    kind = {} if where == "loop" else {"executor": where}
    app.callback(Output(f"acts-{where}", "children"), asked, offload=brief(**kind))(act)
    app.callback(Output(f"neighbour-{where}", "children"), asked, offload=long(**kind))(other)
