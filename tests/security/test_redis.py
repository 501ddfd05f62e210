"""Redis: encrypted, as a user with few rights; what stands in it; what is forged."""

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from dash_dispatch import connection
from dash_dispatch.config import Settings
from dash_dispatch.errors import StoreUnavailable
from dash_dispatch.store import Store
from tests.client import Client, LongPollClient, WebsocketClient, http, post, written
from tests.programs import require_program
from tests.stack import Proc, RedisServer, Stack, eventually, free_port, wait_for

NAMESPACE = "guarded"
PASSWORD = "password-canary-5f0c"
ADMIN = "admin-canary-77aa"
COOKIE = "cookie-canary-91d2"
HEADER = "header-canary-33be"
SECRET_KEY = "secret-key-canary-8e41"
CANARIES = (PASSWORD, ADMIN, COOKIE, HEADER, SECRET_KEY)

ACL = f"~{NAMESPACE}:* &{NAMESPACE}:* +@all -@admin -@dangerous +info"
"""As SECURITY.md says it."""


def make_certificates(folder: Path) -> None:
    """A private authority, a server's certificate of it, and an authority that nobody knows."""
    openssl = require_program("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-days", "2",
            "-out", f"{name}.crt", "-subj", f"/CN={name} of tests")  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "redis.key", "-out", "redis.csr",
        "-subj", "/CN=127.0.0.1")  # fmt: skip
    run("x509", "-req", "-in", "redis.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-out", "redis.crt", "-extfile", "names")  # fmt: skip


class GuardedRedis(RedisServer):
    """TLS alone, and users."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder)
        self.folder = folder
        self.tls_port = free_port()
        (folder / "users.acl").write_text(
            f"user default off\nuser web on >{PASSWORD} {ACL}\nuser admin on >{ADMIN} ~* &* +@all\n"
        )
        super().__init__(
            folder, "--port", "0", "--tls-port", str(self.tls_port), "--tls-auth-clients", "no",
            "--tls-cert-file", "redis.crt", "--tls-key-file", "redis.key",
            "--tls-ca-cert-file", "ca.crt", "--aclfile", str(folder / "users.acl"),
        )  # fmt: skip
        self.url = self.url_with()

    def url_with(self, password: str = PASSWORD, authority: str = "ca") -> str:
        login = f"web:{password}"
        query = f"ssl_ca_certs={self.folder / authority}.crt&ssl_check_hostname=true"
        return f"rediss://{login}@127.0.0.1:{self.tls_port}/0?{query}"

    def client(self) -> Any:
        return redis.Redis(
            port=self.tls_port,
            ssl=True,
            ssl_ca_certs=str(self.folder / "ca.crt"),
            username="admin",
            password=ADMIN,
            socket_timeout=5,
        )


class Site(NamedTuple):
    stack: Stack
    redis: GuardedRedis
    address: str

    @property
    def admin(self) -> Any:
        return self.redis.client()

    @property
    def logs(self) -> str:
        return "".join(proc.log for proc in (*self.stack.webs, *self.stack.workers))

    def everything(self) -> bytes:
        """All that Redis holds, keys and values."""
        found = []
        with self.admin as client:
            for key in client.scan_iter(count=1000):
                with contextlib.suppress(redis.ResponseError):
                    found += [key, repr(_value(client, key)).encode()]
        return b"\n".join(found)


def _value(client: Any, key: bytes) -> Any:
    match client.type(key):
        case b"hash":
            return client.hgetall(key)
        case b"stream":
            return client.xrange(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"set":
            return client.smembers(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case _:
            return client.get(key)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    guarded = GuardedRedis(tmp_path_factory.mktemp("redis"))
    stack = Stack(
        guarded,
        "canaries",
        tmp_path_factory.mktemp("canaries"),
        namespace=NAMESPACE,
        secret_key=SECRET_KEY,
        lease_s="2",
        poll_hold_s="2",
    )
    try:
        (address,) = stack.up()
        yield Site(stack, guarded, address)
    finally:
        stack.end()
        guarded.end()


CARRIED: dict[str, str | None] = {"Cookie": f"login={COOKIE}", "X-Canary": HEADER}


async def use(site: Site, client: Client, within_s: float = 20) -> None:
    """A real call, from a page that is here for the first time."""
    tag = uuid.uuid4().hex
    (site.stack.folder / f"{tag}.go").touch()
    await client.call(tag, "sees.children", tag)
    assert await client.children(tag, within_s) == [True, True]


# --- encrypted, as a user of its own ------------------------------------------------------------


async def test_all_works_over_tls_as_the_user_of_the_manual(site: Site) -> None:
    """And nothing was tried that the user may not do."""
    for kind in (WebsocketClient, LongPollClient):
        async with kind(site.address, headers=CARRIED) as client:
            await use(site, client)
            tag = uuid.uuid4().hex
            await client.call("gone", "sees.children", tag)
            await eventually((site.stack.folder / f"{tag}.started").exists, "it runs")
            await client.cancel("gone")
            assert (await client.outcome("gone"))["status"] == "prevent_update"
            await client.ack()
    async with http(site.address) as plain:
        assert written(await post(plain, "cached.children", 1)) == "computed from 1"
        health = (await plain.get("/_dash-dispatch/health")).json()
    assert health == {"status": "ok", "redis": "ok", "workers": 1}
    denied = [entry for entry in site.admin.acl_log() if entry["username"] == "web"]
    assert not denied, denied


@pytest.fixture
def secure_sentinel(site: Site, tmp_path: Path) -> Iterator[int]:
    """A Sentinel that watches the site's Redis, and is itself spoken to over TLS alone."""
    port, keys = free_port(), site.redis.folder
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        "tls-replication yes\ntls-auth-clients no\n"
        f"tls-cert-file {keys}/redis.crt\ntls-key-file {keys}/redis.key\n"
        f"tls-ca-cert-file {keys}/ca.crt\n"
        f"sentinel monitor main 127.0.0.1 {site.redis.tls_port} 1\n"
        f"sentinel auth-user main admin\nsentinel auth-pass main {ADMIN}\n"
    )
    command = [require_program("redis-server"), str(config), "--sentinel"]
    proc = Proc("sentinel", command, dict(os.environ), tmp_path)
    options: dict[str, Any] = {"ssl": True, "ssl_ca_certs": f"{keys}/ca.crt"}

    def answers() -> bool:
        with contextlib.suppress(redis.RedisError):
            client: Any = redis.Redis(port=port, **options)
            with client:
                return bool(client.ping())
        return False

    try:
        wait_for(answers, "the Sentinel answers")
        yield port
    finally:
        proc.end()


