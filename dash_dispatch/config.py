"""Settings: read once from the environment, frozen, and passed down."""

import re
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dash_dispatch.errors import ConfigError

PREFIX = "DASH_DISPATCH_"
"""Every setting is an environment variable with this prefix."""

_SENTINEL = re.compile(r"redis(?P<secure>s?)\+sentinel://")
_SCHEMES = ("redis://", "rediss://", "unix://")
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_TLS = ("ssl_ca_certs", "ssl_check_hostname")
_PASSWORD_ARGUMENT = re.compile(r"([?&](?:sentinel_)?password=)[^&]*", re.IGNORECASE)
SENTINEL_PORT = 26379


class SentinelUrl(NamedTuple):
    """``redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]``, read.

    With ``rediss+sentinel://`` the Sentinels and the Redis are spoken to over TLS, which takes
    ``?ssl_ca_certs=…&ssl_check_hostname=true`` as ``rediss://`` does. The Sentinels' own login is
    ``?sentinel_username=…&sentinel_password=…``.

    Attributes:
        sentinels: Whom to ask for the primary.
        service: What it is called there.
        db: The database on it.
        login: ``username`` and ``password`` for it.
        sentinel_login: The same for the Sentinels.
        secure: Whether to use TLS.
        tls: How to check certificates.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    login: dict[str, Any]
    sentinel_login: dict[str, Any]
    secure: bool
    tls: dict[str, Any]

    @classmethod
    def read(cls, url: str) -> "SentinelUrl | None":
        """None for a URL of another scheme.

        Raises:
            ValueError: Says what it takes, and repeats nothing: there may be a password in it.
        """
        scheme = _SENTINEL.match(url)
        if scheme is None:
            return None
        rest, _, query = url[scheme.end() :].partition("?")
        userinfo, _, place = rest.rpartition("@")
        user, _, password = userinfo.partition(":")
        login = {"username": unquote(user), "password": unquote(password)}
        hosts, *path = place.rstrip("/").split("/")
        found = dict(parse_qsl(query))
        tls: dict[str, Any] = {}
        if scheme["secure"]:
            tls = {name: found.pop(name) for name in _TLS if name in found}
        if "ssl_check_hostname" in tls:
            tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() in ("1", "true", "yes")
        unknown = found.keys() - {"sentinel_username", "sentinel_password"}
        try:
            sentinels = tuple(_host_and_port(host) for host in hosts.split(","))
            service, db = path[0], int(path[1]) if len(path) > 1 else 0
        except (IndexError, ValueError):
            service, sentinels, db = "", (), 0
        if not service or len(path) > 2 or db < 0 or unknown:
            raise ValueError("takes redis+sentinel://[user:password@]host[:port][,…]/service[/db]")
        return cls(
            sentinels,
            service,
            db,
            {name: value for name, value in login.items() if value},
            {name.removeprefix("sentinel_"): value for name, value in found.items()},
            bool(scheme["secure"]),
            tls,
        )


def _host_and_port(text: str) -> tuple[str, int]:
    """``host``, ``host:port``, or an IPv6 address in brackets.

    Raises:
        ValueError: It is neither.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@\s]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError
    return match[1].strip("[]"), int(match[2] or SENTINEL_PORT)


