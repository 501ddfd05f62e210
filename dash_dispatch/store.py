"""Redis: the only file that speaks to it (arq's own wiring apart, see ``engine``).

Key schema. ``NS`` is the namespace setting; all numbers of time are Redis' own clock.

=========================  ======  ==============================================================
key                        type    holds, and how long
=========================  ======  ==============================================================
NS:call:{id}               hash    a call: ``CallSpec`` fields, ``status`` (queued, started or an
                                   outcome), ``worker``, ``attempt``, ``events`` (number of the
                                   last one), ``created_ms``. Until it ends: ``call_ttl_s``;
                                   then without its request: ``session_ttl_s``
NS:waiting:{lane}          zset    ids of queued calls, by the time they were accepted
NS:wake:{lane}             list    a token per queued call, for idle workers to block on. A hint:
                                   a lost one costs one bounded wait
NS:workers                 zset    worker ids, by the end of their lease
NS:running:{worker}        set     calls that this worker has claimed
NS:mailbox:{session}       stream  what one browser is to receive, in order, until it says that
                                   it has; ``session_ttl_s`` after the last entry
NS:result:{call}           string  a result too large for the mailbox; ``result_ttl_s``
NS:active:{session}        hash    call id → page and callback, of its calls that have not ended
NS:sweeper                 string  lock: one process at a time looks for lost workers
NS:swept                   hash    when somebody last looked, and until when nobody is given up
NS:callbacks:{side}        set     offloaded callbacks that web and worker know, to tell when
                                   they run different code
NS:health:{host}           string  arq's note that this host's worker lives; some seconds
NS:hint:{session}          pubsub  the mailbox has something new
NS:control:{worker}        pubsub  ids of calls that this worker should stop
=========================  ======  ==============================================================

A change of state is one Lua script, in its own file under ``lua/``, that checks what it changes.
The names of keys reach it through ``KEYS``. Scripts take keys of one call and its session, so a
Redis Cluster would need the lanes in the same slot: a single Redis (with replicas) is supported.

Every error of the client is mapped to `StoreError` or `StoreUnavailable`.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import redis as sync_redis
import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import AsyncScript

from dash_dispatch.config import Settings
from dash_dispatch.errors import (
    CallExpired,
    PayloadTooLarge,
    QueueFull,
    StoreError,
    StoreUnavailable,
)
from dash_dispatch.protocol import CallSpec, Event, Outcome, Status, failed

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


def _translated(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
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


class Entry(NamedTuple):
    """A mailbox entry as read: its id (the cursor), what it says, and if its body stands aside."""

    id: str
    event: Event
    aside: bool


class Admission(NamedTuple):
    """The answer to `Store.create`.

    Attributes:
        created: False when the call was known already.
        status: ``queued``, ``started`` or the outcome it ended with.
        session: Whose call it is.
        position: How many were waiting before it; 0 for a known one.
    """

    created: bool
    status: str
    session: str
    position: int


class ActiveCall(NamedTuple):
    """A call of a session that has not ended."""

    id: str
    page: str
    output: str


class _Keys:
    """The key schema, as code."""

    def __init__(self, namespace: str) -> None:
        self._ns = namespace
        self.workers = f"{namespace}:workers"
        self.sweeper = f"{namespace}:sweeper"
        self.swept = f"{namespace}:swept"

    def call(self, call: str) -> str:
        return f"{self._ns}:call:{call}"

    def waiting(self, lane: str) -> str:
        return f"{self._ns}:waiting:{lane}"

    def wake(self, lane: str) -> str:
        return f"{self._ns}:wake:{lane}"

    def running(self, worker: str) -> str:
        return f"{self._ns}:running:{worker}"

    def mailbox(self, session: str) -> str:
        return f"{self._ns}:mailbox:{session}"

    def result(self, call: str) -> str:
        return f"{self._ns}:result:{call}"

    def active(self, session: str) -> str:
        return f"{self._ns}:active:{session}"

    def callbacks(self, side: str) -> str:
        return f"{self._ns}:callbacks:{side}"

    def hint(self, session: str) -> str:
        return f"{self._ns}:hint:{session}"

    def control(self, worker: str) -> str:
        return f"{self._ns}:control:{worker}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


class Store:
    """All that web and workers share.

    Args:
        settings: ``redis_url`` must be set.

    Every method may raise `StoreUnavailable` (try again later) or `StoreError`.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.redis_url is None:
            raise ValueError("Store needs settings.redis_url")
        self._settings = settings
        self.keys = _Keys(settings.namespace)
        self._redis = connect(settings)
        # A blocking pop holds its connection, and times out by itself long before this.
        self._blocking = connect(settings, socket_timeout_s=None)
        self._scripts = {
            name: self._redis.register_script(_lua(name))
            for name in (
                "create",
                "claim",
                "start",
                "emit",
                "finish",
                "release",
                "renew",
                "lost",
                "trim",
            )
        }

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose(close_connection_pool=True)
        await self._blocking.aclose(close_connection_pool=True)

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script: AsyncScript = self._scripts[name]
        return await script(keys=keys, args=args)

    # --- a call's life: web side ---------------------------------------------------------------

    @_translated
    async def create(self, spec: CallSpec) -> Admission:
        """Accept a call, once: the same id again changes nothing.

        Args:
            spec: The call.

        Raises:
            QueueFull: ``max_queue`` calls wait in its lane already.
        """
        keys = self.keys
        status, value = await self._run(
            "create",
            [
                keys.call(spec.id),
                keys.waiting(spec.lane),
                keys.wake(spec.lane),
                keys.active(spec.session),
            ],
            [
                spec.id,
                self._settings.max_queue,
                _ms(self._settings.call_ttl_s),
                f"{spec.page}\0{spec.output}",
                *_pairs(_spec_fields(spec)),
            ],
        )
        if status == b"full":
            raise QueueFull(f"busy: {value} calls are waiting already; try again later")
        if status == b"created":
            return Admission(True, "queued", spec.session, int(value))
        return Admission(False, status.decode(), value.decode(), 0)

    @_translated
    async def active(self, session: str) -> list[ActiveCall]:
        """The session's calls that have not ended."""
        found = await cast(
            Awaitable[dict[bytes, bytes]], self._redis.hgetall(self.keys.active(session))
        )
        calls = []
        for call, value in found.items():
            page, _, output = value.decode().partition("\0")
            calls.append(ActiveCall(call.decode(), page, output))
        return calls

    async def cancel(self, call: str, status: Status = Status.CANCELLED) -> bool:
        """End a call from outside, queued or running. True if it had not ended before.

        The page gets its outcome now; the worker that runs it is told, and stops it.
        """
        return await self._end(call, Outcome(status))

    async def lose(self, call: str, worker: str) -> bool:
        """End a call whose worker is lost. True if it had not ended before.

        Only while it is this worker's: another may have started it since it was handed back.
        """
        message = "The worker that ran this callback was lost. It was not run again."
        failure = failed(Status.WORKER_LOST, "WorkerLost", message, call=call, worker=worker)
        return await self._end(call, failure, worker)

    @_translated
    async def _end(self, call: str, outcome: Outcome, worker: str = "") -> bool:
        keys = self.keys
        names = ("session", "page", "request", "lane")
        found = await cast(
            Awaitable[list[bytes | None]], self._redis.hmget(keys.call(call), list(names))
        )
        if found[0] is None:
            return False
        session, page, request, lane = (value.decode() if value else "" for value in found)
        event = Event(page, request, call, outcome)
        result, runner = await self._finish(call, session, lane, worker, event)
        if result != b"ok":
            return False
        if runner:
            await self._redis.publish(keys.control(runner.decode()), call)
        return True

    # --- a call's life: worker side ------------------------------------------------------------

    @_translated
    async def wait_for_work(self, lanes: Iterable[str], timeout_s: float) -> None:
        """Wait for a token in one of the lanes, or for the time to run out."""
        await cast(
            Awaitable[Any],
            self._blocking.blpop([self.keys.wake(lane) for lane in lanes], timeout_s),
        )

    @_translated
    async def nudge(self, lanes: Iterable[str]) -> None:
        """Wake another worker: a token may have reached one that is going away."""
        for lane in lanes:
            await cast(Awaitable[int], self._redis.lpush(self.keys.wake(lane), 1))

    @_translated
    async def claim(self, worker: str, lane: str, count: int) -> list[str]:
        """Take up to ``count`` of the oldest waiting calls."""
        keys = self.keys
        ids = await self._run(
            "claim",
            [keys.waiting(lane), keys.wake(lane), keys.running(worker), keys.workers],
            [worker, count],
        )
        return [call.decode() for call in ids]

    @_translated
    async def start(self, worker: str, call: str) -> tuple[CallSpec, int] | None:
        """Begin to run a claimed call.

        Returns:
            The call and the number of this attempt (from 1), or None when it was cancelled or
            has expired.
        """
        record = await self._run(
            "start", [self.keys.call(call), self.keys.running(worker)], [call, worker]
        )
        if not record:
            return None
        fields = dict(zip(record[::2], record[1::2], strict=True))
        return _spec_from(call, fields), int(fields[b"attempt"])

    @_translated
    async def emit(self, worker: str, spec: CallSpec, number: int, props: bytes) -> bool:
        """Put a ``set_props`` of a running call into its mailbox.

        Args:
            number: Counts the events of this run, from 1; a repeated one is dropped.

        Returns:
            False when the call is not this worker's any more (it should stop).

        Raises:
            PayloadTooLarge: The mailbox is at its bound: nobody has read it for too long.
        """
        result = await self._run(
            "emit",
            [self.keys.call(spec.id), self.keys.mailbox(spec.session)],
            [
                worker,
                number,
                self._settings.max_mailbox_entries,
                _ms(self._settings.session_ttl_s),
                self.keys.hint(spec.session),
                *_pairs(_event_fields(Event(spec.page, spec.request, spec.id, props=props))),
            ],
        )
        if result == b"full":
            raise PayloadTooLarge(
                f"{self._settings.max_mailbox_entries} updates wait for a page that does not read"
                " them (DASH_DISPATCH_MAX_MAILBOX_ENTRIES)"
            )
        return bool(result == b"ok")

    @_translated
    async def finish(self, worker: str, spec: CallSpec, outcome: Outcome) -> bool:
        """Record how a call ended, once.

        The first outcome wins: a later one is dropped and False is returned, so a worker that
        outlives its lease cannot overwrite *worker lost*. Safe to repeat after a lost connection.

        Raises:
            CallExpired: The call's keys are already gone.
        """
        event = Event(spec.page, spec.request, spec.id, outcome)
        result, _ = await self._finish(spec.id, spec.session, spec.lane, worker, event)
        if result == b"expired":
            raise CallExpired(spec.id, "the call's record is gone")
        return bool(result == b"ok")

    async def _finish(
        self, call: str, session: str, lane: str, worker: str, event: Event
    ) -> tuple[bytes, bytes]:
        keys, settings = self.keys, self._settings
        assert event.outcome is not None
        if len(event.outcome.body) > settings.inline_result_bytes:
            await self._redis.set(
                keys.result(call), event.outcome.body, px=_ms(settings.result_ttl_s)
            )
            fields = _event_fields(event, aside=True)
        else:
            fields = _event_fields(event)
        result = await self._run(
            "finish",
            [
                keys.call(call),
                keys.mailbox(session),
                keys.active(session),
                keys.waiting(lane),
                keys.running(worker),
            ],
            [
                call,
                worker,
                event.outcome.status,
                _ms(max(settings.result_ttl_s, settings.session_ttl_s)),
                _ms(settings.session_ttl_s),
                keys.hint(session),
                *_pairs(fields),
            ],
        )
        return cast(tuple[bytes, bytes], tuple(result))

    # --- workers and their leases --------------------------------------------------------------

    @_translated
    async def renew(self, worker: str, *, join: bool = False) -> bool:
        """Prolong a worker's lease; False when it has been given up as lost.

        The lease in Redis is shorter than ``lease_s``, so that it, the renewal and the sweep
        together stay within that promise.
        """
        alive = await self._run(
            "renew",
            [self.keys.workers],
            [worker, _ms(self._settings.lease_s * LEASE_SHARE), "1" if join else "0"],
        )
        return bool(alive)

    @_translated
    async def release(
        self, worker: str, call: str, lane: str, *, started: bool = False
    ) -> str | None:
        """Hand back a claimed call. Returns its status: ``queued`` if it waits again.

        Args:
            worker: Who has claimed it.
            call: Its id.
            lane: Where it waits again.
            started: Also when the worker has started it: for the worker itself, which knows that
                the answer never came and nothing of it has run.
        """
        status = await self._run(
            "release",
            [
                self.keys.call(call),
                self.keys.waiting(lane),
                self.keys.wake(lane),
                self.keys.running(worker),
            ],
            [call, worker if started else ""],
        )
        return status.decode() if status else None

    @_translated
    async def ended(self, calls: Iterable[str]) -> list[str]:
        """Those of a worker's running calls that have their outcome already."""
        names = list(calls)
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in names:
                pipe.hget(self.keys.call(call), "status")
            found = await pipe.execute()
        return [call for call, status in zip(names, found, strict=True) if status != b"started"]

    @_translated
    async def leave(self, worker: str) -> None:
        """A worker says good-bye."""
        await self._redis.zrem(self.keys.workers, worker)
        await self._redis.delete(self.keys.running(worker))

    @_translated
    async def lost_workers(self) -> list[str]:
        """Workers whose lease has run out. Only one process at a time is told."""
        lock_ms = _ms(self._settings.lease_s * BEAT_SHARE)
        keys = self.keys
        found = await self._run(
            "lost",
            [keys.workers, keys.sweeper, keys.swept],
            [lock_ms, _ms(self._settings.lease_s * LEASE_SHARE)],
        )
        return [worker.decode() for worker in found]

    @_translated
    async def claimed_by(self, worker: str) -> list[tuple[str, str]]:
        """Calls that a worker has claimed, and their lanes ('' when the record is gone)."""
        members = await cast(Awaitable[set[bytes]], self._redis.smembers(self.keys.running(worker)))
        found = []
        for member in members:
            call = member.decode()
            value = await cast(
                Awaitable[bytes | None], self._redis.hget(self.keys.call(call), "lane")
            )
            found.append((call, value.decode() if value else ""))
        return found

    @_translated
    async def live_workers(self) -> int:
        """How many workers have a lease."""
        return int(await self._redis.zcard(self.keys.workers))

    # --- what the two sides know ---------------------------------------------------------------

    @_translated
    async def publish_callbacks(self, side: str, outputs: Iterable[str]) -> None:
        """Write down which offloaded callbacks this side (``web``, ``worker``) knows."""
        key = self.keys.callbacks(side)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(key)
            names = list(outputs)
            if names:
                pipe.sadd(key, *names)
                pipe.pexpire(key, _ms(self._settings.call_ttl_s))
            await pipe.execute()

    @_translated
    async def known_callbacks(self, side: str) -> set[str]:
        """What `publish_callbacks` wrote; empty when that side has not started yet."""
        members = await cast(Awaitable[set[bytes]], self._redis.smembers(self.keys.callbacks(side)))
        return {member.decode() for member in members}

    # --- mailboxes -----------------------------------------------------------------------------

    @_translated
    async def post(self, session: str, event: Event) -> None:
        """Put an event of a callback that ran in the web process into a mailbox."""
        fields = cast(Any, _event_fields(event))
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self.keys.mailbox(session), fields, maxlen=self._settings.max_mailbox_entries)
            pipe.pexpire(self.keys.mailbox(session), _ms(self._settings.session_ttl_s))
            pipe.publish(self.keys.hint(session), "")
            await pipe.execute()

    @_translated
    async def read(self, session: str, cursor: str | None, count: int) -> list[Entry]:
        """The mailbox's entries after the cursor, in order, at most ``count``."""
        start = f"({cursor}" if cursor else "-"
        found = await self._redis.xrange(self.keys.mailbox(session), start, "+", count)
        return [await self._entry(id_.decode(), fields) for id_, fields in found]

    async def _entry(self, id_: str, fields: Mapping[bytes, bytes]) -> Entry:
        aside = b"a" in fields
        if not aside:
            return Entry(id_, _event_from(fields, fields.get(b"b", b"")), aside)
        body = await self._redis.get(self.keys.result(fields[b"c"].decode()))
        if body is not None:
            return Entry(id_, _event_from(fields, body), aside)
        call = fields[b"c"].decode()
        gone = failed(
            Status.EXPIRED, "CallExpired", "The result was not fetched in time.", call=call
        )
        event = Event(fields[b"p"].decode(), fields[b"r"].decode(), call, gone)
        return Entry(id_, event, aside)

    @_translated
    async def trim(self, session: str, cursor: str) -> None:
        """The browser has everything up to ``cursor``, large results that stand aside included."""
        time_ms, _, sequence = cursor.partition("-")
        following = f"{time_ms}-{int(sequence) + 1}"
        aside = await self._run("trim", [self.keys.mailbox(session)], [cursor, following])
        if aside:
            await self._redis.unlink(*(self.keys.result(call.decode()) for call in aside))

    @_translated
    async def discard(self, session: str) -> None:
        """Remove a mailbox that nobody will read (a plain POST that is over)."""
        await self._redis.delete(self.keys.mailbox(session), self.keys.active(session))

    # --- notifications -------------------------------------------------------------------------

    def hints(self) -> "Channels":
        """The hint channels of sessions that this process serves."""
        return Channels(self._settings, self.keys.hint)

    def controls(self) -> "Channels":
        """The control channel of a worker."""
        return Channels(self._settings, self.keys.control)