async def test_sentinel_over_tls(site: Site, secure_sentinel: int) -> None:
    """Both are asked for their certificates: of another authority than ours, neither is."""
    place = f"rediss+sentinel://web:{PASSWORD}@127.0.0.1:{secure_sentinel}/main/0"
    for authority, is_ours in (("ca", True), ("other", False)):
        checks = f"ssl_ca_certs={site.redis.folder / authority}.crt&ssl_check_hostname=true"
        url = f"{place}?{checks}"
        store = Store(Settings.read(redis_url=url, namespace=NAMESPACE))
        if is_ours:
            assert connection.ping(url, 5)
            assert await store.live_workers() == 1
        else:
            with pytest.raises(StoreUnavailable):
                connection.ping(url, 5)
            with pytest.raises(StoreUnavailable):
                await store.live_workers()
        await store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"authority": "other"}, "certificate verify failed"),
        ({"password": f"wrong-{PASSWORD}"}, "Redis refuses the user or password"),
    ],
    ids=["of another authority", "wrong password"],
)
def test_a_redis_that_is_not_ours_is_refused_in_words(
    site: Site, change: dict[str, str], words: str
) -> None:
    """By each program, and without the password that was tried."""
    python = [sys.executable, "-m"]
    env = site.stack.env(redis_url=site.redis.url_with(**change), app="canaries:app")
    commands = {
        "worker": [*python, "arq", "dash_dispatch.worker"],
        "doctor": [*python, "dash_dispatch", "doctor"],
        "settings": [*python, "dash_dispatch", "settings"],
        "web": [*python, "hypercorn", "canaries:server", "--bind", f"127.0.0.1:{free_port()}"],
    }
    procs = {name: site.stack.run(name, command, env) for name, command in commands.items()}
    for name in ("worker", "doctor"):
        assert procs[name].process.wait(30) != 0
    assert procs["settings"].process.wait(30) == 0
    for name in ("worker", "doctor", "web"):
        wait_for(partial(said, procs[name], words), f"{name} says why")
        assert "Traceback" not in procs[name].log, procs[name].log
    procs["web"].end()
    for name, proc in procs.items():
        assert PASSWORD not in proc.log, name


