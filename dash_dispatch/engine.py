"""arq, and what had to be added to it. With ``worker``, the only file that knows arq.

arq keeps the loop, its count of jobs and its note of health. What it lacks is put in where it asks
Redis for due jobs: `ClaimingRedis.zrangebyscore` answers with calls that were claimed in one atomic
step, after waiting for them on a blocking list, and have begun. So nothing is polled, a worker
takes only what it can start now, and workers do not fight over the same ids. Beside it run the
lease's heartbeat, the sweeper, and the listener for cancels.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol, cast

import orjson
from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func

from dash_dispatch import bridge, connection, lifecycle, memory, remote, tasks
from dash_dispatch.caller import Caller
from dash_dispatch.config import Settings
from dash_dispatch.errors import ConfigError, StoreError, StoreUnavailable
from dash_dispatch.execution import Execution
from dash_dispatch.processes import PoolBroken, ProcessPool
from dash_dispatch.protocol import CallSpec, Executor, lane
from dash_dispatch.store import BEAT_SHARE, Claimed, Store, Wake
from dash_dispatch.sweeper import Sweeper

logger = logging.getLogger(__name__)

WAIT_S = 15.0
"""An idle worker looks for itself this often: what a lost wake-up costs at most. (It is lost only
with the worker that took it, or with a crash between an outcome and the knock that follows.)"""

CLAIM_BATCH = 16
"""Calls claimed at once at most, so that two idle workers share a burst."""


REJOIN_S = 10.0
"""How long a worker that was given up waits for its calls to stop before it takes new ones."""

GOODBYE_S = 2.0
"""What is said to Redis at the end is given up after this long: leases mend what it would have."""

HEALTH_S = 5.0
"""The same for arq's note of its health, for which its loop waits."""

HEALTH_KEPT_S = 2 * WAIT_S + HEALTH_S
"""How long that note is kept. It is made when arq's loop turns, and an idle one does that every
``WAIT_S``, not twice a second as arq's own."""

ARQ_AFTER_S = 0.05
"""arq hears of a call after this long. Most have ended by then, and what arq does for each, a fifth
of a worker's time for an empty one, is left out for them."""

FIRST_STEPS = 6
"""Turns of the loop that an empty call needs from its claim to its outcome's way to Redis. Before
the worker looks for another one, it lets them pass."""

JOB = "run_call"
"""arq's name of the one function that it runs."""


class ClaimingRedis(ArqRedis):
    """The pool that arq's worker asks for due jobs: answers with ids that are claimed already."""

    claims: "Claims | None" = None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """arq's notes on a job; before the first one, its questions to Redis at its start."""
        if self.claims is None:
            return super().pipeline(transaction, shard_hint)
        return Bookkeeping()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """arq's single commands: its note of its own health, and the removal of that."""
        if args[0] == "PSETEX":
            name, key, _, note = args
            args = (name, key, int(HEALTH_KEPT_S * 1000), note)
        command = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if self.claims is None:
            return await command
        try:
            async with asyncio.timeout(GOODBYE_S if self.claims.stopped else HEALTH_S):
                return await command
        except connection.REDIS_ERRORS as error:  # with TimeoutError
            # It would end arq's loop, and all calls that this worker runs with it.
            logger.warning("! health not noted (%s)", str(error) or "no answer")
            return 0

    async def close(self, close_connection_pool: bool | None = None) -> None:
        """Called by arq's worker at its end, by the name that redis-py has given up."""
        await self.aclose(close_connection_pool)

    async def zrangebyscore(self, *_args: Any, **_kwargs: Any) -> Any:
        """Called by arq once per turn of its loop; waits until there is something to start."""
        if self.claims is None:
            await asyncio.sleep(0.05)
            return []
        return await self.claims.next()