LEASE_SHARE = 0.6
BEAT_SHARE = 0.15
"""Lease in Redis, and time between two renewals or sweeps, as shares of ``lease_s``: a worker that
dies right after a renewal is found after 0.6 + 0.15 of it, and the rest is for a slow machine."""


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
        self._idle = key("-")
        # Two first subscriptions at once would each make a connection, and one would go unheard.
        self._subscribing = asyncio.Lock()

    @_translated
    async def add(self, name: str) -> None:
        """Listen to one more channel; returns when Redis has been asked."""
        async with self._subscribing:
            await self._pubsub.subscribe(self._key(name))

    async def remove(self, name: str) -> None:
        """Stop listening to a channel."""
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
                    await self._pubsub.subscribe(self._idle)
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


def _lua(name: str) -> str:
    return resources.files("dash_dispatch").joinpath("lua", f"{name}.lua").read_text("utf-8")


def _pairs(fields: Mapping[str, Any]) -> list[Any]:
    return [item for pair in fields.items() for item in pair]


def _spec_fields(spec: CallSpec) -> dict[str, Any]:
    return {
        "session": spec.session,
        "page": spec.page,
        "request": spec.request,
        "output": spec.output,
        "lane": spec.lane,
        "timeout_s": spec.timeout_s,
        "payload": spec.payload,
        "snapshot": spec.snapshot,
        "stream": int(spec.stream),
    }


