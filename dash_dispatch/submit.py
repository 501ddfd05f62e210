"""Admission: from a renderer's request to an accepted call, or a clear refusal."""

import logging
from typing import Any

import msgspec

from dash_dispatch import bridge
from dash_dispatch.config import Settings
from dash_dispatch.errors import BadRequest, DecodeError, NotOffloaded, PayloadTooLarge
from dash_dispatch.offload import Offloaded
from dash_dispatch.protocol import (
    CallbackBody,
    CallSpec,
    RequestSnapshot,
    call_id,
    decode_callback_body,
    lane,
)
from dash_dispatch.store import Admission, Store

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
            raise NotOffloaded(f"this app has no callback for {body.output!r}")
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
                f"the callback {body.output!r} has {len(wanted)} {what}; got {len(given)}"
            )
        for item in given:
            if not _is_dependency(item):
                raise BadRequest(f"not a component's property among the {what}")
    if not bridge.outputs_match(entry, body.outputs):
        raise BadRequest(f"the outputs are not those of the callback {body.output!r}")


def _is_dependency(item: object) -> bool:
    if isinstance(item, list):
        return all(_is_dependency(part) for part in item)
    return isinstance(item, dict) and "id" in item and "property" in item


class Submitter:
    """Hands offloaded callbacks to the workers."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

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
    ) -> tuple[CallSpec, Admission]:
        """Accept a call.

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
        spec = CallSpec(
            id=call_id(page, request),
            session=session,
            page=page,
            request=request,
            output=asked.body.output,
            lane=lane(offloaded.options.queue, offloaded.executor),
            timeout_s=offloaded.options.timeout or self._settings.timeout_s,
            payload=asked.raw,
            snapshot=msgspec.json.encode(snapshot),
            stream=stream,
        )
        admission = await self._store.create(spec)
        if admission.created:
            logger.debug("→ %s accepted for %s", spec.id, spec.lane, extra={"call_id": spec.id})
        return spec, admission
