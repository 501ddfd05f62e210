"""Redis: what web and workers share. With ``connection``, the only files that speak to it.

Key schema. ``NS`` is the namespace setting; all numbers of time are Redis' own clock. A *lane* is
a queue and an executor; a *gate* is a concurrency limit; a *line* is a lane, or one gate of it.

=========================  ======  ==============================================================
key                        type    holds, and how long
=========================  ======  ==============================================================
NS:call:{id}               hash    a call: ``status`` (queued, started or an outcome), ``session``,
                                   ``spec`` (the `CallSpec`), ``gate``, ``place`` in its line,
                                   ``worker``, ``attempt``, ``retries``, ``events`` (number of the
                                   last one of this attempt), ``position`` (last one told),
                                   ``supersedes`` (ids), ``created_ms``, ``started_ms``. Until it
                                   ends: ``call_ttl_s``; then ``status``, ``session``, ``gate``,
                                   ``worker``, ``attempt``: ``session_ttl_s``
NS:waiting:{line}          zset    ids of queued calls, by their place (see ``create.lua``);
                                   ``call_ttl_s`` after the last one
NS:wake:{lane}             list    for idle workers to block on: per queued call the `CallSpec`, if
                                   nobody waits before it, else "call gate"; or " " for "look"; at
                                   most ``WAKES``. A hint: a lost one costs one bounded wait;
                                   ``call_ttl_s`` after the last call
NS:gates:{lane}            set     gates of the lane's calls; ``call_ttl_s``
NS:lanes:{gate}            set     lanes that have calls of this gate; ``call_ttl_s``
NS:limits                  hash    gate → how many of its calls may run at once; ``call_ttl_s``
NS:slots:{gate}            zset    calls of this gate that run, by the time they were claimed;
                                   ``call_ttl_s``
NS:turns:{line}            zset    users that have calls waiting, by priority and last turn;
                                   ``call_ttl_s``
NS:clock:{lane}            hash    per priority, and per gate of it, the ``turn`` that is served
                                   now; number of ``arrivals``; ``call_ttl_s``
NS:instance:{instance}     list    calls of one callback instance that have not ended
                                   ("call:place"), the one that may speak first; ``call_ttl_s``
NS:later                   zset    calls that are to be retried, by the time they are due
NS:cached:{key}            hash    ``outcome`` of a call that is shared, its ``status``, ``at_ms``;
                                   for as long as its callback says
NS:flight:{key}            string  the call that computes it now
NS:followers:{key}         set     calls that wait for that ("call:place")
NS:workers                 zset    worker ids, by the end of their lease; 0 for one that is lost
                                   and whose calls are being settled
NS:capacity                hash    worker → how many calls of each lane it runs at once
NS:running:{worker}        hash    calls that this worker has claimed → their gate
NS:mailbox:{session}       stream  what one browser is to receive, in order, until it says that
                                   it has; ``session_ttl_s`` after the last entry
NS:result:{call}:{worker}  string  a result too large for the mailbox; ``result_ttl_s``
NS:active:{session}        hash    call id → an `ActiveCall`, of its calls that have not ended
NS:absent                  zset    sessions without a connection, by the time they have left
NS:announced               zset    calls whose page wants to know their position
NS:durations               hash    callback → how long it usually runs, in ms
NS:sweeper                 string  lock: one process at a time looks for what is overdue
NS:swept                   hash    when somebody last looked, and until when nobody is given up
NS:libraries               zset    names of component libraries that callbacks have imported, by the
                                   time they were last told of; the last ``LIBRARIES`` of them
NS:callbacks:{side}        set     offloaded callbacks that web and worker know, to tell when
                                   they run different code
NS:health:{host}           string  arq's note that this host's worker lives; some seconds
NS:hint:{session}          pubsub  the mailbox has something new; see ``mail.lua``
NS:hint:-                  pubsub  users whose logins have ended, for all web processes
NS:control:{worker}        pubsub  ids of calls that this worker should stop
=========================  ======  ==============================================================

A change of state is one Lua script, in its own file under ``lua/``, that checks what it changes.
The names of keys reach it through ``KEYS``. Scripts take keys of one call, its session and its
lane, so a Redis Cluster would need all in one slot: a single Redis (with replicas) is supported.

Every error of the client is mapped to `StoreError` or `StoreUnavailable`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple, cast

import msgspec

from dash_dispatch.config import Settings
from dash_dispatch.connection import EVERYBODY, UNREADABLE, Channels, connect, translated
from dash_dispatch.errors import CallExpired, DecodeError, PayloadTooLarge, QueueFull
from dash_dispatch.multiplexer import Multiplexer
from dash_dispatch.protocol import (
    CallSpec,
    Event,
    OnLeave,
    Outcome,
    Overlap,
    Status,
    decode_spec,
    encode_spec,
    failed,
)

logger = logging.getLogger(__name__)

LEASE_SHARE = 0.6
BEAT_SHARE = 0.15
"""Lease in Redis, and time between two renewals or sweeps, as shares of ``lease_s``: a worker that
dies right after a renewal is found after 0.6 + 0.15 of it, and the rest is for a slow machine."""

SHARED_FAILURE_S = 10.0
"""How long a failure is kept for the calls that waited for the same result."""

FLIGHT_MARGIN_S = 60.0
"""A call that computes for others is not waited for longer than its time limit and this."""

REPLY_S = 5.0
"""A reply of Redis that takes longer means that the connection is lost."""

WAKES = 1000
"""Wake-ups kept per lane; the oldest go first. More workers than this that are idle at once would
find the work by themselves, a little later."""

TOLD_BYTES = 8192
"""A wake-up brings a call along that has no more bytes than this."""

BETWEEN_POLLS_S = 2.0
"""A browser that polls is without a connection now and then, and has not left for that."""

PART_BYTES = 2**20
"""Large results are read in parts of this size."""

LIBRARIES = 200
"""Component libraries that web processes may import because a callback has; the oldest go first."""

OVERDUE_BATCH = 200
"""What one sweep takes up at once; the next one follows in a second or two."""

_LAST_ENTRY = f"{2**64 - 1}-{2**64 - 2}"
"""No entry of a mailbox comes behind this one."""

SCRIPTS = (
    "absent",
    "beat",
    "claim",
    "create",
    "dismiss",
    "emit",
    "finish",
    "lead",
    "position",
    "release",
    "requeue",
    "retry",
    "start",
    "take",
    "trim",
)

MAILING = frozenset({"emit", "finish", "position"})
"""Scripts that put entries into mailboxes, by the functions of ``mail.lua``."""


class Entry(NamedTuple):
    """A mailbox entry as read: its id (the cursor), what it says, and if its body stands aside."""

    id: str
    event: Event
    aside: bool


class Admission(NamedTuple):
    """The answer to `Store.create`.

    Attributes:
        created: False when the call was known already, or was dropped.
        status: ``queued``, ``started``, the outcome it ended with, or ``dropped``.
        session: Whose call it is.
        position: How many were waiting before it; 0 for a known one.
        superseded: Ids of the calls whose place it took; they have to be cancelled. Told again
            for a known one, as whoever was told at first may not have lived to do it.
    """

    created: bool
    status: str
    session: str
    position: int
    superseded: tuple[str, ...] = ()


class ActiveCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a session that has not ended.

    Attributes:
        id: The call's id.
        page: The page that asked for it.
        output: Its callback.
        match: Values of its wildcards, see ``bridge.match_of``.
        on_leave: What becomes of it when its page has gone.
    """

    id: str
    page: str
    output: str
    match: str = ""
    on_leave: OnLeave = OnLeave.KEEP