class Bookkeeping:
    """What arq writes down about its jobs, answered here.

    arq would ask Redis seven times per job whether it may run it, as whom, and for the how-manieth
    time. `claim.lua` and `start.lua` have settled that for this call, and its own record says it
    all: these answers made for twice as many calls per second when they came.
    """

    def __init__(self) -> None:
        self._answers: list[Any] = []

    async def __aenter__(self) -> "Bookkeeping":
        return self

    async def __aexit__(self, *_error: object) -> None:
        return None

    async def watch(self, *_keys: str) -> None:
        """Nobody else writes here."""

    async def exists(self, *_keys: str) -> int:
        """Nobody else runs it."""
        return 0

    async def zscore(self, *_key_and_member: str) -> float:
        """It has been due for long."""
        return 1.0

    def multi(self) -> None:
        """Begin to collect, which is all that is done."""

    def get(self, key: str) -> None:
        """The job's record."""
        call = key.rpartition(":")[2]
        asked_ms = int(time.time() * 1000)
        job: dict[str, Any] = {"t": None, "f": JOB, "a": [call], "k": {}, "et": asked_ms}
        self._answers.append(orjson.dumps(job))

    def incr(self, _key: str) -> None:
        """How often it has been tried, by arq's count."""
        self._answers.append(1)

    def _note(self, *_words: Any, **_options: Any) -> None:
        self._answers.append(True)

    delete = expire = psetex = set = zincrby = zrem = _note

    async def execute(self) -> list[Any]:
        """The answers, in order."""
        return self._answers


Run = Callable[[Claimed, Executor], Coroutine[Any, Any, None]]
"""Runs a call to its outcome."""


class Readying(Protocol):
    """What gets ready for a call while it is asked for."""

    def prepare(self, spec: CallSpec, executor: Executor) -> None:
        """It may come."""

    def forget(self, call: str) -> None:
        """It does not."""


class Slots:
    """How many calls of one kind are taken at once.

    Args:
        count: As many as run at once.
        ahead: How many more may be taken now, to stand in line here; it changes with time.
    """

    def __init__(self, count: int, ahead: Callable[[], int]) -> None:
        self._count = count
        self._ahead = ahead
        self._used = 0
        self._freed = tasks.Flag()

    def locked(self) -> bool:
        """Whether none is free."""
        return self._used >= self._count + self._ahead()

    async def acquire(self) -> None:
        """Wait for a free one, and take it. For one who waits."""
        while self.locked():
            self._freed.clear()
            await self._freed.wait()
        self._used += 1

    def release(self) -> None:
        """Give one back."""
        self._used -= 1
        self._freed.set()


