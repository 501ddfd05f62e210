"""Web and workers of two releases, as during a rolling deploy: they understand each other."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import orjson
import pytest

from dash_dispatch import protocol, store
from dash_dispatch.protocol import (
    CallSpec,
    Event,
    OnLeave,
    Outcome,
    Overlap,
    RequestSnapshot,
    Status,
)
from dash_dispatch.session import Signer
from tests.client import Client, LongPollClient, Message, WebsocketClient, http, post, written
from tests.conftest import StackFactory
from tests.stack import SECRET, Proc, Stack, eventually

pytestmark = pytest.mark.faults

VERSIONS = {"this": "2026.1", "next": "2026.2"}
OTHER = {"this": "next", "next": "this"}


class Deploy(NamedTuple):
    """A web process of each release."""

    stack: Stack
    webs: dict[str, str]

    def worker(self, release: str, *, wait: bool = True) -> Proc:
        """Start a worker of this release."""
        with _environment(release):
            return self.stack.worker(wait=wait, code_version=VERSIONS[release])


class Pair(NamedTuple):
    """A web process of one release, and the only worker, of the other."""

    deploy: Deploy
    address: str
    web: str
    worker: Proc

    @property
    def workers(self) -> str:
        """The worker's release."""
        return OTHER[self.web]


@contextlib.contextmanager
def _environment(release: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if release == "next":
            patch.setenv("NEXT_RELEASE", "1")
        yield


@pytest.fixture(scope="module")
def deploy(make_shared_stack: StackFactory) -> Iterator[Deploy]:
    stack = make_shared_stack("deploys", lease_s="2", processes="1")
    webs = {}
    for release, version in VERSIONS.items():
        with _environment(release):
            webs[release] = stack.web(wait=False, code_version=version)
    for address, proc in zip(webs.values(), stack.webs, strict=True):
        stack._await_web(address, proc)
    yield Deploy(stack, webs)
    for web in stack.webs:
        assert "Traceback" not in web.log, web.log


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, deploy: Deploy) -> Iterator[Pair]:
    web: str = request.param
    worker = deploy.worker(OTHER[web])
    yield Pair(deploy, deploy.webs[web], web, worker)
    worker.end()


# --- web and worker -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WebsocketClient, LongPollClient])
async def test_a_call_works(pair: Pair, kind: type[Client]) -> None:
    async with kind(pair.address) as client:
        await client.call("one", "both.children", "x")
        assert await client.children("one") == f"x by the {pair.workers} release"
        assert client.props == list(range(5))
        assert not client.seen.strays


async def test_what_goes_with_a_response_is_replayed_as_far_as_it_is_known(pair: Pair) -> None:
    async with http(pair.address) as client:
        answer = await post(client, "both.children", "baked")
        assert written(answer) == f"baked by the {pair.workers} release"
        assert answer.cookies["release"] == pair.workers


ONLY_IN = {"this": "removed", "next": "added"}


async def test_a_callback_that_only_the_web_knows_says_which_versions_run(pair: Pair) -> None:
    output = f"{ONLY_IN[pair.web]}.children"
    async with WebsocketClient(pair.address) as client, http(pair.address) as plain:
        await client.call("one", output)
        message = (await client.outcome("one"))["message"]
        answer = await post(plain, output)
        assert answer.status_code == 500
        for text in (message, answer.text, pair.worker.log):
            assert f"does not know the callback {output!r}" in text
            assert (
                f"of who asks: {VERSIONS[pair.web]}; of this worker: {VERSIONS[pair.workers]}"
                in text
            )
        assert "Traceback" not in message + answer.text


async def test_a_callback_that_only_the_worker_knows_is_refused(pair: Pair) -> None:
    """Its page comes from a web process of the other release."""
    output = f"{ONLY_IN[pair.workers]}.children"
    async with WebsocketClient(pair.address) as client:
        await client.call("one", output)
        outcome = await client.outcome("one")
        assert outcome["status"] == "error"
        assert "load it again" in outcome["message"]
        assert f"code version of this web process: {VERSIONS[pair.web]}" in outcome["message"]
        await client.call("two", "both.children", "y")
        assert await client.outcome("two")