def said(proc: Proc, words: str) -> bool:
    return words in proc.log


# --- what stands in it, and in the logs ---------------------------------------------------------


async def test_what_a_request_carries_lives_no_longer_than_its_call(site: Site) -> None:
    tag = uuid.uuid4().hex
    async with WebsocketClient(site.address, headers=CARRIED) as client:
        await client.call("held", "sees.children", tag)
        await client.call("fails", "fails.children", tag)
        assert (await client.outcome("fails"))["status"] == "error"
        await eventually((site.stack.folder / f"{tag}.started").exists, "it runs")
        during = site.everything()
        assert COOKIE.encode() in during
        assert HEADER.encode() in during

        (site.stack.folder / f"{tag}.go").touch()
        await client.children("held")
        # Its mail and its record are still there.
        after = site.everything()
        assert b":mailbox:" in after
        assert b":call:" in after
        for canary in CANARIES:
            assert canary.encode() not in after, canary


async def test_no_secret_stands_in_a_log(site: Site) -> None:
    """Not at DEBUG level, of all loggers, either; nor in the words of a callback that failed."""
    async with WebsocketClient(site.address, headers=CARRIED) as client:
        await use(site, client)
        await client.call("fails", "fails.children", 1)
        assert (await client.outcome("fails"))["status"] == "error"
    async with http(site.address) as plain:
        headers = {name: value for name, value in CARRIED.items() if value}
        await plain.post("/_dash-update-component", content="{", headers=headers)
    logs = site.logs
    assert "DEBUG" in logs
    assert "with a cookie of" in logs
    for canary in CANARIES:
        assert canary not in logs, canary


# --- what is forged -----------------------------------------------------------------------------


class Touch:
    """What a pickle can do: here, make a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._path}",)


def garbage(proof: Path) -> list[bytes]:
    return [
        b"",
        b"\xff\xfe\x00\x80",
        b"{",
        b"[" * 20_000,
        b"\x91" * 20_000,
        b"null",
        b"x" * 1_000_000,
        b"\xdf\xff\xff\xff\xff",
        pickle.dumps(Touch(proof)),
    ]


def forge(client: Any, name: str, kind: str, junk: bytes) -> None:
    """Put a record of the right type, and not of ours, into a key."""
    key = f"{NAMESPACE}:{name}"
    match kind:
        case "hash":
            client.hset(key, junk[:1000] or "field", junk)
        case "zset":
            client.zadd(key, {junk: 0})
        case "set":
            client.sadd(key, junk)
        case "list":
            client.lpush(key, junk)
        case "stream":
            client.xadd(key, {"p": junk, "r": junk, "c": junk, "s": junk, "b": junk})
            client.xadd(key, {junk or "x": junk})
        case "channel":
            client.publish(key, junk)
        case _:
            client.set(key, junk)


LANES = ("default:loop", "default:process")
KEYS: dict[str, str] = {
    "absent": "zset",
    "announced": "zset",
    "callbacks:web": "set",
    "callbacks:worker": "set",
    "capacity": "hash",
    "durations": "hash",
    "later": "zset",
    "libraries": "zset",
    "limits": "hash",
    "workers": "zset",
    "swept": "hash",
    "hint:-": "channel",
    **{f"gates:{lane}": "set" for lane in LANES},
    **{f"turns:{lane}": "zset" for lane in LANES},
    **{f"waiting:{lane}": "zset" for lane in LANES},
    **{f"wake:{lane}": "list" for lane in LANES},
}
"""The keys that all share. What is one session's, one call's or one worker's is asked for below."""


def clean(client: Any) -> None:
    """What a person would do who has found somebody else in a Redis."""
    for key in client.scan_iter(f"{NAMESPACE}:*"):
        client.delete(key)


