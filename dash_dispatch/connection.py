"""The connection to Redis: one that reconnects, whose errors are ours, and its notifications."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast

import hiredis
import msgspec
import redis as sync_redis
import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from dash_dispatch.config import SentinelUrl, Settings
from dash_dispatch.errors import StoreError, StoreUnavailable
from dash_dispatch.wire import Wire

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

REDIS_ERRORS = (redis_errors.RedisError, OSError)
"""What the client may raise, for those who pass its errors on."""

UNREADABLE = (msgspec.DecodeError, ValueError, KeyError, RecursionError)
"""What is raised for a record that is not of its type (``UnicodeError`` is a ``ValueError``)."""

SENTINEL_TIMEOUT_S = 1.0
"""One that does not answer is passed over after this long."""

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
        except UNREADABLE as error:
            kind = type(error).__name__
            raise StoreError(f"a record in Redis is not one of ours ({kind})") from error

    return wrapper


def ping(url: str, timeout_s: float) -> str:
    """Ask a Redis for its version, without an event loop (start-up checks, the doctor).

    Raises:
        StoreUnavailable: Nothing answers there within ``timeout_s``.
        StoreError: It answers and refuses.
    """
    try:
        with _sync_client(url, timeout_s) as client:
            info = cast(dict[str, Any], client.info("server"))
            return str(info["redis_version"])
    except (redis_errors.RedisError, OSError) as error:
        raise translate(error) from error


EVERYBODY = "-"
"""A name that everybody listens to."""


def _sync_client(url: str, timeout_s: float) -> Any:
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    named = SentinelUrl.read(url)
    if named is None:
        return sync_redis.Redis.from_url(url, **options)
    options |= {"ssl": named.secure, **named.tls}
    make: Any = sync_redis.Redis
    for host, port in named.sentinels:
        with contextlib.suppress(redis_errors.RedisError, OSError):
            login = {"decode_responses": True, **named.sentinel_login}
            with make(host=host, port=port, **login, **options) as sentinel:
                found = sentinel.sentinel_get_master_addr_by_name(named.service)
            if found is not None:
                return make(host=found[0], port=found[1], db=named.db, **named.login, **options)
    raise _unknown_primary(named)


def _unknown_primary(named: SentinelUrl) -> Exception:
    return redis_errors.ConnectionError(
        f"none of {len(named.sentinels)} Sentinels knows a primary of {named.service!r}"
    )


class _Following(Connection):
    """A connection to whatever the Sentinels call the primary when it is made."""

    def __init__(self, *, named: SentinelUrl, **options: Any) -> None:
        super().__init__(db=named.db, **named.login, **named.tls, **options)
        self._named = named

    async def _connect(self) -> None:
        """Called for every attempt to connect."""
        self.host, self.port = await self._primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def _primary(self) -> tuple[str, int]:
        named = self._named
        for host, port in named.sentinels:
            sentinel: Any = Redis(
                host=host,
                port=port,
                ssl=named.secure,
                **named.tls,
                decode_responses=True,
                socket_timeout=SENTINEL_TIMEOUT_S,
                socket_connect_timeout=SENTINEL_TIMEOUT_S,
                **named.sentinel_login,
            )
            with contextlib.suppress(redis_errors.RedisError, OSError):
                async with sentinel:
                    found = await sentinel.sentinel_get_master_addr_by_name(named.service)
                if found is not None:
                    return cast(tuple[str, int], found)
        raise _unknown_primary(named)


class _SecurelyFollowing(_Following, SSLConnection):
    """The same over TLS."""


Heard = Callable[[bytes, bytes], None]
"""Told of a channel and its message."""


class _Subscriber(Wire):
    """A connection that is told of messages; an error in their place is its end."""

    def __init__(self, connection: AbstractConnection, heard: Heard | None) -> None:
        super().__init__(connection)
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self._heard = heard

    def on_reply(self, reply: Any) -> None:
        """A message, or that a channel is subscribed to."""
        if self._heard is None or isinstance(reply, Exception):
            self.replies.put_nowait(reply)
        elif reply[0] == b"message":
            self._heard(reply[1], reply[2])

    def on_lost(self, error: Exception) -> None:
        """As the last reply."""
        self.replies.put_nowait(error)

    def say(self, command: str, *channels: str) -> None:
        """Subscribe or unsubscribe."""
        if self.lost:
            raise redis_errors.ConnectionError("lost")
        self.send(hiredis.pack_command(cast(tuple[bytes], (command, *channels))))


class Channels:
    """Pub/sub over one connection that mends itself.

    A message is only a hint. After a lost connection, messages may have been missed, and the
    reader is told so by ``None`` in place of a name. (The client's own ``PubSub`` would mend its
    connection and say nothing, and takes several times as long for each message.)

    Args:
        settings: ``redis_url`` must be set.
        key: Makes the channel's key of its name.
        heard: Told of each message as it comes, name first; `listen` then yields none.
    """

    def __init__(
        self,
        settings: Settings,
        key: Callable[[str], str],
        heard: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._key = key
        self._heard = heard
        self._pool = connect(settings, socket_timeout_s=None, retries=0).connection_pool
        self._names = {EVERYBODY}
        self._subscriber: _Subscriber | None = None
        self._connecting = asyncio.Lock()

    @translated
    async def add(self, name: str) -> None:
        """Listen to one more channel; returns when Redis has been asked."""
        self._names.add(name)
        try:
            # A connection that is made for it asks for it with all others.
            known, subscriber = self._subscriber, await self._connected()
            if subscriber is known:
                subscriber.say("SUBSCRIBE", self._key(name))
        except BaseException:
            self._names.discard(name)
            raise

    async def remove(self, name: str) -> None:
        """Stop listening to a channel."""
        self._names.discard(name)
        if self._subscriber is not None and not self._subscriber.lost:
            self._subscriber.say("UNSUBSCRIBE", self._key(name))

    async def listen(self) -> AsyncIterator[tuple[str | None, bytes]]:
        """Yield ``(name, message)`` as they come, and ``(None, b"")`` after a reconnect."""
        prefix = len(self._key(""))
        backoff_s = 0.05
        while True:
            try:
                replies = (await self._connected()).replies
                yield None, b""
                backoff_s = 0.05
                while True:
                    reply = await replies.get()
                    if isinstance(reply, Exception):
                        raise reply
                    kind, channel, data = reply
                    if kind == b"message":
                        yield channel.decode()[prefix:], data
            except (redis_errors.RedisError, OSError) as error:
                logger.warning("! notifications interrupted (%s), trying again", error)
                await self._drop()
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 2.0)

    def _tell(self, channel: bytes, data: bytes) -> None:
        assert self._heard is not None
        self._heard(channel.decode()[len(self._key("")) :], data)

    async def _connected(self) -> _Subscriber:
        """The connection, with all subscriptions; a new one when there is none."""
        async with self._connecting:
            if self._subscriber is None:
                connection: AbstractConnection = self._pool.make_connection()
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                    subscriber = _Subscriber(connection, self._heard and self._tell)
                    subscriber.say("SUBSCRIBE", *map(self._key, self._names))
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._subscriber = subscriber
            return self._subscriber

    async def _drop(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            await subscriber.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._drop()


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
    pool = _pool(
        url,
        max_connections=64,
        timeout=20,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=5.0,
        health_check_interval=30 if socket_timeout_s else 0,
        retry=retry,
        retry_on_error=[
            redis_errors.ConnectionError,
            redis_errors.BusyLoadingError,
            # Of a primary that is one no more: another connection leads to its successor.
            redis_errors.ReadOnlyError,
        ],
        # A local socket cannot lose its other end unnoticed, and takes no such option.
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )
    # The client's own from here on: it closes the pool's connections when it is closed.
    return client.from_pool(pool)


def _pool(url: str, **options: Any) -> BlockingConnectionPool:
    named = SentinelUrl.read(url)
    if named is None:
        return BlockingConnectionPool.from_url(url, **options)
    kind = _SecurelyFollowing if named.secure else _Following
    return BlockingConnectionPool(connection_class=kind, named=named, **options)
