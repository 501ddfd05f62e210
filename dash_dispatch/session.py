"""Sessions: who a browser is, and what it may say, whichever transport carries it."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from itsdangerous import BadSignature, URLSafeTimedSerializer

from dash_dispatch import bridge
from dash_dispatch.config import Settings
from dash_dispatch.errors import (
    DispatchError,
    Forbidden,
    NotOffloaded,
    QueueFull,
    StoreError,
    SubmitError,
)
from dash_dispatch.local import LocalCalls
from dash_dispatch.offload import Offloaded
from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import (
    ByeMessage,
    CallMessage,
    CancelMessage,
    ClientMessage,
    Event,
    OnLeave,
    Outcome,
    PropsMessage,
    RequestSnapshot,
    Status,
    call_id,
    failed,
    legible,
)
from dash_dispatch.store import Store
from dash_dispatch.submit import Asked, Submitter

logger = logging.getLogger(__name__)

TOKEN_AGE_S = 7 * 86_400
"""A session's handle is good for this long after its last connection, which renews it."""

MAX_PAGES = 1000
"""Open pages of one browser; a call of one more is refused."""

ABSENCE_S = 60.0
"""A session without a connection for this long is taken to have closed its pages: callbacks of
the web process that stream to them are ended. Offloaded ones go on."""


class Signer:
    """Makes session handles that nobody can guess, forge or keep for ever."""

    def __init__(self, secret: str, namespace: str) -> None:
        self._serializer = URLSafeTimedSerializer(secret, salt=f"{namespace}.session")

    def new(self) -> str:
        """A fresh session id."""
        return secrets.token_urlsafe(18)

    def sign(self, session: str) -> str:
        """The handle that the browser keeps."""
        return self._serializer.dumps(session)

    def verify(self, token: str) -> str | None:
        """The session of a handle; None if it is forged, foreign or too old.

        Another web process may have signed it, whose clock is ahead of this one: a handle from
        the future is as good. (``max_age`` of the serializer takes one second of it for forged.)
        """
        try:
            session, signed = self._serializer.loads(token, return_timestamp=True)
        except BadSignature:
            return None
        if abs(time.time() - signed.timestamp()) > TOKEN_AGE_S:
            return None
        return session if isinstance(session, str) else None


BURST_S = 10.0
"""A browser that was silent may ask for this many seconds' worth of callbacks at once: a page that
is loaded has hundreds."""


