"""The wire: every message between browser, web and worker, as a frozen type, with its coding.

Three languages meet here:

* what a **browser script** sends (`ClientMessage`) and is sent (frames, see `encode_frame`);
* what a **worker** writes into a mailbox (`Event`) and a web process reads back;
* what a web process writes down about a **call** for the worker (`CallSpec`, `RequestSnapshot`).

``VERSION`` counts the browser's language. A release understands its own version and the one
before, because an open tab keeps its script through a deploy.

A result is never parsed on its way: a worker makes the final JSON text, and the web process puts
it between two constant strings. Decoding is msgspec's: typed, and strict about what it reads.
"""

import enum
import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, TypeVar

import msgspec
import orjson

from dash_dispatch.errors import DecodeError, UnsupportedVersion

_T = TypeVar("_T")

VERSION: Final = 1
SUPPORTED_VERSIONS: Final = frozenset({1})

# --- browser -> web -----------------------------------------------------------------------------


Name = Annotated[str, msgspec.Meta(max_length=200)]
"""What a browser calls its pages and requests (some 30 characters). It is kept for as long as the
page is open, so it is bounded."""

Handle = Annotated[str, msgspec.Meta(max_length=1000)]
Cursor = Annotated[str, msgspec.Meta(max_length=100)]


class Hello(msgspec.Struct, frozen=True, tag="hello", tag_field="type"):
    """First words on a connection: who I am, and the last mailbox entry that I have.

    ``pieces``: I can put a frame together that comes in `pieces`.
    """

    version: int
    session: Handle | None = None
    cursor: Cursor | None = None
    pieces: bool = False


class CallMessage(msgspec.Struct, frozen=True, tag="call", tag_field="type", omit_defaults=True):
    """Run a callback. Safe to repeat: page and request name one call of a session.

    ``age_s``: said when it is repeated: for how long the page has been waiting. ``lost_session``:
    said when it was sent in a session that is not to be had any more: it may have run there.
    """

    page: Name
    request: Name
    payload: msgspec.Raw
    age_s: float = 0.0
    lost_session: bool = False


class CancelMessage(msgspec.Struct, frozen=True, tag="cancel", tag_field="type"):
    """The page no longer wants the answer to this request."""

    page: Name
    request: Name


class AckMessage(msgspec.Struct, frozen=True, tag="ack", tag_field="type"):
    """Everything up to this entry, and up to this direct message, has been received."""

    cursor: Cursor | None = None
    direct: int = 0


class PropsMessage(msgspec.Struct, frozen=True, tag="props", tag_field="type"):
    """The answer to ``get_props_request``."""

    page: Name
    request: Name
    payload: dict[str, Any]


class ByeMessage(msgspec.Struct, frozen=True, tag="bye", tag_field="type"):
    """The page has gone."""

    page: Name


class PingMessage(msgspec.Struct, frozen=True, tag="ping", tag_field="type"):
    """Is anybody there?"""


ClientMessage = (
    Hello | CallMessage | CancelMessage | AckMessage | PropsMessage | ByeMessage | PingMessage
)


class SendBody(msgspec.Struct, frozen=True):
    """Body of a long-poll client's ``send``."""

    version: int
    session: Handle | None = None
    messages: list[ClientMessage] = []


class PollBody(msgspec.Struct, frozen=True):
    """Body of a long-poll client's ``poll``; the cursor acknowledges."""

    version: int
    session: Handle
    cursor: Cursor | None = None


class CallbackBody(msgspec.Struct, frozen=True):
    """What Dash's renderer posts to run a callback, as far as it has to be well-formed."""

    output: str
    outputs: Any = None
    inputs: list[Any] = []
    state: list[Any] | None = None
    changedPropIds: list[str] = []  # noqa: N815 - Dash's own name on the wire


_client_message = msgspec.json.Decoder(ClientMessage)
_send_body = msgspec.json.Decoder(SendBody)
_poll_body = msgspec.json.Decoder(PollBody)
_callback_body = msgspec.json.Decoder(CallbackBody)


SAFE_BRACKETS: Final = 500
"""A request with fewer brackets than this cannot be nested too deep."""


def _decode(decoder: "msgspec.json.Decoder[_T]", data: bytes | str, what: str) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"not {what}: {legible(str(error))}") from error


MAX_QUOTED: Final = 200


def legible(text: str) -> str:
    """What a stranger has written, as it may stand in a log: one line, bounded.

    Whoever could write lines of their own there could write what never happened.
    """
    return ascii(text[:MAX_QUOTED])[1:-1] + ("…" if len(text) > MAX_QUOTED else "")


