"""Carries tasks' calls from a web process or a worker to the workers, and their outcomes back.

Each call has a mailbox of its own, for as long as somebody waits for it.
"""

import asyncio
import concurrent.futures
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from dash_dispatch import remote, tasks
from dash_dispatch.config import Settings
from dash_dispatch.errors import PayloadTooLarge, StoreError
from dash_dispatch.identity import Identity
from dash_dispatch.protocol import (
    CallSpec,
    Event,
    Outcome,
    RequestSnapshot,
    Status,
    call_id,
    failed,
)
from dash_dispatch.relay import MailboxReader, Relay
from dash_dispatch.store import Store

logger = logging.getLogger(__name__)

MAX_DEPTH = 20
"""Tasks that wait for tasks that wait ...: more is taken for a recursion without an end."""

TIDY_S = 5.0
"""How long the end of this process waits until the calls that it gave up are cancelled."""

HELP_AFTER_S = 0.25
HELP_EVERY_S = 2.0
"""A call that nobody has begun by then may be begun by the worker that waits for it."""

Help = Callable[[CallSpec], Awaitable[bool]]


class Caller:
    """Runs tasks for the callbacks of one process.

    Args:
        store: Where the calls go.
        settings: Limits.
        relay: Whose notifications to use; without one, an own one is started with the first call.
        help_out: In a worker: begins a call that waits, if it can, and tells whether it has. The
            slot of the one who waits is idle, and there may be no other: without this, as many
            callbacks as there are slots would wait for their tasks for ever.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        relay: Relay | None = None,
        help_out: Help | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._relay = relay
        self._own_relay: Relay | None = None
        self._help_out = help_out
        self._tidying: set[asyncio.Task[None]] = set()

    async def ask(self, spec: CallSpec, scope: "Scope") -> Outcome:
        """Run a task's call; its outcome. Cancelled, so is the call.

        Args:
            spec: The call, without its names and for whom it is (see ``remote``).
            scope: Who waits for it.

        Raises:
            SubmitError: It was refused.
            StoreError: Redis cannot be reached, or refuses.
        """
        if spec.output == remote.CANCEL:
            ended = await self._store.cancel(spec.id)
            return Outcome(Status.OK if ended else Status.NO_UPDATE)
        spec = self._complete(spec, await scope.who(), scope.depth)
        if spec.cache_key:
            known = await self._store.cached(spec)
            if known is not None:
                return known
        event = None
        try:
            async with await self._notifying().attach(spec.session, None) as reader:
                await self._store.create(spec)
                event = await self._outcome(reader, spec, scope)
        finally:
            self._tidy(spec, ended=event is not None)
        if event is None or event.outcome is None:
            text = f"No outcome within {self._settings.call_ttl_s:g} s."
            return failed(Status.EXPIRED, "CallExpired", text, call=spec.id)
        return event.outcome

    def _complete(self, spec: CallSpec, who: Identity, depth: int) -> CallSpec:
        size, bound = len(spec.payload), self._settings.max_request_bytes
        if size > bound:
            raise PayloadTooLarge(
                f"the arguments have {size} bytes; {bound} are allowed"
                " (DASH_DISPATCH_MAX_REQUEST_BYTES)"
            )
        name = secrets.token_urlsafe(18)
        return msgspec.structs.replace(
            spec,
            id=call_id(name, name, "task"),
            session=name,
            page=name,
            request=str(depth),
            timeout_s=spec.timeout_s or self._settings.timeout_s,
            user=who.turns,
            snapshot=msgspec.json.encode(who),
            cache_key=self._cache_key(spec, who),
            code_version=self._settings.code_version,
        )

    def _cache_key(self, spec: CallSpec, who: Identity) -> str:
        if not spec.cache_key:
            return ""
        scope = who.cache if spec.cache_key.startswith("user:") else ""
        parts = (spec.cache_key, self._settings.code_version, scope)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _notifying(self) -> Relay:
        if self._relay is None:
            self._relay = self._own_relay = Relay(self._store)
            self._own_relay.start()
        return self._relay

    async def _outcome(self, reader: MailboxReader, spec: CallSpec, scope: "Scope") -> Event | None:
        helping = None
        if self._help_out is not None:
            helping = asyncio.create_task(self._help(self._help_out, spec, scope))
        try:
            return await reader.outcome(spec.id, self._settings.call_ttl_s)
        finally:
            await tasks.end([helping])
            if scope.helped == spec.id:
                scope.helped = ""

    async def _help(self, help_out: Help, spec: CallSpec, scope: "Scope") -> None:
        """Begin the call here if nobody does: one at a time for each who waits, in its own slot."""
        pause_s = HELP_AFTER_S
        begun = False
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, HELP_EVERY_S)
            if scope.helped not in ("", spec.id):
                continue
            scope.helped = spec.id
            try:
                # Once begun, it may come to wait again: for a retry.
                begun = await help_out(spec) or begun
            except StoreError as error:
                logger.warning("! %s waits (%s)", spec.id, error, extra={"call_id": spec.id})
            if not begun:
                scope.helped = ""

    def _tidy(self, spec: CallSpec, *, ended: bool) -> None:
        """In a task of its own: whoever gives up a call does not wait for Redis to know it."""
        task = asyncio.create_task(self._forget(spec, ended=ended), name=f"tidy {spec.id}")
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _forget(self, spec: CallSpec, *, ended: bool) -> None:
        try:
            if not ended:
                await self._store.cancel(spec.id)
            await self._store.discard(spec.session)
        except StoreError as error:
            # It runs to its end for nobody, and its mailbox expires by itself.
            logger.warning("! %s not tidied up: %s", spec.id, error, extra={"call_id": spec.id})

    async def close(self) -> None:
        """Stop. Calls that were given up are cancelled first."""
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=TIDY_S)
        await tasks.end(list(self._tidying))
        if self._own_relay is not None:
            await self._own_relay.close()


Ask = Callable[[CallSpec, "Scope"], Awaitable[Outcome]]


class Scope:
    """The tasks that one callback waits for: what it still waits for at its end is cancelled.

    A ``remote.Runner``. Made on the loop that it asks from; used from any thread.

    Args:
        ask: What carries a call, on this loop: ``Caller.ask``.
        who: Tells for whom the callback runs.
        depth: How many tasks wait for it, one for another, and it among them.
    """

    def __init__(self, ask: Ask, who: Callable[[], Awaitable[Identity]], depth: int = 0) -> None:
        self._ask = ask
        self.who = who
        self.depth = depth
        self.helped = ""
        """Id of the call that runs in the slot of this one."""
        self._loop = asyncio.get_running_loop()
        self._asking: set[asyncio.Future[Outcome]] = set()
        self._closed = False

    def submit(self, spec: CallSpec) -> "concurrent.futures.Future[Outcome]":
        """Let it be run. Cancelling the future cancels the call. From any thread.

        Raises:
            RuntimeError: The callback has ended, or too many tasks wait for each other.
        """
        self._check()
        return asyncio.run_coroutine_threadsafe(self.ask(spec), self._loop)

    async def ask(self, spec: CallSpec) -> Outcome:
        """The same, on the loop.

        Raises:
            RuntimeError: As `submit`; and what ``Caller.ask`` raises.
        """
        self._check()
        # A task of its own, which `close` can cancel wherever the waiting one is.
        task = asyncio.ensure_future(self._ask(spec, self))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return await task

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("the callback that would wait for this has ended")
        if self.depth >= MAX_DEPTH:
            raise RuntimeError(
                f"{MAX_DEPTH} tasks wait for each other already: does one run itself without end?"
            )

    def close(self) -> None:
        """The callback has ended."""
        self._closed = True
        for task in self._asking:
            task.cancel()

    def __enter__(self) -> "Scope":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def scope_of(spec: CallSpec, ask: Ask, *, named: bool) -> Scope:
    """In a worker: the scope of a call that runs.

    Args:
        spec: The call, a callback's or a task's.
        ask: What carries its tasks.
        named: Whether the app names its users (``Dash(user=...)``).
    """

    async def who() -> Identity:
        if is_task:
            return msgspec.json.decode(spec.snapshot, type=Identity)
        if named:
            return Identity(spec.user, spec.user)
        return Identity.of(spec.user, msgspec.json.decode(spec.snapshot, type=RequestSnapshot))

    is_task = remote.is_task(spec.output)
    return Scope(ask, who, int(spec.request) + 1 if is_task else 0)