class Rate:
    """A token bucket: so many per second, and a burst."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._tokens = max(1.0, per_s * BURST_S)
        self._at_s = clock()

    def take(self) -> bool:
        """Whether one more is within the rate."""
        now_s = self._clock()
        gained = (now_s - self._at_s) * self._per_s
        self._at_s = now_s
        self._tokens = min(self._tokens + gained, max(1.0, self._per_s * BURST_S))
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


MAX_EARLY = 100
"""Outcomes that are remembered for having come before their call was noted; when full all are
forgotten, and such a call is asked about once, in vain."""


class Session:
    """One session, as far as this process serves it."""

    def __init__(self, id_: str, outbox: Outbox, rate: Rate) -> None:
        self.id = id_
        self.outbox = outbox
        self.rate = rate
        # A browser that asks for too much fills no log.
        self.voice = Rate(1.0)
        self.pages: set[str] = set()
        # Offloaded calls asked for here whose outcome has not passed yet, with page and request:
        # only for these is it worth to look for a hint that was lost. Bounded by
        # `max_session_calls`, by and large.
        self.awaited: dict[str, tuple[str, str]] = {}
        # Mostly there is none, and an idle page holds no empty set.
        self._early: set[str] | None = None
        self.connections = 0
        self.absence: asyncio.TimerHandle | None = None
        self.noting: asyncio.Task[None] | None = None

    def heard(self, events: Iterable[Event]) -> None:
        """These are on their way to the browser: it waits for their outcomes no more."""
        for event in events:
            if event.outcome is not None and self.awaited.pop(event.call, None) is None:
                # Faster than the word that it is waited for, or asked for elsewhere.
                if self._early is None or len(self._early) >= MAX_EARLY:
                    self._early = set()
                self._early.add(event.call)

    def expect(self, call: str, page: str, request: str) -> None:
        """An accepted call is waited for, unless its outcome has passed already."""
        if self._early is not None and call in self._early:
            self._early.discard(call)
        else:
            self.awaited[call] = (page, request)


class Sessions:
    """The sessions that this process serves, and what their browsers say to it.

    What is kept here can be built again by any other web process: it only saves running callbacks
    of this process from being run twice, and their answers a way through Redis.
    """

    def __init__(
        self,
        app: Any,
        store: Store,
        settings: Settings,
        submitter: Submitter,
        local: LocalCalls,
        signer: Signer,
    ) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._submitter = submitter
        self._local = local
        self.signer = signer
        self._sessions: dict[str, Session] = {}
        self._watches_leaving = any(
            offloaded.options.on_leave == "cancel"
            for offloaded in bridge.offloaded_of(app).values()
        )

    def open(self, id_: str) -> Session:
        """A connection or a poll of this session begins.

        Raises:
            QueueFull: It has too many.
        """
        session = self._sessions.get(id_)
        if session is None:
            rate = Rate(self._settings.max_call_rate)
            session = self._sessions[id_] = Session(id_, Outbox(self._store, id_), rate)
        if session.connections >= self._settings.max_session_connections:
            raise QueueFull(
                f"busy: {session.connections} connections of this browser are open"
                " (DASH_DISPATCH_MAX_SESSION_CONNECTIONS)"
            )
        session.connections += 1
        if session.absence is not None:
            session.absence.cancel()
            session.absence = None
        return session

    def close(self, session: Session) -> None:
        """It has ended. The session is kept for a while."""
        session.connections -= 1
        if session.connections == 0:
            loop = asyncio.get_running_loop()
            session.absence = loop.call_later(ABSENCE_S, self._forget, session)
            self._note_absence(session)

    def _note_absence(self, session: Session) -> None:
        """Start the time after which those calls are cancelled that ``on_leave`` says it of."""
        if not self._watches_leaving or session.noting is not None:
            return
        session.noting = asyncio.create_task(self._note(session), name=f"absence {session.id}")

    async def _note(self, session: Session) -> None:
        try:
            await self._store.absent(session.id)
        except StoreError as error:
            # They run to their end, which nobody sees: what would have been without the option.
            logger.warning("! absence not noted: %s", error)
        finally:
            session.noting = None

    def _forget(self, session: Session) -> None:
        for page in session.pages:
            self._local.leave(session.id, page)
        self._sessions.pop(session.id, None)

    async def shutdown(self) -> None:
        """Send what is left by mail, so that another process can deliver it."""
        for session in list(self._sessions.values()):
            if session.absence is not None:
                session.absence.cancel()
            if session.noting is not None:
                await session.noting
            await session.outbox.close(timeout_s=2.0)
        self._sessions.clear()

    async def take(
        self, session: Session, message: ClientMessage, snapshot: RequestSnapshot
    ) -> None:
        """Do what a browser asks. Every refusal becomes an answer to the page, none is raised."""
        match message:
            case CallMessage():
                await self._call(session, message, snapshot)
            case CancelMessage(page=page, request=request):
                # A callback of this process goes on, as with stock Dash: it may have effects. It
                # can ask.
                self._local.unwant(session.id, page, request)
                await self._cancel(session, call_id(session.id, page, request))
            case PropsMessage(request=request, payload=payload):
                self._local.answer(session.id, request, payload)
            case ByeMessage(page=page):
                session.pages.discard(page)
                self._local.leave(session.id, page)
                await self._leave(session, page)
            case _:
                # Hello, ack and ping are the transports' own.
                pass

    async def _call(
        self, session: Session, message: CallMessage, snapshot: RequestSnapshot
    ) -> None:
        try:
            if not session.rate.take():
                raise QueueFull(
                    "busy: this browser asks for more callbacks per second than are allowed"
                    " (DASH_DISPATCH_MAX_CALL_RATE); try again later"
                )
            if message.page not in session.pages and len(session.pages) >= MAX_PAGES:
                raise QueueFull(f"busy: {MAX_PAGES} pages are open in this browser")
            session.pages.add(message.page)
            asked = self._asked(message)
            if not bridge.may_use_websocket(self._app, asked.entry):
                raise Forbidden(
                    f"'{legible(asked.body.output)}' may not be called over this connection: it has"
                    " neither offload= nor websocket=True"
                )
            await self._dispatch(session, message, asked, snapshot)
        except DispatchError as error:
            if session.voice.take():
                logger.warning("! refused: %s", error)
            self._answer(session, message, _refusal(error, _id(session, message)))

    def _asked(self, message: CallMessage) -> Asked:
        try:
            return Asked(self._app, bytes(message.payload), self._settings.max_request_bytes)
        except NotOffloaded as error:
            # Of a page that a web process of another release has made, while a deploy is under way.
            raise NotOffloaded(
                f"{error}; if its page is of another release, load it again (code version of this"
                f" web process: {self._settings.code_version or 'not set'})"
            ) from error

    async def _dispatch(
        self, session: Session, message: CallMessage, asked: Asked, snapshot: RequestSnapshot
    ) -> None:
        page, request = message.page, message.request
        if asked.cancels is not None:
            await self._cancel_targets(session, page, asked)
            self._answer(session, message, Outcome(Status.NO_UPDATE))
        elif asked.offloaded is not None:
            await self._offload(session, message, asked, asked.offloaded, snapshot)
        else:
            self._check_room(session)
            self._local.run(asked, snapshot, session.outbox, page, request)

    def _check_room(self, session: Session) -> None:
        bound = self._settings.max_session_calls
        # Counting looks at each: first, whether there can be as many.
        if len(self._local) >= bound and self._local.count(session.id) >= bound:
            raise QueueFull(
                f"busy: {bound} calls of this browser have not ended"
                " (DASH_DISPATCH_MAX_SESSION_CALLS); try again later"
            )

    async def _offload(
        self,
        session: Session,
        message: CallMessage,
        asked: Asked,
        offloaded: Offloaded,
        snapshot: RequestSnapshot,
    ) -> None:
        if message.lost_session:
            # What it says lies in a mailbox that this browser cannot open (any more).
            text = "The connection was away for too long; the result cannot be delivered."
            self._answer_expired(session, message, text)
            return
        if message.age_s > self._settings.session_ttl_s and not await self._is_kept(
            session, message
        ):
            # Nobody knows whether it has run: it is not run (again) behind the page's back.
            text = "The page was away for too long; the result is not kept any more. Ask again."
            self._answer_expired(session, message, text)
            return
        spec, admission = await self._submitter.submit(
            asked,
            offloaded,
            snapshot,
            session=session.id,
            page=message.page,
            request=message.request,
            stream=True,
        )
        if isinstance(admission, Outcome):
            self._answer(session, message, admission)
        elif admission.status == "dropped":
            self._answer(session, message, Outcome(Status.NO_UPDATE))
        else:
            session.expect(spec.id, message.page, message.request)
            if spec.on_leave is OnLeave.CANCEL:
                # It is looked for from now on: this process may not live to say that it has left.
                self._note_absence(session)

    async def give_up_lost(self, session: Session) -> None:
        """End calls that Redis has lost, for it was restarted without its file, or failed over.

        Asked now and then while a browser waits: nobody else would ever tell its pages.
        """
        for call, (page, request) in list(session.awaited.items()):
            try:
                status = await self._store.status(call)
            except StoreError:
                # Redis is away; what it has lost is seen when it is back.
                return
            if status in ("queued", "started"):
                continue
            session.awaited.pop(call, None)
            if status is not None:
                # It has ended, maybe before it was noted here, and the mailbox is read next.
                continue
            logger.warning("! %s is not in Redis any more", call, extra={"call_id": call})
            text = "Redis has lost this call. It may have run, or not; it was not run again."
            lost = failed(Status.EXPIRED, "CallExpired", text, call=call)
            session.outbox.put(Event(page, request, call, lost))

    async def _is_kept(self, session: Session, message: CallMessage) -> bool:
        """Whether a call that was asked for long ago is known, and its outcome, if it has one."""
        status = await self._store.status(_id(session, message))
        if status is None or status in ("queued", "started"):
            return status is not None
        return await self._store.has_mail(session.id)

    def _answer(self, session: Session, message: CallMessage, outcome: Outcome) -> None:
        call = _id(session, message)
        session.outbox.put(Event(message.page, message.request, call, outcome))

    def _answer_expired(self, session: Session, message: CallMessage, text: str) -> None:
        call = _id(session, message)
        outcome = failed(Status.EXPIRED, "CallExpired", text, call=call)
        self._answer(session, message, outcome)

    async def _cancel(self, session: Session, call: str) -> None:
        """Cancel a call of this session; somebody else's is left alone."""
        if any(active.id == call for active in await self._store.active(session.id)):
            await self._store.cancel(call)

    async def _cancel_targets(self, session: Session, page: str, asked: Asked) -> None:
        """A Cancel button: end the page's calls of its callbacks, of the same MATCH instance."""
        targets = bridge.cancel_targets(self._app, asked.entry, asked.body)
        for active in await self._store.active(session.id):
            match = orjson.loads(active.match) if active.match else {}
            if active.page == page and any(
                active.output == output and bridge.values_agree(wanted, match)
                for output, wanted in targets
            ):
                await self._store.cancel(active.id)

    async def _leave(self, session: Session, page: str) -> None:
        """A page has gone for good: its calls that nobody else needs end with it."""
        if not self._watches_leaving:
            return
        for active in await self._store.active(session.id):
            if active.page == page and active.on_leave is OnLeave.CANCEL:
                await self._store.cancel(active.id)


def _id(session: Session, message: CallMessage) -> str:
    return call_id(session.id, message.page, message.request)


def _refusal(error: DispatchError, call: str) -> Outcome:
    kind = type(error).__name__
    text = str(error)
    if not isinstance(error, SubmitError):
        logger.error("! %s: %s", kind, text)
    return failed(Status.FAILED, kind, text, call=call)