class Claims:
    """Takes calls out of the queues, as many as can be started now, one loop per executor.

    A call begins as soon as it is here. One that lasts becomes a job of arq's, which waits for it:
    its way through arq's loop is as long as that of an empty call through all the rest of a worker.

    Args:
        store: Where they wait.
        worker: Who takes them.
        queues: The names of the queues.
        slots: How many of each kind run at once.
        run: What runs them.
        readying: What gets ready for that.
        ahead: How many calls of a kind may be taken now beside those that run.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        queues: Sequence[str],
        slots: dict[Executor, int],
        run: Run,
        readying: Readying | None = None,
        ahead: Callable[[Executor], int] = lambda _: 0,
    ) -> None:
        self._store = store
        self._readying = readying
        self._worker = worker
        self._run_call = run
        self._lanes = {kind: [lane(queue, kind) for queue in queues] for kind in slots}
        self._sizes = slots
        self._slots = {
            kind: Slots(count, functools.partial(ahead, kind)) for kind, count in slots.items()
        }
        self._started: asyncio.Queue[str] = asyncio.Queue()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._spare = dict.fromkeys(slots, 0)
        self._starting: set[str] = set()
        self._beyond: set[str] = set()
        self.stopped = False
        self._unsettled: dict[str, asyncio.Event] = {}
        self._strays: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.drained = asyncio.Event()
        """Set while no claimed call is left to end, for us and for arq."""
        self.drained.set()

    def start(self) -> None:
        """Begin to claim."""
        self._tasks = [
            asyncio.create_task(self._run(kind), name=f"claim {kind}") for kind in self._slots
        ]

    async def stop(self) -> None:
        """Claim nothing more. Calls that wait are another worker's, which is woken for them."""
        said, self.stopped = self.stopped, True
        await tasks.end(self._tasks)
        if said:
            return
        # A wake-up may have been on its way to us.
        async with _farewell():
            await self._store.nudge(name for lanes in self._lanes.values() for name in lanes)

    async def next(self) -> list[bytes]:
        """The ids that are to be started, after at most ``WAIT_S``."""
        try:
            async with asyncio.timeout(WAIT_S):
                ids = [await self._started.get()]
        except TimeoutError:
            return []
        while not self._started.empty():
            ids.append(self._started.get_nowait())
        return [call.encode() for call in ids]

    async def join(self, call: str) -> None:
        """Wait until it has ended; who stops waiting stops it."""
        run = self._runs.get(call)
        if run is None:
            logger.warning("! %s is not claimed by this worker", call, extra={"call_id": call})
        else:
            await run

    @property
    def capacity(self) -> dict[str, int]:
        """How many calls of each lane run here at once."""
        return {name: self._sizes[kind] for kind, lanes in self._lanes.items() for name in lanes}

    def settled(self, call: str) -> None:
        """arq is done with it, too; cancelling it before would end arq's loop with an error."""
        self._runs.pop(call, None)
        if call in self._unsettled:
            self._unsettled.pop(call).set()
        if not self._unsettled:
            self.drained.set()

    async def _run(self, kind: Executor) -> None:
        wait = False
        while True:
            await self._reserve(kind)
            try:
                wake = None
                if wait:
                    wake = await self._store.wait_for_work(self._lanes[kind], WAIT_S)
                if wake is None or not wake.call or await self._take(wake, kind):
                    wait = not await self._claim(kind)
            except StoreError as error:
                logger.warning("! claiming interrupted (%s), trying again", error)
                await asyncio.sleep(0.5)
            finally:
                for _ in range(self._spare[kind]):
                    self._slots[kind].release()
                self._spare[kind] = 0

    async def _take(self, wake: Wake, kind: Executor) -> bool:
        """Start the one call that a wake-up named; True when there is more to choose from."""
        with self._starts(wake.call), self._ready_for(wake, kind):
            found = await self._store.take(self._worker, wake)
            if found == "more":
                return True
            if found is not None:
                await self._accept(found, kind)
                for _ in range(FIRST_STEPS):
                    await asyncio.sleep(0)
        return False

    @contextlib.contextmanager
    def _ready_for(self, wake: Wake, kind: Executor) -> Iterator[None]:
        """It gets ready while it is asked for: what it needs for that is left out of its way."""
        if wake.spec is None or self._readying is None:
            yield
            return
        self._readying.prepare(wake.spec, kind)
        # It may be a run before this one, which has yet to end.
        former = self._runs.get(wake.call)
        try:
            yield
        finally:
            if self._runs.get(wake.call) is former:
                self._readying.forget(wake.call)

    async def _reserve(self, kind: Executor) -> None:
        """Wait for a free slot, and take along others that are free now."""
        slots = self._slots[kind]
        await slots.acquire()
        self._spare[kind] = 1
        while self._spare[kind] < CLAIM_BATCH and not slots.locked():
            await slots.acquire()
            self._spare[kind] += 1

    async def _claim(self, kind: Executor) -> bool:
        """Fill the reserved slots. Returns whether there may be more to claim."""
        more = False
        for name in self._lanes[kind]:
            if self._spare[kind] == 0:
                break
            asked = self._spare[kind]
            calls = await self._store.claim(self._worker, name, asked)
            # Fewer than asked for: the lane is empty, and the next wake-up tells when it is not.
            more = more or len(calls) == asked
            starts = (self._start(call, kind) for call in calls)
            # All of them, before an error ends this: what starts later has no slot.
            ends = await asyncio.gather(*starts, return_exceptions=True)
            for error in ends:
                if error is not None:
                    raise error
        return more

    async def _start(self, call: str, kind: Executor) -> None:
        with self._starts(call):
            found = await self._store.start(self._worker, call)
            if found is None:
                logger.info("⊘ %s ended before its start", call, extra={"call_id": call})
            else:
                await self._accept(found, kind)

    @contextlib.contextmanager
    def _starts(self, call: str) -> Iterator[None]:
        """It is on its way to us: no stray."""
        self._starting.add(call)
        try:
            yield
        finally:
            self._starting.discard(call)

    async def help_out(self, spec: CallSpec) -> bool:
        """Begin a call that somebody here waits for, beyond the slots: theirs is idle meanwhile.

        Returns:
            Whether it was begun. Not while there are slots that it will come to by itself.
        """
        kind = next((kind for kind, lanes in self._lanes.items() if spec.lane in lanes), None)
        if kind is None or not (self.stopped or self._is_busy(kind)):
            return False
        with self._starts(spec.id):
            wake = Wake(spec.lane, spec.id, spec.gate)
            found = await self._store.take(self._worker, wake, in_turn=False)
            if not isinstance(found, Claimed):
                return False
            self._spare[kind] += 1
            await self._accept(found, kind)
            self._beyond.add(spec.id)
        return True

    def _is_busy(self, kind: Executor) -> bool:
        return self._slots[kind].locked() and self._spare[kind] == 0

    async def _accept(self, claimed: Claimed, kind: Executor) -> None:
        call = claimed.spec.id
        self._spare[kind] -= 1
        while (former := self._unsettled.get(call)) is not None:
            # A run of it that was put off may have been ours, and have a last step to do.
            await former.wait()
        self._runs[call] = asyncio.create_task(self._begin(claimed, kind), name=f"call {call}")
        self._unsettled[call] = asyncio.Event()
        self.drained.clear()

    async def _begin(self, claimed: Claimed, kind: Executor) -> None:
        call = claimed.spec.id
        loop = asyncio.get_running_loop()
        told = loop.call_later(ARQ_AFTER_S, self._started.put_nowait, call)
        try:
            await self._run_call(claimed, kind)
        finally:
            if told.when() > loop.time():
                told.cancel()
                self.settled(call)
            # Its slot is free again.
            if call in self._beyond:
                self._beyond.discard(call)
            else:
                self._slots[kind].release()

    async def end(self) -> None:
        """Stop what runs although arq does not wait for it any more."""
        await tasks.end(list(self._runs.values()))

    async def reconcile(self, claimed: int) -> None:
        """Hand back what was claimed, or started, in a reply that never came.

        Called with every heartbeat. What two looks in a row find is not on its way any more.

        Args:
            claimed: How many calls this worker has, as Redis says.
        """
        known = self._runs.keys() | self._starting
        if not claimed and not known:
            self._strays.clear()
            return
        found = {
            call: spec
            for call, spec, _ in await self._store.claimed_by(self._worker)
            if call not in known
        }
        for call in self._strays & found.keys():
            if await self._store.hand_back(self._worker, call, found[call]):
                logger.info("↻ %s handed back", call, extra={"call_id": call})
        self._strays = set(found)