def decode_client_message(data: bytes | str) -> ClientMessage:
    """Read one websocket message.

    Raises:
        DecodeError: Not JSON, or not a message of this protocol.
    """
    message: ClientMessage = _decode(_client_message, data, "a message of this protocol")
    return message


def decode_send(data: bytes) -> SendBody:
    """Read a ``send`` body. Raises `DecodeError`, `UnsupportedVersion`."""
    body = _decode(_send_body, data, "a send body")
    check_version(body.version)
    return body


def decode_poll(data: bytes) -> PollBody:
    """Read a ``poll`` body. Raises `DecodeError`, `UnsupportedVersion`."""
    body = _decode(_poll_body, data, "a poll body")
    check_version(body.version)
    return body


def decode_callback_body(data: bytes | msgspec.Raw) -> CallbackBody:
    """Read a callback request of Dash's renderer.

    Raises:
        DecodeError: Not a JSON object with a string ``output`` and lists of inputs and state, or
            nested so deep that those who get it could not handle it.
    """
    raw = bytes(data)
    if raw.count(b"[") + raw.count(b"{") > SAFE_BRACKETS:
        try:
            # Refuses what is deeper than 1024; msgspec goes as deep as this Python's stack.
            orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise DecodeError(f"not a callback request: {legible(str(error))}") from error
    return _decode(_callback_body, raw, "a callback request")


def check_version(version: int) -> None:
    """Raises `UnsupportedVersion` for a script that this release cannot talk to."""
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(
            f"protocol version {version}; this server speaks {sorted(SUPPORTED_VERSIONS)}"
        )


# --- worker -> mailbox -> web -------------------------------------------------------------------


class Status(enum.StrEnum):
    """How a call ended. Exactly one per call."""

    OK = "ok"
    NO_UPDATE = "no_update"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    WORKER_LOST = "worker_lost"
    EXPIRED = "expired"


SILENT: Final = frozenset({Status.NO_UPDATE, Status.CANCELLED, Status.SUPERSEDED})
"""Outcomes that change nothing on the page and are no error there."""


class Failure(msgspec.Struct, frozen=True):
    """The body of an outcome that is an error.

    ``traceback`` is shown in the dev tools and never in production.
    """

    type: str
    message: str
    traceback: str = ""
    call: str = ""
    worker: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """A call's last event.

    ``body`` is the JSON text that Dash's callback made (status ok), an encoded `Failure`
    (an error), or empty. ``response`` is JSON of the cookies and headers that the callback set, for
    transports that can carry them. ``libraries`` are the component libraries that its process has
    imported since its start, and whose files the body lets the page load.
    """

    status: Status
    body: bytes = b""
    response: bytes = b""
    libraries: tuple[str, ...] = ()

    @property
    def failure(self) -> Failure:
        """The error. Only for outcomes whose status is one."""
        return msgspec.json.decode(self.body, type=Failure)


def failed(
    status: Status,
    kind: str,
    message: str,
    *,
    traceback: str = "",
    call: str = "",
    worker: str = "",
) -> Outcome:
    """An outcome that is an error."""
    failure = Failure(type=kind, message=message, traceback=traceback, call=call, worker=worker)
    return Outcome(status, msgspec.json.encode(failure))


class Event(msgspec.Struct, frozen=True):
    """One mailbox entry: something that happened to a call of this page.

    Attributes:
        page: The page it is for.
        request: The request that asked for the call.
        call: The call id.
        outcome: Set on a call's last event.
        props: JSON text of ``{"componentId": …, "props": …}``: a ``set_props``.
        question: A ``get_props_request``, as it goes to the page.
        direct: Set when it was sent directly before it went by mail: ``connection:number``, by
            which the browser knows whether it has it.
    """

    page: str
    request: str
    call: str
    outcome: Outcome | None = None
    props: bytes = b""
    question: bytes = b""
    direct: str = ""


# --- web -> worker ------------------------------------------------------------------------------


class Overlap(enum.StrEnum):
    """What a new run of a callback instance does while an earlier one has not ended."""

    LATEST = "latest"
    """It supersedes the earlier one, which is cancelled and never shown."""
    QUEUE = "queue"
    """It waits for the earlier one; each is shown."""
    PARALLEL = "parallel"
    """Both run; each is shown when it ends."""
    DROP = "drop"
    """It is not run: the earlier one goes on."""


class OnLeave(enum.StrEnum):
    """What becomes of a call whose page has gone."""

    KEEP = "keep"
    CANCEL = "cancel"