async def serves(site: Site) -> None:
    """Soon, by itself: nobody has to be started again."""
    async with asyncio.timeout(40):
        for kind in (WebsocketClient, LongPollClient):
            while True:
                with contextlib.suppress(AssertionError):
                    async with kind(site.address, headers=CARRIED) as client:
                        await use(site, client, within_s=3)
                        break


def has_pong(client: Client) -> bool:
    return {"type": "pong"} in client.seen.controls


def assert_alive(site: Site, proof: Path) -> None:
    for proc in (*site.stack.webs, *site.stack.workers):
        assert proc.process.poll() is None, proc.log[-3000:]
    assert not proof.exists(), "a record was run"


async def test_forged_records_are_rejected_by_type(site: Site, tmp_path: Path) -> None:
    """In every key that all share: nothing is run, nobody ends, and without them all goes on."""
    proof = tmp_path / "executed"
    with site.admin as admin:
        for junk in garbage(proof):
            for name, kind in KEYS.items():
                forge(admin, name, kind, junk)
            for worker in admin.zrange(f"{NAMESPACE}:workers", 0, -1):
                with contextlib.suppress(UnicodeDecodeError):
                    forge(admin, f"control:{worker.decode()}", "channel", junk)
                    forge(admin, f"running:{worker.decode()}", "hash", junk)
            async with WebsocketClient(site.address, headers=CARRIED) as client:
                await client.call("one", "sees.children", "never")
                await client.cancel("one")
                await client.say({"type": "ping"})
                await client.until(partial(has_pong, client), "pong")
            assert_alive(site, proof)
        clean(admin)
        await serves(site)
    assert_alive(site, proof)


async def test_forged_calls_and_mail_are_dropped(site: Site, tmp_path: Path) -> None:
    """A call whose record is none is not run; mail that is none does not stand before the rest."""
    proof = tmp_path / "executed"
    with site.admin as admin:
        for number, junk in enumerate(garbage(proof)):
            call, lane = f"{number:032x}", LANES[number % 2]
            admin.hset(
                f"{NAMESPACE}:call:{call}",
                mapping={"spec": junk, "status": "queued", "session": junk, "attempt": junk},
            )
            admin.zadd(f"{NAMESPACE}:waiting:{lane}", {call: 0})
            admin.lpush(f"{NAMESPACE}:wake:{lane}", f"{call} ")
            async with WebsocketClient(site.address, headers=CARRIED) as client:
                await use(site, client)
                (session,) = {
                    key.decode().rpartition(":")[2]
                    for key in admin.scan_iter(f"{NAMESPACE}:mailbox:*")
                    if str(client.page).encode() in repr(admin.xrange(key)).encode()
                }
                forge(admin, f"mailbox:{session}", "stream", junk)
                forge(admin, f"active:{session}", "hash", junk)
                forge(admin, f"hint:{session}", "channel", junk)
                await client.cancel("nothing")
                await use(site, client)
        clean(admin)
        await serves(site)
    assert_alive(site, proof)


async def test_a_forged_result_is_computed_anew(site: Site, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    async with http(site.address) as client:
        assert written(await post(client, "cached.children", 7)) == "computed from 7"
        with site.admin as admin:
            keys = list(admin.scan_iter(f"{NAMESPACE}:cached:*"))
            for junk in garbage(proof):
                for key in keys:
                    admin.hset(key, "outcome", junk)
                assert written(await post(client, "cached.children", 7)) == "computed from 7"
    assert_alive(site, proof)


async def test_keys_of_a_wrong_type_are_an_error_that_passes(site: Site, tmp_path: Path) -> None:
    """Nothing hangs, nothing dies, and when the keys are right again, all goes on by itself."""
    with site.admin as admin:
        for name, kind in KEYS.items():
            if kind != "channel":
                admin.delete(f"{NAMESPACE}:{name}")
                admin.set(f"{NAMESPACE}:{name}", "not a " + kind)
        async with WebsocketClient(site.address, headers=CARRIED) as client:
            await client.call("one", "sees.children", "never")
            refused = await client.outcome("one")
            assert refused["status"] == "error"
            assert "WRONGTYPE" not in str(refused)
        clean(admin)
        await serves(site)
    assert_alive(site, tmp_path / "executed")