class Engine:
    """One worker: its identity, its loops, its start and its end.

    Args:
        app: The user's app.
        settings: ``redis_url`` must be set.
        app_spec: How a fresh process imports the app; None runs ``def`` callbacks in threads.
        handle_signals: Whether SIGTERM and SIGINT end this worker.
    """

    def __init__(
        self, app: Any, settings: Settings, app_spec: str | None, *, handle_signals: bool = True
    ) -> None:
        self._app = app
        self._settings = settings
        self._app_spec = app_spec
        self._handle_signals = handle_signals
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.redis: ClaimingRedis = connection.connect(settings, client=ClaimingRedis)
        self.redis.job_serializer = orjson.dumps
        self.redis.job_deserializer = orjson.loads
        self._tasks: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[Any] | None = None
        self._started = False
        self._hooked = False
        self._stopping = False

    def arq_settings(self) -> dict[str, Any]:
        """Keyword arguments of arq's worker."""
        return {
            "functions": [func(cast(Any, self.run_call), name=JOB, max_tries=2**31)],
            "redis_pool": self.redis,
            "queue_name": f"{self._settings.namespace}:arq",
            "on_startup": self.startup,
            "on_shutdown": self.shutdown,
            "after_job_end": self.after_call,
            "handle_signals": False,
            # Slots are counted per executor, by `Claims`; arq's own counter would be a second one.
            "max_jobs": 2**20,
            "queue_read_limit": 2**20,
            "poll_delay": 0,
            # A call's own limit is kept by `execution`; this one only bounds arq's lock.
            "job_timeout": self._settings.call_ttl_s,
            "keep_result": 0,
            "retry_jobs": False,
            "health_check_interval": 10,
            "health_check_key": health_check_key(self._settings),
            "job_serializer": orjson.dumps,
            "job_deserializer": orjson.loads,
            "log_results": False,
        }

    async def startup(self, _ctx: dict[Any, Any]) -> None:
        """arq's worker starts."""
        self._main = asyncio.current_task()
        await lifecycle.start()
        self._hooked = True
        memory.settle()
        self._store = Store(self._settings)
        processes = await self._start_processes()
        self._caller = Caller(self._store, self._settings, help_out=self._help_out)
        self._execution = Execution(
            self._app, self._store, self._settings, self.id, processes, self._caller
        )
        await self._store.renew(self.id, join=True)
        await self._compare_callbacks()
        self._claims = Claims(
            self._store,
            self.id,
            self._settings.queues,
            self._slots(processes),
            self._execution.run,
            self._execution,
            self._execution.ahead,
        )
        await self._store.offer(self.id, self._claims.capacity)
        self._sweeper = Sweeper(self._store, self._settings)
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self._obey(), name="control"),
        ]
        if self._handle_signals:
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self.stop)
        self._started = True
        self._claims.start()
        self.redis.claims = self._claims
        logger.info(
            "worker %s ready: %d offloaded callbacks, queues %s",
            self.id,
            len(bridge.offloaded_of(self._app)),
            ", ".join(self._settings.queues),
        )

    async def _start_processes(self) -> ProcessPool | None:
        if self._app_spec is None:
            return None
        if not self._needs_processes():
            return None
        pool = ProcessPool(
            self._app_spec,
            self._settings.processes,
            max_calls=self._settings.process_max_calls,
            max_mb=self._settings.process_max_mb,
        )
        try:
            await pool.start()
        except PoolBroken as error:
            raise ConfigError(f"a process for callbacks cannot be started: {error}") from error
        return pool

    def _needs_processes(self) -> bool:
        """Whether anything that runs in processes can wait in this worker's queues."""
        found = [*bridge.offloaded_of(self._app).values()]
        found += [task.offloaded for task in remote.registered().values()]
        return any(
            one.executor is Executor.PROCESS and one.options.queue in self._settings.queues
            for one in found
        )

    def _slots(self, processes: ProcessPool | None) -> dict[Executor, int]:
        settings = self._settings
        # Without a pool, what would run in processes runs in threads, as many as there would be.
        per_process = settings.processes if processes else max(settings.processes, 8)
        return {
            Executor.LOOP: settings.concurrency,
            Executor.THREAD: settings.worker_threads,
            Executor.PROCESS: per_process,
        }

    async def _compare_callbacks(self) -> None:
        """Tell at the start what would else be found out call by call."""
        own = set(bridge.offloaded_of(self._app))
        await self._store.publish_callbacks("worker", own)
        if missing := sorted(await self._store.known_callbacks("web") - own):
            logger.warning(
                "! the web processes offload callbacks that this worker does not know: %s", missing
            )

    async def _help_out(self, spec: CallSpec) -> bool:
        return await self._claims.help_out(spec)

    async def run_call(self, _ctx: dict[Any, Any], call: str) -> None:
        """arq's job: a call that this worker has begun."""
        await self._claims.join(call)

    async def after_call(self, ctx: dict[Any, Any]) -> None:
        """arq is done with a job."""
        self._claims.settled(ctx["job_id"])

    async def _beat(self) -> None:
        pause_s = interval_s = self._settings.lease_s * BEAT_SHARE
        while True:
            await asyncio.sleep(pause_s)
            pause_s = interval_s
            try:
                beat = await self._store.beat(self.id)
                self._sweeper.take_up(beat.overdue)
                if not beat.alive:
                    await self._rejoin()
                await self._cancel_ended()
                await self._claims.reconcile(beat.claimed)
            except StoreError as error:
                logger.warning("! lease not renewed: %s", error)
                # When Redis is back, the lease may have little time left.
                pause_s = min(interval_s, 0.3)

    async def _rejoin(self) -> None:
        """This worker was silent for longer than its lease: its calls are not its own any more."""
        logger.warning("! given up as lost; stopping its calls and joining again")
        self._execution.cancel_all()
        # A retry of one of them may come here, and must not meet the run before it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REJOIN_S):
                await self._claims.drained.wait()
        if await self._store.renew(self.id, join=True):
            await self._store.offer(self.id, self._claims.capacity)

    async def _obey(self) -> None:
        controls = self._store.controls()
        try:
            await controls.add(self.id)
            async for name, message in controls.listen():
                if name == self.id:
                    self._execution.cancel(message.decode(errors="replace"))
                elif name is None:
                    await self._cancel_ended()
        except StoreUnavailable as error:
            logger.warning("! cancels are not heard: %s", error)
        finally:
            await controls.close()

    async def _cancel_ended(self) -> None:
        """A cancel may have been said while nobody listened, or not have been said."""
        with contextlib.suppress(StoreError):
            for call in await self._store.ended(self._execution.running):
                self._execution.cancel(call)

    def stop(self) -> None:
        """Be asked to end: claim nothing more, finish what runs within ``grace_s``.

        Asked twice, end now.
        """
        if self._stopping:
            self._end()
            return
        self._stopping = True
        logger.info("worker %s stops: %d calls to finish", self.id, len(self._execution.running))
        self._tasks.append(asyncio.create_task(self._drain(), name="drain"))

    async def _drain(self) -> None:
        ends_at = asyncio.get_running_loop().time() + self._settings.grace_s
        await self._claims.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends_at):
                await self._claims.drained.wait()
        self._end()

    def _end(self) -> None:
        if self._main is not None:
            self._main.cancel()

    async def shutdown(self, _ctx: dict[Any, Any]) -> None:
        """arq's worker ends: its jobs are done or cancelled."""
        if self._started:
            await self._leave()
        if self._hooked:
            await lifecycle.stop()
        logger.info("worker %s ended", self.id)

    async def _leave(self) -> None:
        await self._claims.stop()
        await self._claims.end()
        await tasks.end(self._tasks)
        await self._sweeper.close()
        await self._execution.close()
        await self._caller.close()
        async with _farewell():
            # All calls have ended; what is left was claimed or started and never came here.
            for call, spec, _ in await self._store.claimed_by(self.id):
                await self._store.hand_back(self.id, call, spec)
            await self._store.leave(self.id)
        await self._store.close()


