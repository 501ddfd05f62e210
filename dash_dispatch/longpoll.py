"""The second transport, where no websocket can be had: ``send`` and ``poll`` over HTTP.

The same sessions, messages and mailboxes; a poll's cursor is its acknowledgement. There are no
direct messages: all goes by mail.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import orjson
from quart import Response, request
from quart.wrappers.response import DataBody
from werkzeug.exceptions import RequestEntityTooLarge

from dash_dispatch import bridge, guards
from dash_dispatch.errors import DispatchError, Forbidden, PayloadTooLarge
from dash_dispatch.logins import ENDED
from dash_dispatch.protocol import (
    check_version,
    decode_poll,
    decode_send,
    encode_frame,
    message_of,
    slices,
    welcome,
)
from dash_dispatch.relay import is_cursor
from dash_dispatch.runtime import Runtime
from dash_dispatch.session import Session
from dash_dispatch.store import Entry

logger = logging.getLogger(__name__)

GONE = 410
RETRY_AFTER_S = 1

SLICE_BYTES = 256 * 1024
"""What is given to the server at once, of a large response."""

HEAR_OUT_S = 10.0
"""How long a body that is too large is let come in, to be dropped."""


async def send(app: Any, runtime: Runtime) -> Response:
    """``POST send``: messages of a browser; makes its session if it has none."""
    try:
        body = decode_send(await _admit(app))
        services = runtime.services()
        signer = services.sessions.signer
        known = signer.verify(body.session) if body.session is not None else None
        if body.session is not None and known is None:
            return _problem(GONE, "the session is not valid any more")
        session = services.sessions.open(known or signer.new())
        try:
            snapshot = guards.snapshot(app, request)
            for message in body.messages:
                rejection = await guards.run_message_hooks(app, request, message)
                if rejection is not None:
                    raise Forbidden(rejection[1])
                await services.sessions.take(session, message, snapshot)
        finally:
            services.sessions.close(session)
        token = signer.sign(session.id)
        return _frame(encode_frame([(None, welcome(token, resumed=known is not None))]))
    except DispatchError as error:
        return _refuse(error)


async def poll(app: Any, runtime: Runtime) -> Response:
    """``POST poll``: holds until there is mail, or for ``poll_hold_s``."""
    try:
        body = decode_poll(await _admit(app))
        check_version(body.version)
        services = runtime.services()
        known = services.sessions.signer.verify(body.session)
        if known is None:
            return _problem(GONE, "the session is not valid any more")
        cursor = body.cursor if body.cursor is not None and is_cursor(body.cursor) else None
        session = services.sessions.open(known)
        try:
            entries = await _mail(app, runtime, session, cursor)
            return _frame(await _text(entries, debug=bridge.shows_errors(app)))
        finally:
            services.sessions.close(session)
    except DispatchError as error:
        return _refuse(error)


async def _mail(app: Any, runtime: Runtime, session: Session, cursor: str | None) -> list[Entry]:
    services = runtime.services()
    snapshot = guards.snapshot(app, request)
    user = await services.logins.identify(snapshot)
    async with await services.relay.attach(session.id, cursor) as reader:
        with (
            services.logins.watch(user, snapshot) as login,
            runtime.until_stopped(reader.wake),
        ):
            login.tell = reader.wake
            if cursor is not None:
                await reader.acknowledge(cursor)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(runtime.settings.poll_hold_s):
                    while not runtime.stopped:
                        await reader.news()
                        if login.ended.is_set():
                            await services.store.empty(session.id)
                            raise Forbidden(ENDED)
                        if entries := await reader.read():
                            session.heard(entry.event for entry in entries)
                            return entries
    await services.sessions.give_up_lost(session)
    return []


async def _admit(app: Any) -> bytes:
    """The body of a request that may be heard.

    Raises:
        Forbidden: Wrong origin, not JSON (a form can be sent from anywhere), or a hook says no.
        PayloadTooLarge: Larger than the server takes.
    """
    refusal = guards.refuse_origin(app, request.headers) or guards.refuse_form(request.headers)
    if refusal is not None:
        raise Forbidden(refusal)
    rejection = await guards.run_connect_hooks(app, request)
    if rejection is not None:
        raise Forbidden(rejection[1])
    return await read_body()


async def read_body() -> bytes:
    """The request's body.

    Raises:
        PayloadTooLarge: Larger than the server takes.
    """
    try:
        return bytes(cast(bytes, await request.get_data(as_text=False)))
    except RequestEntityTooLarge as error:
        await _hear_out()
        raise PayloadTooLarge(
            "the request is larger than DASH_DISPATCH_MAX_REQUEST_BYTES"
        ) from error


async def _hear_out() -> None:
    """Wait for the rest of the body, which Quart drops as it comes.

    Who still sends would see its connection reset, and not the answer; the browser script would
    take that for a bad network, and send the same again.
    """
    body: Any = request.body
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEAR_OUT_S):
            await body._complete.wait()  # noqa: SLF001 - Quart has no public word for it


async def _text(entries: list[Entry], *, debug: bool) -> bytes:
    def text() -> bytes:
        return encode_frame((entry.id, message_of(entry.event, debug=debug)) for entry in entries)

    # A large one is copied, and the loop would stand still meanwhile.
    return await asyncio.to_thread(text) if any(entry.aside for entry in entries) else text()


class _Slices(DataBody):
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        for part in slices(self.data[self.begin : self.end], SLICE_BYTES):
            yield part
            # Sending alone waits only when the other side does not keep up.
            await asyncio.sleep(0)


class SlicedResponse(Response):
    """For what may be large: servers copy what they are given, and the loop waits for that."""

    data_body_class = _Slices


def _frame(text: bytes) -> Response:
    response = SlicedResponse(text, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _refuse(error: DispatchError) -> Response:
    if error.http_status >= 500:
        logger.warning("! refused: %s", error)
    return problem(error)


def problem(error: DispatchError) -> Response:
    """An error as an HTTP answer: its status, its reason as JSON, and when to try again."""
    response = _problem(error.http_status, str(error))
    if error.retryable:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _problem(status: int, text: str) -> Response:
    content = orjson.dumps({"error": text})
    return Response(content, status=status, content_type="application/json")