def _spec_from(call: str, fields: Mapping[bytes, bytes]) -> CallSpec:
    return CallSpec(
        id=call,
        session=fields[b"session"].decode(),
        page=fields[b"page"].decode(),
        request=fields[b"request"].decode(),
        output=fields[b"output"].decode(),
        lane=fields[b"lane"].decode(),
        timeout_s=float(fields[b"timeout_s"]),
        payload=fields[b"payload"],
        snapshot=fields[b"snapshot"],
        stream=fields[b"stream"] == b"1",
    )


# Field names are one letter: a mailbox may hold thousands of entries.
def _event_fields(event: Event, *, aside: bool = False) -> dict[str, Any]:
    fields: dict[str, Any] = {"p": event.page, "r": event.request, "c": event.call}
    if event.outcome is None:
        fields |= {"q": event.question} if event.question else {"d": event.props}
        return fields | ({"n": event.direct} if event.direct else {})
    fields |= {"s": str(event.outcome.status)}
    fields |= {"a": 1} if aside else {"b": event.outcome.body}
    return fields | ({"h": event.outcome.response} if event.outcome.response else {})


def _event_from(fields: Mapping[bytes, bytes], body: bytes) -> Event:
    page, request, call = (fields[name].decode() for name in (b"p", b"r", b"c"))
    if b"s" not in fields:
        question = fields.get(b"q", b"")
        return Event(
            page,
            request,
            call,
            props=fields.get(b"d", b""),
            question=question,
            direct=fields.get(b"n", b"").decode(),
        )
    outcome = Outcome(Status(fields[b"s"].decode()), body, fields.get(b"h", b""))
    return Event(page, request, call, outcome)