# --- mailboxes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WebsocketClient, LongPollClient])
async def test_mail_of_a_later_release_holds_nothing_up(deploy: Deploy, kind: type[Client]) -> None:
    """What is not known is passed over; an outcome that is not known is an error."""
    redis = deploy.stack.redis.client()
    signer = Signer(SECRET, deploy.stack.namespace)
    async with kind(deploy.webs["this"]) as client:
        assert client.session is not None
        mailbox = f"{deploy.stack.namespace}:mailbox:{signer.verify(client.session)}"
        client.pending["one"] = client.pending["two"] = {}
        entry = {"p": client.page, "c": "c", "z": "more"}
        update = orjson.dumps({"componentId": "bar", "props": {"children": 1}})

        redis.xadd(mailbox, entry | {"r": "one", "k": "a kind that is not known"})
        redis.xadd(mailbox, entry | {"r": "one", "d": update})
        redis.xadd(mailbox, entry | {"r": "one", "s": "postponed", "b": "until tomorrow"})
        redis.xadd(mailbox, entry | {"r": "two", "s": "no_update", "b": ""})
        redis.publish(f"{deploy.stack.namespace}:hint:{signer.verify(client.session)}", "")

        assert (await client.outcome("two"))["status"] == "prevent_update"
        failure = client.seen.outcomes["one"]
        assert failure["status"] == "error"
        assert client.props == [1]
        assert len(client.welcomes) == 1, "the connection is the same"


# --- browser scripts ------------------------------------------------------------------------------


class NextScript(WebsocketClient):
    """The browser script of the next release, in the same version of the wire: says more."""

    async def say(self, *messages: Message) -> None:
        await super().say(*(message | {"mood": "sunny"} for message in messages))


class OldScript(WebsocketClient):
    """As it was before ``pieces``: open tabs keep their script through a deploy."""

    def hello(self) -> Message:
        return {"type": "hello", "version": 1, "session": self.session, "cursor": self.cursor}


@pytest.mark.parametrize("script", [NextScript, OldScript])
async def test_a_script_of_another_release_is_served(
    pair: Pair, script: type[WebsocketClient]
) -> None:
    async with script(pair.address) as client:
        await client.call("one", "both.children", "x")
        assert await client.children("one")
        await client.ack()
        await client.cut()
        await client.connect()
        assert client.welcomes[-1]["resumed"]


# The last with a pair: it ends the worker.
@pytest.mark.parametrize("pair", ["next"], indirect=True)
async def test_with_retries_a_call_waits_for_a_worker_that_knows_it(pair: Pair) -> None:
    async with WebsocketClient(pair.address) as client:
        await client.call("one", "patient.children", "x")
        await eventually(lambda: "again in" in pair.worker.log, "it is put off")
        pair.worker.terminate()
        new = pair.deploy.worker("next", wait=False)
        assert await client.children("one", 60) == "patient x"
        new.end()


def test_a_message_of_the_next_script_is_read_for_what_is_known() -> None:
    for message in (
        {"type": "hello", "version": 1, "session": "s", "cursor": "5-1", "pieces": True},
        {"type": "call", "page": "p", "request": "r", "payload": {"output": "a.b"}},
        {"type": "cancel", "page": "p", "request": "r"},
        {"type": "ack", "cursor": "5-0", "direct": 17},
        {"type": "props", "page": "p", "request": "q", "payload": {"value": 3}},
        {"type": "bye", "page": "p"},
        {"type": "ping"},
    ):
        known = protocol.decode_client_message(orjson.dumps(message))
        assert protocol.decode_client_message(orjson.dumps(message | {"mood": 1})) == known


# --- records of this release, which the next one has to read --------------------------------------

SPEC = CallSpec(
    id="c0ffee",
    session="s",
    page="p",
    request="r",
    output="out.children",
    lane="default:process",
    timeout_s=2.5,
    payload=b'{"output":"out.children"}',
    snapshot=b"{}",
    stream=False,
    instance="i",
    overlap=Overlap.LATEST,
    gate="g",
    limit=2,
    priority=-3,
    user="u",
    retries=4,
    backoff_s=0.5,
    on_leave=OnLeave.CANCEL,
    cache_key="k",
    cache_s=60.0,
    on_start=(b"{}",),
    code_version="2026.1",
)
WRITTEN = (
    "de0017a26964a6633066666565a773657373696f6ea173a470616765a170a772657175657374a172a66f7574"
    "707574ac6f75742e6368696c6472656ea46c616e65af64656661756c743a70726f63657373a974696d656f75"
    "745f73cb4004000000000000a77061796c6f6164c4197b226f7574707574223a226f75742e6368696c647265"
    "6e227da8736e617073686f74c4027b7da673747265616dc2a8696e7374616e6365a169a76f7665726c6170a6"
    "6c6174657374a467617465a167a56c696d697402a87072696f72697479fda475736572a175a7726574726965"
    "7304a96261636b6f66665f73cb3fe0000000000000a86f6e5f6c65617665a663616e63656ca963616368655f"
    "6b6579a16ba763616368655f73cb404e000000000000a86f6e5f737461727491c4027b7dac636f64655f7665"
    "7273696f6ea6323032362e31"
)
"""`SPEC` as this release writes it down."""


