"""The connection to Redis: one that reconnects, whose errors are ours, and its notifications."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast

import redis as sync_redis
import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from dash_dispatch.config import Settings
from dash_dispatch.errors import StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

REDIS_ERRORS = (redis_errors.RedisError, OSError)
"""What the client may raise, for those who pass its errors on."""

_TRANSIENT = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.OutOfMemoryError,
    OSError,
)
"""What may be over in a moment. Everything else of ``RedisError`` is our mistake or a refusal."""


def translate(error: Exception) -> StoreError:
    """The error of this package for an error of the Redis client.

    The text of a connection error may hold an address, never a password: the client leaves that
    out.
    """
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
        return StoreError(f"Redis refuses the user or password of DASH_DISPATCH_REDIS_URL: {error}")
    if isinstance(error, _TRANSIENT):
        return StoreUnavailable(f"Redis is not available: {error}")
    return StoreError(f"Redis refused a command: {error}")


def translated(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Raise this package's errors for those of the client."""

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error

    return wrapper


def ping(url: str, timeout_s: float) -> str:
    """Ask a Redis for its version, without an event loop (start-up checks, the doctor).

    Raises:
        StoreUnavailable: Nothing answers there within ``timeout_s``.
        StoreError: It answers and refuses.
    """
    try:
        client = sync_redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        with client:
            info = cast(dict[str, Any], client.info("server"))
            return str(info["redis_version"])
    except (redis_errors.RedisError, OSError) as error:
        raise translate(error) from error


class Channels:
    """Pub/sub over one connection that mends itself.

    A message is only a hint. After a lost connection, messages may have been missed, and the
    reader is told so by ``None`` in place of a name.
    """

    def __init__(self, settings: Settings, key: Callable[[str], str]) -> None:
        self._key = key
        # Not mended by the client: it would say nothing, and nobody would look for what was missed.
        self._redis = connect(settings, socket_timeout_s=None, retries=0)
        self._pubsub: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)
        # Without any subscription the client would refuse to listen.
        self._names = {"-"}
        # Two first subscriptions at once would each make a connection, and one would go unheard.
        self._subscribing = asyncio.Lock()

    @translated
    async def add(self, name: str) -> None:
        """Listen to one more channel; returns when Redis has been asked."""
        # Ours, too, and first: the client forgets what it is asked while it reconnects.
        self._names.add(name)
        try:
            async with self._subscribing:
                await self._pubsub.subscribe(self._key(name))
        except BaseException:
            self._names.discard(name)
            raise

    async def remove(self, name: str) -> None:
        """Stop listening to a channel."""
        self._names.discard(name)
        with contextlib.suppress(redis_errors.RedisError, OSError):
            # The subscription dies with its connection, which is what was wanted.
            await self._pubsub.unsubscribe(self._key(name))

    async def listen(self) -> AsyncIterator[tuple[str | None, bytes]]:
        """Yield ``(name, message)`` as they come, and ``(None, b"")`` after a reconnect."""
        prefix = len(self._key(""))
        backoff_s = 0.05
        while True:
            try:
                async with self._subscribing:
                    await self._pubsub.subscribe(*map(self._key, self._names))
                yield None, b""
                backoff_s = 0.05
                async for message in self._pubsub.listen():
                    yield message["channel"].decode()[prefix:], message["data"]
            except (redis_errors.RedisError, OSError) as error:
                logger.warning("! notifications interrupted (%s), trying again", error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)

    async def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(redis_errors.RedisError, OSError):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose(close_connection_pool=True)


def connect(
    settings: Settings,
    *,
    socket_timeout_s: float | None = 10.0,
    client: type[Any] = Redis,
    retries: int = 6,
) -> Any:
    """A client with a bounded pool that reconnects by itself.

    Args:
        settings: ``redis_url`` must be set.
        socket_timeout_s: Time limit of one command; None for blocking commands.
        client: ``Redis`` or a subclass that is constructed alike.
        retries: How often a command is tried again after a lost connection.
    """
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=1.0), retries=retries)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=20,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=5.0,
        health_check_interval=30 if socket_timeout_s else 0,
        retry=retry,
        retry_on_error=[redis_errors.ConnectionError, redis_errors.BusyLoadingError],
        # A local socket cannot lose its other end unnoticed, and takes no such option.
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )
    # The client's own from here on: it closes the pool's connections when it is closed.
    return client.from_pool(pool)
