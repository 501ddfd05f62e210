"""Sessions: who a browser is, and what it may say, whichever transport carries it."""

import asyncio
import logging
import secrets
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from dash_dispatch import bridge
from dash_dispatch.config import Settings
from dash_dispatch.errors import DispatchError, Forbidden, QueueFull, SubmitError
from dash_dispatch.local import LocalCalls
from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import (
    ByeMessage,
    CallMessage,
    CancelMessage,
    ClientMessage,
    Event,
    Outcome,
    PropsMessage,
    RequestSnapshot,
    Status,
    call_id,
    failed,
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
        """The session of a handle; None if it is forged, foreign or too old."""
        try:
            session = self._serializer.loads(token, max_age=TOKEN_AGE_S)
        except BadSignature:
            return None
        return session if isinstance(session, str) else None


class Session:
    """One session, as far as this process serves it."""

    def __init__(self, id_: str, outbox: Outbox) -> None:
        self.id = id_
        self.outbox = outbox
        self.pages: set[str] = set()
        self.connections = 0
        self.absence: asyncio.TimerHandle | None = None


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

    def open(self, id_: str) -> Session:
        """A connection or a poll of this session begins."""
        session = self._sessions.get(id_)
        if session is None:
            session = self._sessions[id_] = Session(id_, Outbox(self._store, id_))
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

    def _forget(self, session: Session) -> None:
        for page in session.pages:
            self._local.leave(session.id, page)
        self._sessions.pop(session.id, None)

    async def shutdown(self) -> None:
        """Send what is left by mail, so that another process can deliver it."""
        for session in self._sessions.values():
            if session.absence is not None:
                session.absence.cancel()
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
                # A callback of this process goes on, as with stock Dash: it may have effects.
                await self._cancel(session, call_id(page, request))
            case PropsMessage(request=request, payload=payload):
                self._local.answer(request, payload)
            case ByeMessage(page=page):
                session.pages.discard(page)
                self._local.leave(session.id, page)
            case _:
                # Hello, ack and ping are the transports' own.
                pass

    async def _call(
        self, session: Session, message: CallMessage, snapshot: RequestSnapshot
    ) -> None:
        try:
            if message.page not in session.pages and len(session.pages) >= MAX_PAGES:
                raise QueueFull(f"busy: {MAX_PAGES} pages are open in this browser")
            session.pages.add(message.page)
            asked = Asked(self._app, bytes(message.payload), self._settings.max_request_bytes)
            if not bridge.may_use_websocket(self._app, asked.entry):
                raise Forbidden(
                    f"{asked.body.output!r} may not be called over this connection: it has neither"
                    " offload= nor websocket=True"
                )
            await self._dispatch(session, message, asked, snapshot)
        except DispatchError as error:
            logger.warning("! refused: %s", error)
            self._answer(session, message, _refusal(error, message))

    async def _dispatch(
        self, session: Session, message: CallMessage, asked: Asked, snapshot: RequestSnapshot
    ) -> None:
        page, request = message.page, message.request
        if asked.cancels is not None:
            await self._cancel_outputs(session, page, asked.cancels)
            self._answer(session, message, Outcome(Status.NO_UPDATE))
        elif asked.offloaded is not None:
            spec, admission = await self._submitter.submit(
                asked,
                asked.offloaded,
                snapshot,
                session=session.id,
                page=page,
                request=request,
                stream=True,
            )
            if admission.session != session.id:
                # Known, and not this session's: it lost its handle while the callback ran, and
                # what the callback said lies in a mailbox that it cannot open any more.
                text = "The connection was away for too long; the result cannot be delivered."
                lost = failed(Status.EXPIRED, "CallExpired", text, call=spec.id)
                self._answer(session, message, lost)
        else:
            self._local.run(asked, snapshot, session.outbox, page, request)

    def _answer(self, session: Session, message: CallMessage, outcome: Outcome) -> None:
        call = call_id(message.page, message.request)
        session.outbox.put(Event(message.page, message.request, call, outcome))

    async def _cancel(self, session: Session, call: str) -> None:
        """Cancel a call of this session; somebody else's is left alone."""
        if any(active.id == call for active in await self._store.active(session.id)):
            await self._store.cancel(call)

    async def _cancel_outputs(self, session: Session, page: str, outputs: list[str]) -> None:
        for active in await self._store.active(session.id):
            if active.page == page and active.output in outputs:
                await self._store.cancel(active.id)


def _refusal(error: DispatchError, message: CallMessage) -> Outcome:
    kind = type(error).__name__
    text = str(error)
    if not isinstance(error, SubmitError):
        logger.error("! %s: %s", kind, text)
    return failed(Status.FAILED, kind, text, call=call_id(message.page, message.request))