class Settings(BaseSettings):
    """All settings, with their environment variable, unit and default.

    ``Settings.read()`` reads ``DASH_DISPATCH_*`` and raises `ConfigError` in words; keyword
    arguments win over the environment (tests, the embedded mode).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False
    )

    # Both sides
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, unix:// or redis+sentinel:// URL, the same for web and"
        " workers",
    )
    namespace: str = Field(
        "dash_dispatch",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="first part of every key: apps that share one Redis differ in it",
    )
    lease_s: float = Field(
        10.0, ge=1, le=3600, description="a worker not heard of for this long is lost"
    )
    result_ttl_s: float = Field(
        600.0, ge=1, description="how long a large result is kept for a page that comes back"
    )
    session_ttl_s: float = Field(
        3600.0, ge=10, description="how long the mailbox of an absent browser is kept"
    )
    leave_grace_s: float = Field(
        30.0, ge=0, description="an absent browser may be back within this long; then it has left"
    )
    call_ttl_s: float = Field(
        86_400.0, ge=60, description="a call that has not ended after this long is dropped"
    )
    max_result_bytes: int = Field(64 * 2**20, ge=1024, description="largest result of a call")
    inline_result_bytes: int = Field(
        64 * 2**10,
        ge=0,
        description="larger results stand beside the mailbox, under their own key",
    )
    max_mailbox_entries: int = Field(
        10_000, ge=10, description="updates waiting for one browser; more, and their call fails"
    )

    # Web side
    secret_key: SecretStr | None = Field(
        None, min_length=16, description="signs session handles; the same on every web replica"
    )
    threads: int = Field(32, ge=1, le=1024, description="threads for plain def callbacks")
    post_timeout_s: float = Field(
        60.0, gt=0, description="how long a plain POST waits for an offloaded call, then 504"
    )
    poll_hold_s: float = Field(
        25.0, gt=0, le=55, description="how long one long-poll request is held open"
    )
    max_request_bytes: int = Field(16 * 2**20, ge=1024, description="largest callback request")
    max_queue: int = Field(
        10_000, ge=1, description="calls waiting in one queue; more are refused as busy"
    )

    max_session_calls: int = Field(
        1000, ge=1, description="calls of one browser that have not ended; more are refused as busy"
    )
    max_session_connections: int = Field(
        32, ge=1, description="connections of one browser to one web process; more are closed"
    )
    max_call_rate: float = Field(
        200.0,
        gt=0,
        description="callbacks per second that one browser may ask for; ten seconds' worth at once",
    )
    recheck_s: float = Field(
        60.0,
        ge=0,
        description="the websocket_connect hooks and Dash(user=...) are asked again about an open"
        " websocket this often; 0: never",
    )
    forward_cookies: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="cookies that offloaded callbacks may see, comma separated; * for all"
    )
    forward_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="headers that offloaded callbacks may see, comma separated; * for all"
    )
    code_version: str = Field(
        "",
        max_length=100,
        description="name of the app's release, part of every cache key: a new one empties the"
        " cache; said where web and worker turn out to run different code",
    )

    # Worker side
    app: str | None = Field(None, description="module:attribute or module:factory() of the app")
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default",), description="queues that this worker serves, comma separated"
    )
    concurrency: int = Field(
        32,
        ge=1,
        le=10_000,
        description="offloaded async def callbacks that one worker runs at once, on its loop",
    )
    processes: int = Field(
        2, ge=1, le=256, description="warm processes for offloaded def callbacks"
    )
    worker_threads: int = Field(
        16, ge=1, le=1024, description="threads for offloaded def callbacks with executor=thread"
    )
    process_max_calls: int = Field(
        0, ge=0, description="calls after which a warm process is replaced by a fresh one; 0: never"
    )
    process_max_mb: int = Field(
        0, ge=0, description="resident memory from which a warm process is replaced; 0: never"
    )
    timeout_s: float = Field(300.0, gt=0, description="default time limit of one offloaded call")
    grace_s: float = Field(
        30.0, ge=0, description="how long a worker that was asked to stop finishes running calls"
    )

    # Development
    embedded_worker: Literal["auto", "process", "thread", "off"] = Field(
        "auto", description="the worker that app.run() starts when no Redis URL is set"
    )
    embedded_app: str | None = Field(
        None, description="set by the embedded mode for its own worker; not for people"
    )

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or SentinelUrl.read(url.get_secret_value()) is not None:
            return url
        if not url.get_secret_value().startswith(_SCHEMES):
            # The value is not repeated: it may hold a password.
            raise ValueError(
                "takes a URL that begins with redis://, rediss://, unix:// or redis+sentinel://"
            )
        return url

    @field_validator("queues", "forward_cookies", "forward_headers", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("queues")
    @classmethod
    def _check_queues(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("takes at least one queue name")
        for name in value:
            # The same as an `Offload` takes: no call would ever wait in another.
            if not _QUEUE.match(name):
                raise ValueError(f"{name!r}: takes names of letters, digits, '_', '.' and '-'")
        return value

    @classmethod
    def read(cls, **overrides: object) -> "Settings":
        """Read the environment.

        Raises:
            ConfigError: A variable is wrong; the message names it and says what it takes.
        """
        try:
            return cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None

    @property
    def display_url(self) -> str:
        """The Redis URL without its password, for messages."""
        if self.redis_url is None:
            return "(none)"
        # Not by `urlsplit`: a password that was not percent-encoded ends, for it, too early.
        url = _PASSWORD_ARGUMENT.sub(r"\1***", self.redis_url.get_secret_value())
        scheme, _, rest = url.partition("://")
        login, at, place = rest.rpartition("@")
        user, colon, _ = login.partition(":")
        return f"{scheme}://{user}:***@{place}" if at and colon else url


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = str(item["loc"][0]) if item["loc"] else "?"
        lines.append(f"{PREFIX}{name.upper()}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