class Claimed(NamedTuple):
    """A call that a worker has started, and the number of this attempt (from 1)."""

    spec: CallSpec
    attempt: int


class Wake(NamedTuple):
    """A wake-up: something waits in this lane; which call, and all of it, if that was said."""

    lane: str
    call: str
    gate: str
    spec: CallSpec | None = None


class Overdue(NamedTuple):
    """What a sweeper has to deal with: ids of workers, calls and sessions."""

    workers: list[str]
    calls: list[str]
    sessions: list[str]


class Beat(NamedTuple):
    """The answer to a worker's heartbeat.

    Attributes:
        alive: False when it has been given up as lost.
        claimed: How many calls it has, by Redis' count.
        overdue: What it has to deal with beside.
    """

    alive: bool
    claimed: int
    overdue: Overdue


class _Keys:
    """The key schema, as code."""

    def __init__(self, namespace: str) -> None:
        self._ns = namespace
        self.absent = f"{namespace}:absent"
        self.announced = f"{namespace}:announced"
        self.capacity = f"{namespace}:capacity"
        self.durations = f"{namespace}:durations"
        self.later = f"{namespace}:later"
        self.libraries = f"{namespace}:libraries"
        self.limits = f"{namespace}:limits"
        self.sweeper = f"{namespace}:sweeper"
        self.swept = f"{namespace}:swept"
        self.workers = f"{namespace}:workers"

    def call(self, call: str) -> str:
        return f"{self._ns}:call:{call}"

    def waiting(self, lane: str, gate: str = "") -> str:
        return f"{self._ns}:waiting:{lane}:{gate}" if gate else f"{self._ns}:waiting:{lane}"

    def wake(self, lane: str) -> str:
        return f"{self._ns}:wake:{lane}"

    def gates(self, lane: str) -> str:
        return f"{self._ns}:gates:{lane}"

    def lanes(self, gate: str) -> str:
        return f"{self._ns}:lanes:{gate}"

    def slots(self, gate: str) -> str:
        return f"{self._ns}:slots:{gate}"

    def turns(self, lane: str, gate: str = "") -> str:
        return f"{self._ns}:turns:{lane}:{gate}" if gate else f"{self._ns}:turns:{lane}"

    def clock(self, lane: str) -> str:
        return f"{self._ns}:clock:{lane}"

    def instance(self, instance: str) -> str:
        return f"{self._ns}:instance:{instance}"

    def cached(self, key: str) -> str:
        return f"{self._ns}:cached:{key}"

    def flight(self, key: str) -> str:
        return f"{self._ns}:flight:{key}"

    def followers(self, key: str) -> str:
        return f"{self._ns}:followers:{key}"

    def running(self, worker: str) -> str:
        return f"{self._ns}:running:{worker}"

    def mailbox(self, session: str) -> str:
        return f"{self._ns}:mailbox:{session}"

    def result(self, call: str, writer: str) -> str:
        return f"{self._ns}:result:{call}:{writer}"

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
        # What every call needs goes over one connection; what is large or rare, over the pool's.
        self._pool = connect(settings, socket_timeout_s=None).connection_pool
        self._shared = Multiplexer(self._pool, {name: _lua(name) for name in SCRIPTS}, REPLY_S)
        # By the lanes that are waited for: a blocking pop has its connection to itself.
        self._waiting: dict[tuple[str, ...], Multiplexer] = {}
        self._gates: dict[str, list[str]] = {}

    async def close(self) -> None:
        """Close all connections."""
        for link in (self._shared, *self._waiting.values()):
            await link.close()
        await self._redis.aclose(close_connection_pool=True)

    async def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return await self._shared.run(name, keys, args)

    # --- a call's life: web side ---------------------------------------------------------------

    @translated
    async def create(self, spec: CallSpec, *, match: str = "") -> Admission:
        """Accept a call, once: the same id again changes nothing.

        Args:
            spec: The call.
            match: Values of its wildcards, for those who look for it.

        Raises:
            QueueFull: ``max_queue`` calls wait in its line already, or ``max_session_calls`` of
                its session have not ended.
        """
        keys, settings = self.keys, self._settings
        active = ActiveCall(spec.id, spec.page, spec.output, match, spec.on_leave)
        status, value, *superseded = await self._run(
            "create",
            [
                keys.call(spec.id),
                keys.waiting(spec.lane, spec.gate),
                keys.wake(spec.lane),
                keys.active(spec.session),
                keys.instance(spec.instance),
                keys.gates(spec.lane),
                keys.lanes(spec.gate),
                keys.turns(spec.lane, spec.gate),
                keys.clock(spec.lane),
                keys.announced,
                keys.limits,
            ],
            [
                spec.id,
                spec.session,
                encode_spec(spec),
                _ms(settings.call_ttl_s),
                settings.max_queue,
                settings.max_session_calls,
                msgspec.json.encode(active),
                spec.overlap if spec.instance else Overlap.PARALLEL,
                spec.gate,
                spec.limit,
                spec.lane,
                spec.priority,
                spec.user,
                spec.retries,
                int(bool(spec.on_start)),
                WAKES,
                TOLD_BYTES,
            ],
        )
        earlier = tuple(call.decode() for call in superseded)
        if status == b"created":
            return Admission(True, "queued", spec.session, int(value), earlier)
        if status == b"full":
            raise QueueFull(f"busy: {value} calls are waiting already; try again later")
        if status == b"many":
            raise QueueFull(
                f"busy: {value} calls of this browser have not ended"
                " (DASH_DISPATCH_MAX_SESSION_CALLS); try again later"
            )
        return Admission(False, status.decode(), value.decode(), 0, earlier)

    @translated
    async def cached(self, spec: CallSpec) -> Outcome | None:
        """The result of this call, if it is shared and known.

        None as well while an earlier run of its instance has not ended: what that one shows would
        come behind it. Such a call is created, and its worker finds the result.
        """
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.exists(self.keys.instance(spec.instance))
            pipe.hmget(self.keys.cached(spec.cache_key), ["status", "outcome"])
            runs, (status, blob) = await pipe.execute()
        meets = bool(spec.instance) and spec.overlap is not Overlap.PARALLEL and runs
        if meets or status != b"ok" or blob is None:
            return None
        return await self._shared_outcome(spec, blob)

    async def _shared_outcome(self, spec: CallSpec, blob: bytes) -> Outcome | None:
        """A shared result as it was written down; one that is none is removed."""
        try:
            return msgspec.msgpack.decode(blob, type=Outcome)
        except UNREADABLE as error:
            logger.error("! shared result of %s dropped: %s", spec.output, type(error).__name__)
            await self._redis.unlink(self.keys.cached(spec.cache_key))
            return None

    @translated
    async def status(self, call: str) -> str | None:
        """``queued``, ``started``, the outcome it ended with, or None for one that is not known."""
        found = await self._shared.ask("HGET", self.keys.call(call), "status")
        return found.decode() if found else None

    @translated
    async def has_mail(self, session: str) -> bool:
        """Whether the session has a mailbox that has not expired."""
        return bool(await self._shared.ask("EXISTS", self.keys.mailbox(session)))

    @translated
    async def active(self, session: str) -> list[ActiveCall]:
        """The session's calls that have not ended."""
        found = await cast(Awaitable[list[bytes]], self._redis.hvals(self.keys.active(session)))
        known = []
        for value in found:
            try:
                known.append(msgspec.json.decode(value, type=ActiveCall))
            except UNREADABLE as error:
                # Somebody else writes to this Redis. The session's own calls can still be ended.
                logger.error("! a call of a session passed over: %s", type(error).__name__)
        return known

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

    @translated
    async def _end(self, call: str, outcome: Outcome, worker: str = "") -> bool:
        spec = await self._spec(call)
        if spec is None:
            return False
        result, runner = await self._finish(spec, worker, outcome)
        if runner:
            # Also when this was said before: whoever did may not have come as far as here.
            await self._redis.publish(self.keys.control(runner), call)
        return result == "ok"

    async def _spec(self, call: str) -> CallSpec | None:
        """A call that has not ended; None also when its record is not one."""
        blob = await self._shared.ask("HGET", self.keys.call(call), "spec")
        if blob is None:
            return None
        try:
            return decode_spec(blob)
        except DecodeError as error:
            logger.error("! %s: %s", call, error, extra={"call_id": call})
            return None

    # --- a call's life: worker side ------------------------------------------------------------

    @translated
    async def wait_for_work(self, lanes: Sequence[str], timeout_s: float) -> Wake | None:
        """Wait for a wake-up in one of the lanes; None when the time ran out."""
        key = tuple(lanes)
        if key not in self._waiting:
            self._waiting[key] = Multiplexer(self._pool, {}, timeout_s + REPLY_S)
        names = {self.keys.wake(lane).encode(): lane for lane in lanes}
        found = await self._waiting[key].block("BRPOP", *names, timeout_s)
        if found is None:
            return None
        return _wake(names[found[0]], found[1])

    @translated
    async def nudge(self, lanes: Iterable[str]) -> None:
        """Let a worker look: a wake-up may have reached one that is going away."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in lanes:
                pipe.lpush(self.keys.wake(lane), " ")
                # Where no worker serves a lane, nobody takes them out.
                pipe.ltrim(self.keys.wake(lane), 0, WAKES - 1)
                pipe.pexpire(self.keys.wake(lane), _ms(self._settings.call_ttl_s))
            await pipe.execute()

    @translated
    async def take(
        self, worker: str, wake: Wake, *, in_turn: bool = True
    ) -> Claimed | Literal["more"] | None:
        """Claim and start the call that a wake-up named, if it is the only one.

        Args:
            worker: Who takes it.
            wake: What it is.
            in_turn: False takes it before others that wait in its lane.

        Returns:
            The call; ``"more"`` when `claim` has to choose; None when there is nothing to do now.
        """
        keys = self.keys
        found = await self._run(
            "take",
            [
                keys.call(wake.call),
                keys.waiting(wake.lane, wake.gate),
                keys.wake(wake.lane),
                keys.running(worker),
                keys.workers,
                keys.slots(wake.gate),
                keys.limits,
                keys.turns(wake.lane, wake.gate),
                keys.clock(wake.lane),
            ],
            [
                wake.call,
                worker,
                wake.gate,
                _ms(self._settings.call_ttl_s),
                int(in_turn),
                int(wake.spec is None),
            ],
        )
        if found == [b"more"]:
            return "more"
        if found and wake.spec is not None:
            return Claimed(wake.spec, found[1])
        return await self._claimed(worker, wake.call, found)

    @translated
    async def claim(self, worker: str, lane: str, count: int) -> list[str]:
        """Take up to ``count`` of the lane's first calls, those of full gates left out."""
        keys = self.keys
        gates = self._gates.setdefault(lane, [])
        while True:
            lines = [
                key
                for gate in gates
                for key in (keys.waiting(lane, gate), keys.turns(lane, gate), keys.slots(gate))
            ]
            complete, *ids = await self._run(
                "claim",
                [
                    keys.wake(lane),
                    keys.running(worker),
                    keys.workers,
                    keys.gates(lane),
                    keys.limits,
                    keys.clock(lane),
                    keys.waiting(lane),
                    keys.turns(lane),
                    *lines,
                ],
                [worker, count, _ms(self._settings.call_ttl_s), *gates],
            )
            if not complete:
                found = await cast(Awaitable[set[bytes]], self._redis.smembers(keys.gates(lane)))
                gates = self._gates[lane] = [_name(gate) for gate in found]
            if complete or ids:
                return [_name(call) for call in ids]

    @translated
    async def start(self, worker: str, call: str) -> Claimed | None:
        """Begin to run a claimed call; None when it was cancelled or has expired."""
        found = await self._run(
            "start", [self.keys.call(call), self.keys.running(worker)], [call, worker]
        )
        if found == [b"ended"]:
            await self.forget(worker, call)
            return None
        return await self._claimed(worker, call, found)

    async def _claimed(self, worker: str, call: str, found: Sequence[Any]) -> Claimed | None:
        if not found:
            return None
        spec, attempt = found
        try:
            return Claimed(decode_spec(spec), attempt)
        except DecodeError as error:
            # Nobody can be told: whose it is stands in there.
            logger.error("! %s is not a call: %s", call, error, extra={"call_id": call})
            await self._redis.unlink(self.keys.call(call))
            await self.forget(worker, call)
            return None

    @translated
    async def lead(
        self, worker: str, spec: CallSpec
    ) -> Outcome | Literal["lead", "follow", "late"]:
        """Ask whether a started call whose result is shared has to be computed.

        Returns:
            The outcome, when it is known; ``lead``: compute it; ``follow``: another call does, and
            this one waits again until it has; ``late``: the call is not this worker's any more.
        """
        keys, key = self.keys, spec.cache_key
        word, *rest = await self._run(
            "lead",
            [
                keys.call(spec.id),
                keys.running(worker),
                keys.slots(spec.gate),
                keys.cached(key),
                keys.flight(key),
                keys.followers(key),
            ],
            [
                spec.id,
                worker,
                _ms(spec.timeout_s + FLIGHT_MARGIN_S),
                _ms(self._settings.call_ttl_s),
            ],
        )
        if word == b"outcome":
            known = await self._shared_outcome(spec, rest[0])
            # One that is none has been removed, and this call is asked about as if it were new.
            return known or await self.lead(worker, spec)
        if word == b"follow":
            await self._knock(spec.gate)
        return cast(Literal["lead", "follow", "late"], word.decode())

    @translated
    async def emit(
        self, worker: str, spec: CallSpec, number: int, updates: Sequence[bytes]
    ) -> bool:
        """Put updates (``set_props``) of a running call into its mailbox.

        Args:
            worker: Who runs it.
            spec: The call.
            number: Of the first update; they count from 1 in every attempt, and one that was sent
                before is passed over.
            updates: Their JSON texts.

        Returns:
            False when the call is not this worker's any more (it should stop).

        Raises:
            PayloadTooLarge: The mailbox is at its bound: nobody has read it for too long.
        """
        keys, settings = self.keys, self._settings
        result = await self._run(
            "emit",
            [keys.call(spec.id), keys.mailbox(spec.session), keys.instance(spec.instance)],
            [
                spec.id,
                worker,
                number,
                settings.max_mailbox_entries,
                _ms(settings.session_ttl_s),
                keys.hint(spec.session),
                spec.page,
                spec.request,
                spec.overlap if spec.instance else Overlap.PARALLEL,
                *updates,
            ],
        )
        if result == b"full":
            raise PayloadTooLarge(
                f"{settings.max_mailbox_entries} updates wait for a page that does not read"
                " them (DASH_DISPATCH_MAX_MAILBOX_ENTRIES)"
            )
        return bool(result == b"ok")

    @translated
    async def finish(self, worker: str, spec: CallSpec, outcome: Outcome) -> bool:
        """Record how a call ended, once.

        The first outcome wins: a later one is dropped and False is returned, so a worker that
        outlives its lease cannot overwrite *worker lost*. Safe to repeat after a lost connection.

        Raises:
            CallExpired: The call's keys are already gone.
        """
        result, _ = await self._finish(spec, worker, outcome)
        if result == "expired":
            raise CallExpired(spec.id, "the call's record is gone")
        return result == "ok"

    async def _finish(self, spec: CallSpec, worker: str, outcome: Outcome) -> tuple[str, str]:
        keys, settings = self.keys, self._settings
        aside = len(outcome.body) > settings.inline_result_bytes
        if aside:
            # Before it is known whether this worker may still end the call: under its own name, so
            # that it cannot stand in the place of another's.
            key = keys.result(spec.id, worker)
            await self._redis.set(key, outcome.body, px=_ms(settings.result_ttl_s))
        event = Event(spec.page, spec.request, spec.id, outcome)
        cache_ms, shared = _shared(spec, outcome)
        result, runner = await self._run(
            "finish",
            [
                keys.call(spec.id),
                keys.mailbox(spec.session),
                keys.active(spec.session),
                keys.waiting(spec.lane, spec.gate),
                keys.running(worker),
                keys.instance(spec.instance),
                keys.slots(spec.gate),
                keys.wake(spec.lane),
                keys.later,
                keys.cached(spec.cache_key),
                keys.flight(spec.cache_key),
                keys.followers(spec.cache_key),
                keys.durations,
            ],
            [
                spec.id,
                worker,
                outcome.status,
                _ms(max(settings.result_ttl_s, settings.session_ttl_s)),
                _ms(settings.session_ttl_s),
                keys.hint(spec.session),
                spec.overlap if spec.instance else Overlap.PARALLEL,
                spec.gate,
                cache_ms,
                shared,
                spec.output if spec.on_start else "",
                WAKES,
                _ms(settings.call_ttl_s),
                len(spec.on_start),
                *spec.on_start,
                *_pairs(_event_fields(event, aside=worker if aside else None)),
            ],
        )
        await self._knock(spec.gate, known=spec.lane)
        return result.decode(), runner.decode()

    async def _knock(self, gate: str, *, known: str = "") -> None:
        """A slot of the gate is free: workers of all its lanes may have been waiting for that.

        Args:
            gate: The gate, or nothing.
            known: A lane whose workers have been told.
        """
        if gate:
            found = await self._shared.ask("SMEMBERS", self.keys.lanes(gate))
            lanes = {_name(lane) for lane in found} - {known}
            if lanes:
                await self.nudge(lanes)

    @translated
    async def retry(self, worker: str, spec: CallSpec, pause_s: float) -> str:
        """Let a started call be run again after a pause, if its ``retries`` allow.

        Returns:
            ``ok``; ``spent`` when it has been run as often as it may; ``late`` when it is not
            this worker's any more.
        """
        keys = self.keys
        word = await self._run(
            "retry",
            [
                keys.call(spec.id),
                keys.running(worker),
                keys.slots(spec.gate),
                keys.later,
                keys.instance(spec.instance),
            ],
            [spec.id, worker, _ms(pause_s), spec.overlap if spec.instance else Overlap.PARALLEL],
        )
        await self._knock(spec.gate)
        return cast(bytes, word).decode()

    @translated
    async def requeue(self, call: str) -> bool:
        """The pause before a retry is over. True if this put the call into its queue."""
        spec = await self._spec(call)
        if spec is None:
            await self._redis.zrem(self.keys.later, call)
            return False
        keys = self.keys
        done = await self._run(
            "requeue",
            [
                keys.call(call),
                keys.later,
                keys.waiting(spec.lane, spec.gate),
                keys.wake(spec.lane),
            ],
            [call, spec.gate, WAKES, _ms(self._settings.call_ttl_s)],
        )
        return bool(done)

    # --- workers and their leases --------------------------------------------------------------

    async def renew(self, worker: str, *, join: bool = False) -> bool:
        """Prolong a worker's lease; False when it has been given up as lost.

        The lease in Redis is shorter than ``lease_s``, so that it, the renewal and the sweep
        together stay within that promise.
        """
        return (await self._beat(worker, join=join)).alive

    async def beat(self, worker: str) -> Beat:
        """A worker's heartbeat: prolong its lease, and ask what is overdue."""
        return await self._beat(worker, look=True)

    async def overdue(self) -> Overdue:
        """What nobody looks after any more. Only one process at a time is told."""
        return (await self._beat(look=True)).overdue

    @translated
    async def _beat(self, worker: str = "", *, join: bool = False, look: bool = False) -> Beat:
        keys, lease_s = self.keys, self._settings.lease_s
        alive, claimed, *overdue = await self._run(
            "beat",
            [
                keys.workers,
                keys.sweeper,
                keys.swept,
                keys.later,
                keys.absent,
                keys.running(worker),
            ],
            [
                worker,
                _ms(lease_s * LEASE_SHARE),
                int(join),
                _ms(lease_s * BEAT_SHARE) if look else "",
                OVERDUE_BATCH,
            ],
        )
        names = ([_name(name) for name in found] for found in overdue)
        return Beat(bool(alive), claimed, Overdue(*names))

    @translated
    async def offer(self, worker: str, capacity: Mapping[str, int]) -> None:
        """A worker says how many calls of each lane it runs at once."""
        blob = msgspec.json.encode(capacity)
        await cast(Awaitable[int], self._redis.hset(self.keys.capacity, worker, blob))

    @translated
    async def release(
        self, worker: str, call: str, spec: CallSpec, *, started: bool = False
    ) -> str | None:
        """Hand back a claimed call. Returns its status: ``queued`` if it waits again.

        Args:
            worker: Who has claimed it.
            call: Its id.
            spec: The call.
            started: Also when the worker has started it: for the worker itself, which knows that
                the answer never came and nothing of it has run.
        """
        keys = self.keys
        status = await self._run(
            "release",
            [
                keys.call(call),
                keys.waiting(spec.lane, spec.gate),
                keys.wake(spec.lane),
                keys.running(worker),
                keys.slots(spec.gate),
            ],
            [call, worker, int(started), spec.gate, WAKES, _ms(self._settings.call_ttl_s)],
        )
        await self._knock(spec.gate)
        return status.decode() if status else None

    async def hand_back(self, worker: str, call: str, spec: CallSpec | None) -> bool:
        """A worker gives back a call of which it knows that nothing has run here.

        Returns:
            Whether it waits again; one that has ended is only forgotten.
        """
        if spec is None:
            await self.forget(worker, call)
            return False
        return await self.release(worker, call, spec, started=True) == "queued"

    @translated
    async def forget(self, worker: str, call: str) -> None:
        """A call that has ended is not run by this worker any more: its slot is free."""
        keys = self.keys
        gate = await cast(Awaitable[bytes | None], self._redis.hget(keys.running(worker), call))
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(keys.running(worker), call)
            if gate:
                pipe.zrem(keys.slots(_name(gate)), call)
            await pipe.execute()
        if gate:
            await self._knock(_name(gate))

    @translated
    async def ended(self, calls: Iterable[str]) -> list[str]:
        """Those of a worker's running calls that have their outcome already."""
        names = list(calls)
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in names:
                pipe.hget(self.keys.call(call), "status")
            found = await pipe.execute()
        return [call for call, status in zip(names, found, strict=True) if status != b"started"]

    @translated
    async def leave(self, worker: str) -> None:
        """A worker says good-bye."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(self.keys.workers, worker)
            pipe.hdel(self.keys.capacity, worker)
            pipe.delete(self.keys.running(worker))
            await pipe.execute()

    @translated
    async def is_given_up(self, worker: str) -> bool:
        """Whether the worker is lost, and its calls are being settled."""
        score = await cast(Awaitable[float | None], self._redis.zscore(self.keys.workers, worker))
        return score == 0

    @translated
    async def dismiss(self, worker: str) -> bool:
        """A lost worker's calls are settled; False when they are not, or somebody has said so."""
        keys = self.keys
        names = [keys.workers, keys.capacity, keys.running(worker)]
        return bool(await self._run("dismiss", names, [worker]))

    @translated
    async def claimed_by(self, worker: str) -> list[tuple[str, CallSpec | None, int]]:
        """Calls that a worker has claimed: id, the call (None: it has ended), attempt (0: none)."""
        members = await cast(Awaitable[list[bytes]], self._redis.hkeys(self.keys.running(worker)))
        found = []
        for member in members:
            call = _name(member)
            attempt = await cast(
                Awaitable[bytes | None], self._redis.hget(self.keys.call(call), "attempt")
            )
            found.append((call, await self._spec(call), int(attempt or 0)))
        return found

    @translated
    async def live_workers(self) -> int:
        """How many workers have a lease."""
        return int(await self._redis.zcard(self.keys.workers))

    # --- what the two sides know ---------------------------------------------------------------

    @translated
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

    @translated
    async def known_callbacks(self, side: str) -> set[str]:
        """What `publish_callbacks` wrote; empty when that side has not started yet."""
        members = await cast(Awaitable[set[bytes]], self._redis.smembers(self.keys.callbacks(side)))
        return {_name(member) for member in members}

    @translated
    async def add_libraries(self, names: Sequence[str]) -> None:
        """Write down component libraries that a callback has imported, for web processes."""
        key = self.keys.libraries
        now_s, _ = await self._redis.time()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd(key, dict.fromkeys(names, now_s))
            pipe.zremrangebyrank(key, 0, -LIBRARIES - 1)
            await pipe.execute()

    @translated
    async def libraries(self) -> list[str]:
        """What `add_libraries` wrote."""
        found = await self._redis.zrange(self.keys.libraries, 0, -1)
        return [_name(name) for name in found]

    # --- browsers that have gone ---------------------------------------------------------------

    @translated
    async def absent(self, session: str) -> None:
        """This process serves no connection of the session any more."""
        grace_s = max(self._settings.leave_grace_s, BETWEEN_POLLS_S)
        await self._run("absent", [self.keys.absent], [session, _ms(grace_s)])

    @translated
    async def is_present(self, session: str) -> bool:
        """Whether any process serves a connection of the session, and listens for its mail."""
        found = await self._redis.pubsub_numsub(self.keys.hint(session))
        return any(count for _, count in found)

    @translated
    async def forget_absence(self, session: str) -> None:
        """It is back, or what had to be done has been done; unless it has left again since."""
        await self._run("absent", [self.keys.absent], [session, ""])

    # --- positions in the queue ----------------------------------------------------------------

    @translated
    async def announced(self, count: int) -> list[str]:
        """Ids of calls whose pages want to know their position, the oldest ``count``."""
        found = await self._redis.zrange(self.keys.announced, 0, count - 1)
        return [_name(call) for call in found]

    @translated
    async def announced_spec(self, call: str) -> CallSpec | None:
        """The call, to tell its position; None, and it is not asked for again, when it ended."""
        spec = await self._spec(call)
        if spec is None:
            await self._redis.zrem(self.keys.announced, call)
        return spec

    @translated
    async def ranks(self, specs: Sequence[CallSpec]) -> list[int | None]:
        """How many calls wait before each in its line; None for those that do not wait there."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for spec in specs:
                pipe.zrank(self.keys.waiting(spec.lane, spec.gate), spec.id)
            return cast(list[int | None], await pipe.execute())

    @translated
    async def rates(self) -> tuple[dict[str, float], dict[str, int]]:
        """How long callbacks usually run, in seconds, and how many calls each lane runs at once."""
        durations = await cast(
            Awaitable[dict[bytes, bytes]], self._redis.hgetall(self.keys.durations)
        )
        offers = await cast(Awaitable[list[bytes]], self._redis.hvals(self.keys.capacity))
        capacity: dict[str, int] = {}
        for offer in offers:
            for lane, count in msgspec.json.decode(offer, type=dict[str, int]).items():
                capacity[lane] = capacity.get(lane, 0) + count
        return {_name(name): int(ms) / 1000 for name, ms in durations.items()}, capacity

    @translated
    async def tell_position(self, spec: CallSpec, position: int, updates: Sequence[bytes]) -> bool:
        """Send a page its call's position, if it waits and has come forward since it was last told.

        Returns:
            False when the call does not wait any more.
        """
        keys, settings = self.keys, self._settings
        waits = await self._run(
            "position",
            [
                keys.call(spec.id),
                keys.announced,
                keys.mailbox(spec.session),
                keys.instance(spec.instance),
            ],
            [
                spec.id,
                position,
                settings.max_mailbox_entries,
                _ms(settings.session_ttl_s),
                keys.hint(spec.session),
                spec.page,
                spec.request,
                spec.overlap if spec.instance else Overlap.PARALLEL,
                *updates,
            ],
        )
        return bool(waits)

    # --- mailboxes -----------------------------------------------------------------------------

    @translated
    async def post(self, session: str, event: Event) -> None:
        """Put an event of a callback that ran in the web process into a mailbox.

        Raises:
            PayloadTooLarge: An update, and the mailbox is at its bound: nobody has read it for too
                long. Outcomes are as few as calls, and always have room.
        """
        key, bound = self.keys.mailbox(session), self._settings.max_mailbox_entries
        if event.outcome is None and await self._shared.ask("XLEN", key) >= bound:
            raise PayloadTooLarge(
                f"{bound} updates wait for a page that does not read them"
                " (DASH_DISPATCH_MAX_MAILBOX_ENTRIES)"
            )
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(key, cast(Any, _event_fields(event)))
            pipe.pexpire(key, _ms(self._settings.session_ttl_s))
            pipe.publish(self.keys.hint(session), "")
            await pipe.execute()

    @translated
    async def read(self, session: str, cursor: str | None, count: int) -> list[Entry]:
        """The mailbox's entries after the cursor, in order, at most ``count``."""
        start = f"({cursor}" if cursor else "-"
        while True:
            found = await self._shared.ask(
                "XRANGE", self.keys.mailbox(session), start, "+", "COUNT", count
            )
            entries = [
                entry
                for id_, fields in found
                if (entry := await self._readable(session, id_.decode(), fields)) is not None
            ]
            if entries or not found:
                return entries

    async def _readable(self, session: str, id_: str, fields: list[bytes]) -> Entry | None:
        try:
            return await self._entry(id_, dict(zip(fields[::2], fields[1::2], strict=True)))
        except UNREADABLE as error:
            # Somebody else writes to this Redis. It must not stand before the mail behind it.
            logger.error("! mailbox entry %s dropped: %s", id_, type(error).__name__)
            await self._redis.xdel(self.keys.mailbox(session), id_)
            return None

    async def _entry(self, id_: str, fields: Mapping[bytes, bytes]) -> Entry:
        writer = fields.get(b"a")
        if writer is None:
            return Entry(id_, _event_from(fields, fields.get(b"b", b"")), aside=False)
        call = fields[b"c"].decode()
        body = await self._large(self.keys.result(call, writer.decode()))
        if body:
            return Entry(id_, _event_from(fields, body), aside=True)
        gone = failed(
            Status.EXPIRED, "CallExpired", "The result was not fetched in time.", call=call
        )
        event = Event(fields[b"p"].decode(), fields[b"r"].decode(), call, gone)
        return Entry(id_, event, aside=True)

    async def _large(self, key: str) -> bytes:
        """A result that stands aside; empty when it is gone.

        As a whole it would be copied twice while the event loop waits: 20 ms for 20 MB. Parts are
        copied as they come, and joined in a thread, which leaves the interpreter to the others.
        """
        size = await self._shared.ask("STRLEN", key)
        # All of one moment: another attempt may write it anew.
        async with self._redis.pipeline(transaction=True) as pipe:
            for start in range(0, size, PART_BYTES):
                last = start + PART_BYTES >= size
                pipe.getrange(key, start, -1 if last else start + PART_BYTES - 1)
            parts: list[bytes] = await pipe.execute()
        return await asyncio.to_thread(b"".join, parts)

    @translated
    async def trim(self, session: str, cursor: str) -> None:
        """The browser has everything up to ``cursor``, large results that stand aside included."""
        time_ms, _, sequence = cursor.partition("-")
        following = f"{time_ms}-{int(sequence) + 1}"
        aside = await self._run("trim", [self.keys.mailbox(session)], [cursor, following])
        if aside:
            found = zip(aside[::2], aside[1::2], strict=True)
            keys = (self.keys.result(call.decode(), writer.decode()) for call, writer in found)
            await self._redis.unlink(*keys)

    @translated
    async def discard(self, session: str) -> None:
        """Remove a mailbox that nobody will read (a plain POST that is over)."""
        await self._redis.delete(self.keys.mailbox(session), self.keys.active(session))

    @translated
    async def empty(self, session: str) -> None:
        """Remove all that waits in a mailbox: whom it was for has no right to it any more."""
        await self.trim(session, _LAST_ENTRY)

    @staticmethod
    def hinted(hint: bytes) -> tuple[str, Entry] | None:
        """The entry that a hint brings along, and the id of the one before it in the mailbox.

        Most mailboxes get one small entry at a time, and whoever has the one before needs not ask.
        None when the hint brings none, or it stands aside.
        """
        if not hint:
            return None
        head, _, rest = hint.partition(b"\n")
        fields, at = {}, 0
        try:
            before, id_, *lengths = head.split()
            for word in lengths:
                end = at + int(word[1:])
                fields[word[:1]] = rest[at:end]
                at = end
            if not fields or b"a" in fields:
                return None
            event = _event_from(fields, fields.get(b"b", b""))
            return before.decode(), Entry(id_.decode(), event, False)
        except UNREADABLE:
            # Not one of ours. The mailbox itself is asked.
            return None

    # --- notifications -------------------------------------------------------------------------

    @translated
    async def end_login(self, user: str) -> None:
        """Tell all web processes that the logins of a user have ended."""
        await self._redis.publish(self.keys.hint(EVERYBODY), user)

    def hints(self, heard: Callable[[str, bytes], None] | None = None) -> "Channels":
        """The hint channels of sessions that this process serves, and who is told, if at once."""
        return Channels(self._settings, self.keys.hint, heard)

    def controls(self) -> "Channels":
        """The control channel of a worker."""
        return Channels(self._settings, self.keys.control)