class RequestSnapshot(msgspec.Struct, frozen=True):
    """What a callback can ask of its request, carried to wherever it runs.

    ``custom_data`` is JSON of what the app's hooks of that name have made of the request; empty
    where they have not been asked.
    """

    cookies: dict[str, str] = {}
    headers: dict[str, str] = {}
    args: list[tuple[str, str]] = []
    path: str = ""
    remote: str = ""
    origin: str = ""
    custom_data: str = ""


class CallSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call as it is written down: everything that a worker needs to run it.

    Encoded with MessagePack (`encode_spec`). What a later release adds has a default, and what
    this one does not know is passed over, so that old and new processes read each other's.

    Attributes:
        id: Derived from session, page and request (`call_id`), so that a repeated request is one
            call.
        session: Whose mailbox its events go to.
        page, request: Names given by the page's renderer.
        output: Dash's id of the callback, or the name of a task (`run`).
        lane: Queue and executor, see `lane`.
        timeout_s: The time limit of one run, in seconds.
        payload: The renderer's request, as it came; a task's arguments.
        snapshot: An encoded `RequestSnapshot`.
        stream: Whether ``set_props`` is sent as it happens (else with the result).
        instance: The callback instance on its page: runs of the same one overlap. Empty for
            calls that never meet.
        overlap: What a run does to another of its instance, see `Overlap`.
        gate: The concurrency limit that it comes under; empty for none.
        limit: How many calls of that gate may run at once.
        priority: -10 (last) to 10 (first).
        user: Who it is for: users take turns.
        retries: How often it may be run again after an exception or the loss of its worker.
        backoff_s: Pause before the first of these runs; doubled for each that follows.
        on_leave: Whether it is cancelled when its page goes.
        cache_key: Under which its result is shared; empty for not at all.
        cache_s: For how long.
        on_start: JSON texts of ``set_props`` that are sent when it starts (``queued=`` ends).
        code_version: That of the process that asks, to tell where the code differs.
    """

    id: str
    session: str
    page: str
    request: str
    output: str
    lane: str
    timeout_s: float
    payload: bytes
    snapshot: bytes
    stream: bool = True
    instance: str = ""
    overlap: Overlap = Overlap.PARALLEL
    gate: str = ""
    limit: int = 0
    priority: int = 0
    user: str = ""
    retries: int = 0
    backoff_s: float = 1.0
    on_leave: OnLeave = OnLeave.KEEP
    cache_key: str = ""
    cache_s: float = 0.0
    on_start: tuple[bytes, ...] = ()
    code_version: str = ""


_spec_decoder = msgspec.msgpack.Decoder(CallSpec)


def encode_spec(spec: CallSpec) -> bytes:
    """A call, as it is written down."""
    return msgspec.msgpack.encode(spec)


def decode_spec(data: bytes) -> CallSpec:
    """Read a call that was written down.

    Raises:
        DecodeError: Not a call: somebody else writes to this Redis, or a release too far away.
    """
    try:
        return _spec_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"not the record of a call: {error}") from error


def call_id(session: str, page: str, request: str) -> str:
    """The id of the call that this request of this page asks for: 32 hexadecimal digits.

    The session is part of it, and a secret: who has somebody else's names of page and request, from
    a log, asks with them for a call of his own, and cannot tell whether there is another.
    """
    return hashlib.sha256(f"{session}\0{page}\0{request}".encode()).hexdigest()[:32]


MAX_PAUSE_S: Final = 60.0


def retry_pause_s(backoff_s: float, attempt: int) -> float:
    """How long a call waits after this attempt (from 1): doubled each time, up to a minute.

    Spread over the upper half, so that calls that failed together do not come back together.
    """
    longest_s = min(backoff_s * 2.0 ** min(attempt - 1, 30), max(MAX_PAUSE_S, backoff_s))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - a spread, not a secret


class Executor(enum.StrEnum):
    """Where in a worker a callback runs."""

    LOOP = "loop"
    THREAD = "thread"
    PROCESS = "process"


def lane(queue: str, executor: Executor) -> str:
    """Calls wait per queue and executor, so that a worker claims only what it can start now."""
    return f"{queue}:{executor}"


# --- web -> browser -----------------------------------------------------------------------------

Mark = str | int | None
"""A mailbox entry id, a direct message's number, or nothing (control)."""


def encode_frame(pairs: Iterable[tuple[Mark, bytes]]) -> bytes:
    """A frame: a JSON array of ``[mark, message]``; the messages are JSON text already."""
    # Large at times: joined once.
    parts: list[bytes] = []
    for mark, text in pairs:
        parts += (b",[" if parts else b"[[", orjson.dumps(mark), b",", text, b"]")
    return b"".join((*parts, b"]")) if parts else b"[]"


