"""Admission: from a renderer's request to an accepted call, or a clear refusal."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from dash_dispatch import bridge
from dash_dispatch.config import Settings
from dash_dispatch.errors import (
    BadRequest,
    CallFailed,
    DecodeError,
    Forbidden,
    NotOffloaded,
    PayloadTooLarge,
    StoreError,
)
from dash_dispatch.identity import Identity, canonical
from dash_dispatch.offload import Offloaded
from dash_dispatch.protocol import (
    CallbackBody,
    CallSpec,
    Outcome,
    RequestSnapshot,
    Status,
    call_id,
    decode_callback_body,
    legible,
)
from dash_dispatch.store import Admission, Store
from dash_dispatch.threads import Threads

logger = logging.getLogger(__name__)


class Asked:
    """A callback request that is well-formed and names a callback of this app.

    Attributes:
        raw: The request as it came.
        body: The same, decoded.
        entry: Dash's entry of the callback.
    """

    def __init__(self, app: Any, raw: bytes, max_bytes: int) -> None:
        """Read a request.

        Raises:
            PayloadTooLarge: Longer than ``max_bytes``.
            BadRequest: Not a callback request.
            NotOffloaded: The app has no such callback.
        """
        if len(raw) > max_bytes:
            raise PayloadTooLarge(
                f"the request has {len(raw)} bytes; {max_bytes} are allowed"
                " (DASH_DISPATCH_MAX_REQUEST_BYTES)"
            )
        try:
            body: CallbackBody = decode_callback_body(raw)
        except DecodeError as error:
            raise BadRequest(str(error)) from error
        entry = bridge.entry_of(app, body.output)
        if entry is None:
            raise NotOffloaded(f"this app has no callback for '{legible(body.output)}'")
        _check_shape(body, entry)
        self.raw = raw
        self.body = body
        self.entry = entry

    @property
    def offloaded(self) -> Offloaded | None:
        """How it is to be run in a worker; None for a callback of the web process."""
        found: Offloaded | None = self.entry.get(bridge.OFFLOADED)
        return found

    @property
    def cancels(self) -> list[str] | None:
        """Ids of the callbacks whose calls this one ends, if that is what it is for."""
        found: list[str] | None = self.entry.get(bridge.CANCELS)
        return found


def _check_shape(body: CallbackBody, entry: dict[str, Any]) -> None:
    """As many inputs and states as the callback has: else Dash fails later, and as a 500."""
    for what, given, wanted in (
        ("inputs", body.inputs, entry["inputs"]),
        ("state", body.state or [], entry["state"]),
    ):
        if len(given) != len(wanted):
            raise BadRequest(
                f"the callback '{legible(body.output)}' has {len(wanted)} {what}; got {len(given)}"
            )
        for item in given:
            if not _is_dependency(item):
                raise BadRequest(f"not a component's property among the {what}")
    if not bridge.outputs_match(entry, body.outputs):
        raise BadRequest(f"the outputs are not those of the callback '{legible(body.output)}'")


def _is_dependency(item: object) -> bool:
    if isinstance(item, list):
        return all(_is_dependency(part) for part in item)
    return isinstance(item, dict) and "id" in item and "property" in item


class Submitter:
    """Hands offloaded callbacks to the workers.

    Args:
        app: The user's app.
        store: Where calls are written down.
        settings: Limits.
        threads: Where user code runs that is asked before (``Dash(user=)``, ``cache_by``).
        announced: Called when a call waits whose page wants to know its position.
    """

    def __init__(
        self,
        app: Any,
        store: Store,
        settings: Settings,
        threads: Threads,
        announced: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._store = store
        self._settings = settings
        self._threads = threads
        self._announced = announced

    async def submit(
        self,
        asked: Asked,
        offloaded: Offloaded,
        snapshot: RequestSnapshot,
        *,
        session: str,
        page: str,
        request: str,
        stream: bool,
    ) -> tuple[CallSpec, Admission | Outcome]:
        """Accept a call, or answer it from the cache.

        Args:
            asked: The request.
            offloaded: How to run it.
            snapshot: What the callback may ask of its request.
            session: Whose mailbox its events go to.
            page, request: Together they name the call: the same again is the same call.
            stream: Whether ``set_props`` is delivered as it happens.

        Raises:
            QueueFull: Too many are waiting.
            StoreUnavailable: Redis cannot be reached.
        """
        call = call_id(session, page, request)
        snapshot = await self._with_custom_data(call, asked, snapshot)
        who = await self.identify(session, snapshot, stream=stream)
        match = bridge.match_values(asked.entry, asked.body)
        spec = CallSpec(
            id=call,
            session=session,
            page=page,
            request=request,
            output=asked.body.output,
            payload=asked.raw,
            snapshot=msgspec.json.encode(self._forwarded(snapshot)),
            stream=stream,
            instance=_instance(session, page, asked),
            overlap=offloaded.overlap,
            user=who.turns,
            cache_key=await self._cache_key(call, asked, offloaded, snapshot, who.cache),
            on_start=bridge.queued_done(asked.entry, asked.body) if stream else (),
            code_version=self._settings.code_version,
            **offloaded.limits(self._settings.timeout_s),
        )
        if spec.cache_key:
            known = await self._store.cached(spec)
            if known is not None:
                logger.debug("← %s from the cache", spec.id, extra={"call_id": spec.id})
                return spec, known
        admission = await self._store.create(spec, match=canonical(match) if match else "")
        if admission.created:
            logger.debug("→ %s accepted for %s", spec.id, spec.lane, extra={"call_id": spec.id})
            if spec.on_start and self._announced is not None:
                self._announced()
        await self._stop(admission.superseded)
        return spec, admission

    async def _with_custom_data(
        self, call: str, asked: Asked, snapshot: RequestSnapshot
    ) -> RequestSnapshot:
        """What Dash's ``custom_data`` hooks make of the request, which a worker has not."""
        if not bridge.has_custom_data(self._app):
            return snapshot
        try:
            # The thread sees `quart.request` or `quart.websocket`, as context variables.
            data = await self._threads.wrap(bridge.custom_data)(self._app, asked.body, snapshot)
        except Exception as error:
            # The user's hook: the page sees that it failed, the log has the traceback.
            logger.exception("! a custom_data hook failed for %s", asked.body.output)
            raise CallFailed(call, f"custom_data: {type(error).__name__}: {error}") from error
        return msgspec.structs.replace(snapshot, custom_data=data)

    async def _stop(self, superseded: Iterable[str]) -> None:
        """End calls that cannot say anything any more."""
        for call in superseded:
            try:
                await self._store.cancel(call, Status.SUPERSEDED)
            except StoreError as error:
                # It runs on for nobody: what it says is dropped, and its page has the newer call.
                logger.warning("! %s not stopped: %s", call, error, extra={"call_id": call})

    def _forwarded(self, snapshot: RequestSnapshot) -> RequestSnapshot:
        """What leaves this process of a request: the cookies and headers that may."""
        settings = self._settings
        cookies = _only(snapshot.cookies, settings.forward_cookies)
        headers = _only(snapshot.headers, settings.forward_headers)
        if cookies != snapshot.cookies:
            # They stand in here a second time.
            headers = {name: text for name, text in headers.items() if name.lower() != "cookie"}
        return msgspec.structs.replace(snapshot, cookies=cookies, headers=headers)

    async def identify(self, session: str, snapshot: RequestSnapshot, *, stream: bool) -> Identity:
        """Who asks.

        Raises:
            Forbidden: ``Dash(user=...)`` failed.
        """
        user_of = self._app.user_of
        if user_of is not None:
            try:
                user = str(await self._threads.wrap(user_of)(snapshot))
            except Exception as error:
                # Who cannot be told from others must not be taken for one of them.
                logger.exception("! Dash(user=...) failed")
                raise Forbidden("it cannot be told who is asking") from error
            return Identity(user, user)
        # A plain POST has a session for itself.
        return Identity.of(session if stream else snapshot.remote, snapshot)

    async def _cache_key(
        self, call: str, asked: Asked, offloaded: Offloaded, snapshot: RequestSnapshot, user: str
    ) -> str:
        """What a result depends on, as a digest; empty when it is not shared."""
        options = offloaded.options
        if options.cache is None:
            return ""
        parts: Callable[..., bytes] | Callable[..., Awaitable[bytes]] = bridge.cache_parts
        if bridge.cache_needs_thread(asked.entry):
            parts = self._threads.wrap(bridge.cache_parts)
        try:
            found = parts(self._app, asked.entry, asked.body, snapshot)
            inputs = found if isinstance(found, bytes) else await found
        except Exception as error:
            # The user's `cache_by`: the page sees that it failed, the log has the traceback.
            logger.exception("! cache_by of %s failed", asked.body.output)
            raise CallFailed(call, f"cache_by: {type(error).__name__}: {error}") from error
        scope = user if options.scope == "user" else ""
        names = [asked.body.output, offloaded.code, self._settings.code_version, scope]
        return hashlib.sha256(canonical(names).encode() + b"\0" + inputs).hexdigest()


def _only(values: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    if "*" in names:
        return values
    wanted = {name.lower() for name in names}
    return {name: value for name, value in values.items() if name.lower() in wanted}


def _instance(session: str, page: str, asked: Asked) -> str:
    """The callback instance on its page: outputs as they are asked for, or the inputs' components.

    Runs of siblings, which MATCH tells apart, do not meet.
    """
    shown = asked.body.outputs
    if asked.entry["no_output"]:
        shown = [_component(item) for item in asked.body.inputs]
    name = canonical([session, page, asked.body.output, shown])
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _component(item: Any) -> Any:
    if isinstance(item, list):
        return [_component(part) for part in item]
    return [item["id"], item["property"]]