def _wake(lane: str, token: bytes) -> Wake:
    """Read a wake-up. The first byte of an encoded spec, a map, is in no id."""
    if token[:1] >= b"\x80":
        try:
            spec = decode_spec(token)
        except DecodeError:
            # `claim` finds it, and says what is wrong.
            return Wake(lane, "", "")
        return Wake(lane, spec.id, spec.gate, spec)
    call, _, gate = _name(token).partition(" ")
    return Wake(lane, call, gate)


def _name(value: bytes) -> str:
    """A name in a record that all share. One that is none is nobody's, and stops nobody else."""
    return value.decode(errors="replace")


def _lua(name: str) -> str:
    folder = resources.files("dash_dispatch").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text("utf-8")
    if name in MAILING:
        text = folder.joinpath("mail.lua").read_text("utf-8") + text
    return text


def _shared(spec: CallSpec, outcome: Outcome) -> tuple[int | str, bytes]:
    """For how many ms this outcome answers others who want the same, and its encoding."""
    if not spec.cache_key:
        return "", b""
    # Cookies and headers are for the one who asked.
    blob = msgspec.msgpack.encode(Outcome(outcome.status, outcome.body))
    if outcome.status is Status.OK:
        return _ms(spec.cache_s), blob
    if outcome.status in (Status.FAILED, Status.TIMED_OUT, Status.NO_UPDATE):
        return _ms(SHARED_FAILURE_S), blob
    return 1, b""


def _pairs(fields: Mapping[str, Any]) -> list[Any]:
    return [item for pair in fields.items() for item in pair]


# Field names are one letter: a mailbox may hold thousands of entries.
def _event_fields(event: Event, *, aside: str | None = None) -> dict[str, Any]:
    """The entry's fields; ``aside`` is who has written its body down beside it."""
    fields: dict[str, Any] = {"p": event.page, "r": event.request, "c": event.call}
    if event.outcome is None:
        fields |= {"q": event.question} if event.question else {"d": event.props}
        return fields | ({"n": event.direct} if event.direct else {})
    fields |= {"s": str(event.outcome.status)}
    fields |= {"b": event.outcome.body} if aside is None else {"a": aside}
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
    return Event(page, request, call, _outcome_from(fields, body, call))


def _outcome_from(fields: Mapping[bytes, bytes], body: bytes, call: str) -> Outcome:
    word = fields[b"s"].decode()
    try:
        return Outcome(Status(word), body, fields.get(b"h", b""))
    except ValueError:
        # Not to be raised: it would end every connection of a page that reads its mailbox.
        text = f"The outcome {word!r} of a later release is not known to this one."
        return failed(Status.FAILED, "UnsupportedVersion", text, call=call)
