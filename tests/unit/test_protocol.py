"""The wire: what is said, byte for byte, and that nothing unreadable passes a decoder."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dash_dispatch import protocol
from dash_dispatch.errors import DecodeError, ProtocolError, UnsupportedVersion
from dash_dispatch.protocol import (
    PONG,
    PUBLIC_FAILURES,
    SILENT,
    SUPPORTED_VERSIONS,
    VERSION,
    AckMessage,
    ByeMessage,
    CallbackBody,
    CallMessage,
    CallSpec,
    CancelMessage,
    ClientMessage,
    Event,
    Executor,
    Failure,
    Hello,
    Mark,
    OnLeave,
    Outcome,
    Overlap,
    PingMessage,
    PollBody,
    PropsMessage,
    SendBody,
    Status,
    call_id,
    callback_response,
    check_version,
    decode_callback_body,
    decode_client_message,
    decode_poll,
    decode_send,
    decode_spec,
    describe,
    encode_frame,
    encode_spec,
    failed,
    get_props_request,
    lane,
    message_of,
    reset,
    retry_pause_s,
    set_props,
    welcome,
)

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

# Text as JSON can carry it: everything but lone surrogates.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
DECODERS: list[Callable[[bytes], object]] = [
    decode_client_message,
    decode_send,
    decode_poll,
    decode_callback_body,
]
each_decoder = pytest.mark.parametrize("decode", DECODERS, ids=lambda d: str(d.__name__))


# --- golden messages: version 1. A failure here is a new version, not a new expectation. ---------


def test_the_version_of_the_wire() -> None:
    assert VERSION == 1
    assert {VERSION} == SUPPORTED_VERSIONS


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b'{"type":"hello","version":1,"session":null,"cursor":null,"pieces":false}', Hello(1)),
        (
            b'{"type":"hello","version":1,"session":"tok.en","cursor":"1732280000000-3",'
            b'"pieces":true}',
            Hello(1, "tok.en", "1732280000000-3", pieces=True),
        ),
        (
            b'{"type":"call","page":"p","request":"r","payload":{"output":"a.b","n":[1, 2.50]}}',
            CallMessage("p", "r", msgspec.Raw(b'{"output":"a.b","n":[1, 2.50]}')),
        ),
        (b'{"type":"cancel","page":"p","request":"r"}', CancelMessage("p", "r")),
        (b'{"type":"ack","cursor":"5-0","direct":17}', AckMessage("5-0", 17)),
        (b'{"type":"ack","cursor":null,"direct":0}', AckMessage(None, 0)),
        (
            b'{"type":"props","page":"p","request":"q","payload":{"value":3}}',
            PropsMessage("p", "q", {"value": 3}),
        ),
        (b'{"type":"bye","page":"p"}', ByeMessage("p")),
        (b'{"type":"ping"}', PingMessage()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_what_a_browser_says(wire: bytes, message: ClientMessage) -> None:
    assert decode_client_message(wire) == message
    assert decode_client_message(wire.decode()) == message, "websocket frames are text"
    assert json.loads(msgspec.json.encode(message)) == json.loads(wire), "and nothing is left out"


def test_what_a_browser_may_leave_out() -> None:
    assert decode_client_message(b'{"type":"hello","version":1}') == Hello(1, None, None)
    assert decode_client_message(b'{"type":"ack"}') == AckMessage(None, 0)


def test_a_later_script_may_say_more() -> None:
    assert decode_client_message(b'{"type":"ping","since":1}') == PingMessage()


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (
            b'{"version":1,"session":null,"messages":[{"type":"hello","version":1},'
            b'{"type":"bye","page":"p"}]}',
            SendBody(1, None, [Hello(1), ByeMessage("p")]),
        ),
        (b'{"version":1,"session":"t","messages":[]}', SendBody(1, "t", [])),
    ],
)
def test_a_send_body(wire: bytes, body: SendBody) -> None:
    assert decode_send(wire) == body


def test_a_poll_body() -> None:
    wire = b'{"version":1,"session":"t","cursor":"5-1"}'
    assert decode_poll(wire) == PollBody(1, "t", "5-1")
    assert decode_poll(b'{"version":1,"session":"t","cursor":null}') == PollBody(1, "t")


def test_a_callback_request_of_dash() -> None:
    wire = (
        b'{"output":"a.b","outputs":{"id":"a","property":"b"},"inputs":[{"id":"i","property":"v",'
        b'"value":1}],"changedPropIds":["i.v"],"state":[],"parsedChangedPropsIds":["i.v"]}'
    )
    body = decode_callback_body(wire)
    assert body == CallbackBody(
        "a.b",
        {"id": "a", "property": "b"},
        [{"id": "i", "property": "v", "value": 1}],
        [],
        ["i.v"],
    )
    assert decode_callback_body(msgspec.Raw(wire)) == body


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (
            welcome("tok", resumed=False, connection="c0"),
            b'{"type":"welcome","version":1,"session":"tok","resumed":false,"connection":"c0"}',
        ),
        (
            welcome("tok", resumed=True, connection="c1"),
            b'{"type":"welcome","version":1,"session":"tok","resumed":true,"connection":"c1"}',
        ),
        (
            set_props("p", b'{"componentId":"c","props":{"value":1}}', "c1:7"),
            b'{"type":"set_props","rendererId":"p",'
            b'"payload":{"componentId":"c","props":{"value":1}},"direct":"c1:7"}',
        ),
        (reset("because"), b'{"type":"reset","reason":"because"}'),
        (PONG, b'{"type":"pong"}'),
        (
            set_props("p", b'{"componentId":"c","props":{"value":1}}'),
            b'{"type":"set_props","rendererId":"p",'
            b'"payload":{"componentId":"c","props":{"value":1}}}',
        ),
        (
            set_props("p", b"{}", "c0:7"),
            b'{"type":"set_props","rendererId":"p","payload":{},"direct":"c0:7"}',
        ),
        (
            set_props("p", b"{}", "c0:7", "r1"),
            b'{"type":"set_props","rendererId":"p","payload":{},"direct":"c0:7","requestId":"r1"}',
        ),
        (
            get_props_request("p", "q", "c", "value"),
            b'{"type":"get_props_request","rendererId":"p","requestId":"q",'
            b'"payload":{"componentId":"c","properties":["value"]}}',
        ),
        (
            callback_response("p", "r", Outcome(Status.OK, b'{"multi":true}'), debug=False),
            b'{"type":"callback_response","rendererId":"p","requestId":"r",'
            b'"payload":{"status":"ok","data":{"multi":true}}}',
        ),
        (
            callback_response("p", "r", failed(Status.TIMED_OUT, "TimedOut", "late"), debug=False),
            b'{"type":"callback_response","rendererId":"p","requestId":"r",'
            b'"payload":{"status":"error","message":"late"}}',
        ),
    ],
)
def test_what_a_browser_is_told(message: bytes, wire: bytes) -> None:
    assert message == wire


@pytest.mark.parametrize("status", sorted(SILENT))
def test_an_outcome_that_changes_nothing_is_a_prevented_update(status: Status) -> None:
    assert callback_response("p", "r", Outcome(status), debug=True) == (
        b'{"type":"callback_response","rendererId":"p","requestId":"r",'
        b'"payload":{"status":"prevent_update"}}'
    )


def test_a_frame() -> None:
    pairs: list[tuple[Mark, bytes]] = [("5-1", b'{"a":1}'), (3, b"[]"), (None, PONG)]
    assert encode_frame(pairs) == b'[["5-1",{"a":1}],[3,[]],[null,{"type":"pong"}]]'
    assert encode_frame([]) == b"[]"


def test_the_words_that_redis_keeps() -> None:
    # An old web process and a new worker meet in Redis: for one release, these mean the same.
    assert [str(status) for status in Status] == [
        "ok",
        "no_update",
        "failed",
        "timed_out",
        "cancelled",
        "superseded",
        "worker_lost",
        "expired",
    ]
    assert [str(executor) for executor in Executor] == ["loop", "thread", "process"]
    assert lane("default", Executor.PROCESS) == "default:process"
    assert call_id("session", "page", "request") == "e03505131f6377b1b1b232fec27e8d92"
    assert [str(overlap) for overlap in Overlap] == ["latest", "queue", "parallel", "drop"]
    assert [str(choice) for choice in OnLeave] == ["keep", "cancel"]
    assert failed(Status.FAILED, "T", "m", traceback="tb", call="c", worker="w").body == (
        b'{"type":"T","message":"m","traceback":"tb","call":"c","worker":"w"}'
    )


SPEC = CallSpec("id", "s", "p", "r", "out.children", "default:loop", 2.5, b"{}", b"{}")
WRITTEN = bytes.fromhex(
    "de0009a26964a26964a773657373696f6ea173a470616765a170a772657175657374a172a66f7574707574"
    "ac6f75742e6368696c6472656ea46c616e65ac64656661756c743a6c6f6f70a974696d656f75745f73"
    "cb4004000000000000a77061796c6f6164c4027b7da8736e617073686f74c4027b7d"
)


def test_a_call_as_it_is_written_down() -> None:
    assert encode_spec(SPEC) == WRITTEN, "an older process reads this, for one release"
    assert decode_spec(WRITTEN) == SPEC


def test_a_call_of_a_later_release_is_read_for_what_is_known() -> None:
    later = msgspec.msgpack.decode(WRITTEN) | {"mood": "sunny", "retries": 3}
    assert decode_spec(msgspec.msgpack.encode(later)) == msgspec.structs.replace(SPEC, retries=3)


@pytest.mark.parametrize("change", [{"payload": "text"}, {"timeout_s": "1"}, {"overlap": "all"}])
def test_a_forged_call_is_refused(change: dict[str, object]) -> None:
    forged = msgspec.msgpack.decode(WRITTEN) | change
    with pytest.raises(DecodeError, match="not the record of a call"):
        decode_spec(msgspec.msgpack.encode(forged))
    with pytest.raises(DecodeError):
        decode_spec(WRITTEN[:-1])


@given(st.floats(0.001, 1e6), st.integers(1, 200))
def test_a_retry_waits_longer_each_time_up_to_a_minute(backoff_s: float, attempt: int) -> None:
    longest_s = max(min(backoff_s * 2.0 ** min(attempt - 1, 30), 60.0), min(backoff_s, 1e6))
    assert longest_s / 2 <= retry_pause_s(backoff_s, attempt) <= longest_s


# --- what cannot be read -------------------------------------------------------------------------

UNREADABLE = {
    "empty": b"",
    "not JSON": b"hello",
    "truncated": b'{"type":"hello","vers',
    "trailing": b'{"type":"ping"} x',
    "a list": b"[]",
    "null": b"null",
    "no type": b"{}",
    "unknown type": b'{"type":"shout"}',
    "type twice": b'{"type":1,"type":"shout"}',
    "not a string": b'{"type":"bye","page":1}',
    "missing field": b'{"type":"cancel","page":"p"}',
    "version is text": b'{"type":"hello","version":"1"}',
    "version is a fraction": b'{"type":"hello","version":1.5}',
    "version is NaN": b'{"type":"hello","version":NaN}',
    "infinite": b'{"type":"ack","direct":1e999}',
    "huge": b'{"type":"ack","direct":1' + b"0" * 5000 + b"}",
    "not UTF-8": b'{"type":"bye","page":"\xff\xfe"}',
    "half a surrogate pair": b'{"type":"bye","page":"\\ud800"}',
    "control character": b'{"type":"bye","page":"\x00"}',
    "deep": b'{"type":"props","page":"p","request":"r","payload":' + b"[" * 100_000,
    "deep objects": b'{"type":"call","page":"p","request":"r","payload":' + b'{"a":' * 100_000,
}


@pytest.mark.parametrize("wire", UNREADABLE.values(), ids=UNREADABLE.keys())
@each_decoder
def test_the_unreadable_is_a_decode_error(decode: Callable[[bytes], object], wire: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(wire)


def test_text_that_utf_8_cannot_hold_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode_client_message('{"type":"bye","page":"\ud800"}')


def test_deep_but_balanced_payloads_never_end_the_process() -> None:
    nested = b'{"output":"a.b","inputs":[' + b"[" * 50_000 + b"]" * 50_000 + b"]}"
    with pytest.raises(DecodeError):
        decode_callback_body(nested)
    # A call's payload is passed over as it is: what it holds is read at the next step.
    call = b'{"type":"call","page":"p","request":"r","payload":' + nested + b"}"
    try:
        message = decode_client_message(call)
    except DecodeError:
        return
    assert isinstance(message, CallMessage)
    with pytest.raises(DecodeError):
        decode_callback_body(message.payload)


@pytest.mark.parametrize("payload", [b"{}", b'{"output":1}', b'{"output":"a.b","inputs":{}}'])
def test_what_is_not_a_callback_request(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="callback request"):
        decode_callback_body(payload)


@pytest.mark.parametrize("version", [0, 2, -1, 2**63])
def test_a_version_that_is_not_spoken_is_named(version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=rf"version {version}.*\[1\]"):
        check_version(version)
    for decode, more in ((decode_send, ""), (decode_poll, ',"session":"t"')):
        with pytest.raises(UnsupportedVersion):
            decode(b'{"version":%d%b}' % (version, more.encode()))


@each_decoder
def test_whatever_comes_is_read_or_refused(decode: Callable[[bytes], object]) -> None:
    pieces = st.sampled_from(
        [b'{"type":"', b"hello", b"call", b'"', b":", b",", b"{", b"}", b"[", b"]", b"1", b"-",
         b"1e400", b"NaN", b"\\ud800", b"\\u0000", b"\xff", b'"version":1', b'"page":"p"', b"null"]
    )  # fmt: skip

    @quick
    @given(
        st.binary(max_size=40)
        | st.lists(pieces, max_size=12).map(b"".join)
        | json_values.map(lambda value: json.dumps(value).encode())
    )
    def fuzz(wire: bytes) -> None:
        try:
            decode(wire)
        except ProtocolError:
            return

    fuzz()


@each_decoder
def test_a_message_that_was_cut_or_garbled_is_read_or_refused(
    decode: Callable[[bytes], object],
) -> None:
    whole = (
        b'{"type":"call","version":1,"session":"t","page":"p","request":"r","cursor":"1-0",'
        b'"output":"a.b","inputs":[{"id":"i","property":"v"}],"payload":{"x":"\\u00e9"},'
        b'"messages":[{"type":"ack","cursor":"1-1","direct":3}]}'
    )

    @quick
    @given(st.integers(0, len(whole)), st.integers(0, len(whole)), st.binary(max_size=3))
    def fuzz(start: int, end: int, graft: bytes) -> None:
        try:
            decode(whole[:start] + graft + whole[end:])
        except ProtocolError:
            return

    fuzz()


# --- round trips ---------------------------------------------------------------------------------

cursors = st.none() | st.builds("{}-{}".format, st.integers(0, 2**64), st.integers(0, 99))
messages = st.one_of(
    st.builds(Hello, st.integers(0, 2**31), st.none() | text, cursors),
    st.builds(
        CallMessage,
        text,
        text,
        json_values.map(lambda value: msgspec.Raw(json.dumps(value).encode())),
    ),
    st.builds(CancelMessage, text, text),
    st.builds(AckMessage, cursors, st.integers(0, 2**53)),
    st.builds(PropsMessage, text, text, st.dictionaries(text, json_values, max_size=3)),
    st.builds(ByeMessage, text),
    st.just(PingMessage()),
)


@quick
@given(messages)
def test_every_message_survives_the_wire(message: ClientMessage) -> None:
    wire = msgspec.json.encode(message)
    assert decode_client_message(wire) == message
    assert decode_client_message(wire.decode()) == message


@quick
@given(st.lists(messages, max_size=4), st.none() | text)
def test_every_send_body_survives_the_wire(said: list[ClientMessage], session: str | None) -> None:
    body = SendBody(VERSION, session, said)
    assert decode_send(msgspec.json.encode(body)) == body


@quick
@given(text, text, st.sampled_from(list(Status)), json_values, st.booleans())
@example(page='"', request="\\", status=Status.OK, value="\u2028", debug=False)
def test_frames_of_any_events_are_json(
    page: str, request: str, status: Status, value: Any, debug: bool
) -> None:
    body = json.dumps(value).encode()
    outcome = Outcome(status, body)
    if status is not Status.OK and status not in SILENT:
        outcome = failed(status, "Kind", json.dumps(value), call="c")
    events = [
        Event(page, request, "c", outcome),
        Event(page, request, "c", props=body),
        Event(page, request, "c", question=get_props_request(page, request, "c", "p")),
    ]
    pairs: list[tuple[Mark, bytes]] = [
        (mark, message_of(event, debug=debug))
        for mark, event in zip(["5-1", 7, None], events, strict=True)
    ]
    frame = json.loads(encode_frame(pairs))
    assert [mark for mark, _ in frame] == ["5-1", 7, None]
    assert [message["type"] for _, message in frame] == [
        "callback_response",
        "set_props",
        "get_props_request",
    ]
    assert all(message["rendererId"] == page for _, message in frame)
    answer = frame[0][1]
    assert answer["requestId"] == request
    assert answer["payload"]["status"] in ("ok", "prevent_update", "error")
    if status is Status.OK:
        assert answer["payload"]["data"] == value


@quick
@given(st.binary(max_size=30), text, text, st.booleans())
def test_a_call_and_its_outcome_survive_the_way_to_a_process(
    body: bytes, page: str, output: str, stream: bool
) -> None:
    spec = CallSpec("i", "s", page, "r", output, "l", 1.5, body, body, stream)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=CallSpec) == spec
    outcome = Outcome(Status.OK, body, body)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=Outcome) == outcome


@quick
@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_a_call_id_names_one_request_of_one_page_of_one_session(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert call_id(*one) == call_id(*one)
    if "\0" not in "".join(one + other):
        assert (call_id(*one) == call_id(*other)) == (one == other)


# --- what an error tells -------------------------------------------------------------------------

SECRET = Failure("KeyError", "the secret", "File secret.py", call="c0ffee", worker="host:1:abc")


def test_production_hides_what_user_code_said() -> None:
    words = describe(SECRET, debug=False)
    assert words == "The callback failed. The server's log has the details (call c0ffee)."


def test_the_dev_tools_show_everything() -> None:
    assert describe(SECRET, debug=True) == (
        "KeyError: the secret\n\ncall c0ffee, worker host:1:abc\n\nFile secret.py"
    )


@pytest.mark.parametrize("kind", sorted(PUBLIC_FAILURES))
def test_production_shows_our_own_words(kind: str) -> None:
    failure = Failure(kind, "our words", "a traceback", call="c", worker="w")
    assert describe(failure, debug=False) == "our words"


@quick
@given(text.filter(lambda kind: kind not in PUBLIC_FAILURES), text.filter(lambda t: len(t) > 3))
def test_production_hides_every_other_failure(kind: str, secret: str) -> None:
    failure = Failure(kind, f"<{secret}>", f"<{secret}>", call="c", worker=f"<{secret}>")
    assert f"<{secret}>" not in describe(failure, debug=False)


@pytest.mark.parametrize("name", ["TimedOut", "WorkerLost"])
def test_user_code_cannot_name_its_way_into_production(name: str) -> None:
    """An exception class of the user's that bears one of our names is still the user's."""
    error = type(name, (Exception,), {})("a secret")
    from dash_dispatch import bridge

    outcome = bridge.outcome_of_error(error, "c", "w")
    assert "a secret" not in describe(outcome.failure, debug=False)


def test_an_outcome_without_an_error_has_no_failure() -> None:
    with pytest.raises(msgspec.DecodeError):
        _ = Outcome(Status.CANCELLED).failure


def test_messages_are_frozen() -> None:
    frozen = [
        value
        for value in vars(protocol).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == protocol.__name__
    ]
    assert len(frozen) > 10
    assert all(value.__struct_config__.frozen for value in frozen)
