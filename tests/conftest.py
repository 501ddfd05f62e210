"""Fixtures that several kinds of tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack import RedisServer, Stack


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole run; each test has a namespace of its own in it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be hurt, with an append-only file."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    try:
        yield server
    finally:
        server.end()


StackFactory = Callable[..., Stack]


@pytest.fixture
def make_stack(redis_server: RedisServer, tmp_path: Path) -> Iterator[StackFactory]:
    """Makes stacks that end with the test: ``make_stack("basic", lease_s="2")``."""
    stacks: list[Stack] = []

    def make(app: str, *, redis_server: RedisServer = redis_server, **settings: str) -> Stack:
        stack = Stack(redis_server, app, tmp_path, **settings)
        stacks.append(stack)
        return stack

    try:
        yield make
    finally:
        for stack in stacks:
            stack.end()


@pytest.fixture(scope="module")
def make_shared_stack(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StackFactory]:
    """`make_stack`, for stacks that serve a whole module of tests."""
    stacks: list[Stack] = []

    def make(app: str, *, redis_server: RedisServer = redis_server, **settings: str) -> Stack:
        stack = Stack(redis_server, app, tmp_path_factory.mktemp(app), **settings)
        stacks.append(stack)
        return stack

    try:
        yield make
    finally:
        for stack in stacks:
            stack.end()