def slices(text: bytes, size: int) -> Iterator[bytes]:
    """A text in parts of about ``size`` bytes, none of which ends in the middle of a character."""
    start = 0
    while start < len(text):
        end = start + size
        # A character has at most four bytes.
        while start + size - end < 3 and end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        yield text[start:end]
        start = end


def pieces(mark: Mark, text: bytes, size: int) -> Iterator[str]:
    """A frame of one large message, as several websocket messages of about ``size`` bytes.

    All but the last begin with ``+``, the last with ``=``; what follows these is put together.
    A server packs a message as a whole, in one go, and nobody else's turn comes meanwhile: half a
    second for 20 MB.
    """
    yield f"+[[{orjson.dumps(mark).decode()},"
    for part in slices(text, size):
        yield f"+{part.decode()}"
    yield "=]]"


def welcome(token: str, *, resumed: bool, connection: str = "") -> bytes:
    """Answer to `Hello`. The connection's name is what ``Event.direct`` refers to."""
    message = {"type": "welcome", "version": VERSION, "session": token, "resumed": resumed}
    return orjson.dumps(message | ({"connection": connection} if connection else {}))


def reset(reason: str) -> bytes:
    """Tell the browser that its session is not valid (any more)."""
    return orjson.dumps({"type": "reset", "reason": reason})


PONG: Final = b'{"type":"pong"}'


def set_props(page: str, props: bytes, direct: str = "", request: str = "") -> bytes:
    """A component update, from its JSON text, and the request whose callback makes it."""
    mark = b',"direct":%b' % orjson.dumps(direct) if direct else b""
    mark += b',"requestId":%b' % orjson.dumps(request) if request else b""
    return b'{"type":"set_props","rendererId":%b,"payload":%b%b}' % (
        orjson.dumps(page),
        props,
        mark,
    )


def get_props_request(page: str, request: str, component: str, prop: str) -> bytes:
    """Ask the page for a component's property."""
    return orjson.dumps(
        {
            "type": "get_props_request",
            "rendererId": page,
            "requestId": request,
            "payload": {"componentId": component, "properties": [prop]},
        }
    )


def callback_response(page: str, request: str, outcome: Outcome, *, debug: bool) -> bytes:
    """What Dash's renderer expects as the answer to a callback.

    Args:
        page: The renderer's id.
        request: Its request's id.
        outcome: How the call ended.
        debug: Whether error details may be shown in the browser.
    """
    head = b'{"type":"callback_response","rendererId":%b,"requestId":%b,"payload":' % (
        orjson.dumps(page),
        orjson.dumps(request),
    )
    if outcome.status is Status.OK:
        # Large at times: joined once.
        return b"".join((head, b'{"status":"ok","data":', outcome.body, b"}}"))
    if outcome.status in SILENT:
        return head + b'{"status":"prevent_update"}}'
    message = describe(outcome.failure, debug=debug)
    return head + orjson.dumps({"status": "error", "message": message}) + b"}"


def message_of(event: Event, *, debug: bool) -> bytes:
    """An event as Dash's renderer takes it."""
    if event.outcome is not None:
        return callback_response(event.page, event.request, event.outcome, debug=debug)
    if event.question:
        return event.question
    if not event.props:
        # Of a kind that only a later release knows. The page passes over it, as we do.
        return orjson.dumps({"type": "dd:unknown", "rendererId": event.page})
    return set_props(event.page, event.props, event.direct, event.request)


def describe(failure: Failure, *, debug: bool) -> str:
    """An error in words for the browser.

    In production the words of user code and of the server stay in the log; the call id leads
    there.
    """
    if not debug:
        if failure.type in PUBLIC_FAILURES:
            return failure.message
        return f"The callback failed. The server's log has the details (call {failure.call})."
    where = f"\n\ncall {failure.call}" + (f", worker {failure.worker}" if failure.worker else "")
    detail = f"\n\n{failure.traceback}" if failure.traceback else ""
    return f"{failure.type}: {failure.message}{where}{detail}"


UNKNOWN_CODE: Final = "UnknownCode"
"""The failure of a call that the worker's code has nothing for."""

PUBLIC_FAILURES: Final = frozenset(
    {
        "TimedOut",
        "WorkerLost",
        "QueueFull",
        "PayloadTooLarge",
        "StoreUnavailable",
        "CallExpired",
        "NotOffloaded",
        UNKNOWN_CODE,
    }
)
"""Failures whose message is ours and says nothing about the app's inside."""