@contextlib.asynccontextmanager
async def _farewell() -> AsyncIterator[None]:
    """What a worker says to Redis at its end; one that is away is not waited for."""
    try:
        async with asyncio.timeout(GOODBYE_S):
            yield
    except (StoreError, TimeoutError) as error:
        logger.warning("! ends without a word to Redis (%s)", str(error) or "no answer")


def health_check_key(settings: Settings) -> str:
    """Where arq notes that this machine's worker lives; asked by ``arq --check``."""
    return f"{settings.namespace}:health:{socket.gethostname()}"


class ThreadWorker:
    """A worker on a thread and loop of its own, in the web process.

    For where no fresh process could import the app: a notebook, a REPL, an app inside a test.
    The way of a call is the same; ``def`` callbacks run in threads.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._thread = threading.Thread(target=self._run, name="dash-dispatch-worker", daemon=True)
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None

    def start(self, timeout_s: float = 30.0) -> None:
        """Start, and return when calls are taken.

        Raises:
            ConfigError: It could not start.
        """
        self._thread.start()
        if not self._up.wait(timeout_s):
            raise ConfigError(f"the embedded worker did not start within {timeout_s:g} s")
        if self._error is not None:
            raise ConfigError(f"the embedded worker did not start: {self._error}")

    def stop(self) -> None:
        """End it, and wait for that."""
        loop, engine = self._loop, self._engine
        if loop is not None and engine is not None and loop.is_running():
            # Twice: without grace. Who stops a development server does not wait.
            for _ in range(2):
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(engine.stop)
        self._thread.join(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - said by start(), in its caller's thread
            self._error = error
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(bridge.ready, self._app)
        self._engine = Engine(self._app, self._settings, None, handle_signals=False)
        settings = self._engine.arq_settings()
        settings["on_startup"] = self._announce(settings["on_startup"])
        worker = ArqWorker(**settings)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # That is how arq's loop ends.
            logger.debug("embedded worker stopped")
        finally:
            await worker.close()

    def _announce(
        self, startup: Callable[[dict[Any, Any]], Awaitable[None]]
    ) -> Callable[[dict[Any, Any]], Awaitable[None]]:
        async def announced(ctx: dict[Any, Any]) -> None:
            await startup(ctx)
            self._up.set()

        return announced
