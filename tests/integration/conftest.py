"""Fixtures for tests of what speaks to Redis, without processes of its own."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from dash_dispatch import Settings
from dash_dispatch.store import Store
from tests.stack import RedisServer

SettingsFactory = Callable[..., Settings]


@pytest.fixture
def make_settings(redis_server: RedisServer) -> SettingsFactory:
    """Settings of a namespace of their own: ``make_settings(max_queue=2)``."""
    namespace = f"t{uuid.uuid4().hex[:12]}"

    def make(**overrides: Any) -> Settings:
        defaults = {"redis_url": redis_server.url, "namespace": namespace}
        return Settings.read(**defaults | overrides)

    return make


StoreFactory = Callable[..., Store]


@pytest.fixture
async def make_store(make_settings: SettingsFactory) -> AsyncIterator[StoreFactory]:
    """Stores that are closed with the test: ``make_store(max_queue=2)``."""
    stores: list[Store] = []

    def make(**overrides: Any) -> Store:
        stores.append(Store(make_settings(**overrides)))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def store(make_store: StoreFactory) -> Store:
    return make_store()


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[Any]:
    """A client of the test's own, to see what is really there. (Its types fit no `await`.)"""
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        yield client