def test_a_call_with_everything_in_it() -> None:
    assert protocol.encode_spec(SPEC).hex() == WRITTEN, "an old process reads this"
    assert protocol.decode_spec(bytes.fromhex(WRITTEN)) == SPEC


def test_a_call_of_a_release_that_knows_less() -> None:
    """Everything that was added later has a default."""
    first = (
        "id",
        "session",
        "page",
        "request",
        "output",
        "lane",
        "timeout_s",
        "payload",
        "snapshot",
    )
    known = msgspec.msgpack.decode(bytes.fromhex(WRITTEN))
    old = msgspec.msgpack.encode({name: known[name] for name in first})
    assert protocol.decode_spec(old).overlap is Overlap.PARALLEL


ENTRIES: list[tuple[dict[str, bytes], Event]] = [
    (
        {"p": b"p", "r": b"r", "c": b"c", "d": b'{"componentId":"a","props":{}}'},
        Event("p", "r", "c", props=b'{"componentId":"a","props":{}}'),
    ),
    (
        {"p": b"p", "r": b"r", "c": b"c", "d": b"{}", "n": b"conn:7"},
        Event("p", "r", "c", props=b"{}", direct="conn:7"),
    ),
    (
        {"p": b"p", "r": b"q", "c": b"c", "q": b'{"type":"get_props_request"}'},
        Event("p", "q", "c", question=b'{"type":"get_props_request"}'),
    ),
    (
        {"p": b"p", "r": b"r", "c": b"c", "s": b"ok", "b": b"{}", "h": b"[]"},
        Event("p", "r", "c", Outcome(Status.OK, b"{}", b"[]")),
    ),
    (
        {"p": b"p", "r": b"r", "c": b"c", "s": b"superseded", "b": b""},
        Event("p", "r", "c", Outcome(Status.SUPERSEDED)),
    ),
]
"""Mailbox entries, as Redis has them."""


@pytest.mark.parametrize(("fields", "event"), ENTRIES)
def test_a_mailbox_entry(fields: dict[str, bytes], event: Event) -> None:
    written = {name: _bytes(value) for name, value in store._event_fields(event).items()}
    assert written == fields, "an old web process reads this"
    read = {name.encode(): value for name, value in fields.items()}
    for more in ({}, {b"z": b"of the next release"}):
        assert store._event_from(read | more, fields.get("b", b"")) == event


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def test_a_result_that_stands_aside_is_marked() -> None:
    event = Event("p", "r", "c", Outcome(Status.OK, b"large"))
    assert store._event_fields(event, aside="w1") == {
        "p": "p",
        "r": "r",
        "c": "c",
        "s": "ok",
        "a": "w1",
    }


@pytest.mark.parametrize(
    ("written", "record"),
    [
        (
            b'{"id":"c","page":"p","output":"a.b","match":"{}","on_leave":"cancel"}',
            store.ActiveCall("c", "p", "a.b", "{}", OnLeave.CANCEL),
        ),
        (b'{"id":"c","page":"p","output":"a.b"}', store.ActiveCall("c", "p", "a.b")),
        (
            b'{"cookies":{"a":"b"},"headers":{"X":"y"},"args":[["q","1"]],"path":"/?q=1",'
            b'"remote":"127.0.0.1","origin":"http://a","custom_data":"{}"}',
            RequestSnapshot(
                {"a": "b"}, {"X": "y"}, [("q", "1")], "/?q=1", "127.0.0.1", "http://a", "{}"
            ),
        ),
    ],
    ids=["active", "active with defaults", "snapshot"],
)
def test_other_records(written: bytes, record: msgspec.Struct) -> None:
    assert msgspec.json.encode(record) == written
    assert msgspec.json.decode(written, type=type(record)) == record
    later = orjson.loads(written) | {"mood": "sunny"}
    assert msgspec.json.decode(orjson.dumps(later), type=type(record)) == record


def test_a_result_that_is_shared() -> None:
    written = bytes.fromhex(SHARED)
    assert msgspec.msgpack.encode(Outcome(Status.OK, b"{}")) == written
    later = msgspec.msgpack.encode(msgspec.msgpack.decode(written) | {"mood": "sunny"})
    for blob in (written, later):
        assert msgspec.msgpack.decode(blob, type=Outcome) == Outcome(Status.OK, b"{}")


SHARED = "84a6737461747573a26f6ba4626f6479c4027b7da8726573706f6e7365c400a96c696272617269657390"
"""In ``NS:cached:{key}``."""
