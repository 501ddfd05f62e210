"""Settings: from the environment, in words when wrong, and silent about passwords."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dash_dispatch import ConfigError, Settings
from dash_dispatch.config import PREFIX

# Setting → (environment, value, default). All of them: a new one needs a line here.
EVERY_SETTING: dict[str, tuple[str, Any, Any]] = {
    "namespace": ("my_app", "my_app", "dash_dispatch"),
    "lease_s": ("2.5", 2.5, 10.0),
    "result_ttl_s": ("60", 60.0, 600.0),
    "session_ttl_s": ("120", 120.0, 3600.0),
    "call_ttl_s": ("600", 600.0, 86_400.0),
    "max_result_bytes": ("2048", 2048, 64 * 2**20),
    "inline_result_bytes": ("0", 0, 64 * 2**10),
    "max_mailbox_entries": ("20", 20, 10_000),
    "threads": ("3", 3, 32),
    "post_timeout_s": ("1.5", 1.5, 60.0),
    "poll_hold_s": ("5", 5.0, 25.0),
    "max_request_bytes": ("4096", 4096, 16 * 2**20),
    "max_queue": ("7", 7, 10_000),
    "leave_grace_s": ("0.5", 0.5, 30.0),
    "max_session_calls": ("9", 9, 1000),
    "max_session_connections": ("2", 2, 32),
    "max_call_rate": ("0.5", 0.5, 200.0),
    "recheck_s": ("0", 0.0, 60.0),
    "forward_cookies": ("a, b", ("a", "b"), ("*",)),
    "forward_headers": ("x-user", ("x-user",), ("*",)),
    "code_version": ("2026-11", "2026-11", ""),
    "process_max_calls": ("100", 100, 0),
    "process_max_mb": ("512", 512, 0),
    "app": ("my.app:server", "my.app:server", None),
    "queues": ("fast, slow", ("fast", "slow"), ("default",)),
    "concurrency": ("8", 8, 32),
    "processes": ("4", 4, 2),
    "worker_threads": ("5", 5, 16),
    "timeout_s": ("12", 12.0, 300.0),
    "grace_s": ("0", 0.0, 30.0),
    "embedded_worker": ("thread", "thread", "auto"),
    "embedded_app": ("x:y", "x:y", None),
}
SECRETS = {"redis_url", "secret_key"}
PASSWORD = "hunter2-is-secret"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def test_every_setting_is_covered_here() -> None:
    assert set(Settings.model_fields) == set(EVERY_SETTING) | SECRETS


@pytest.mark.parametrize("name", EVERY_SETTING)
def test_a_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written, value, default = EVERY_SETTING[name]
    assert getattr(Settings.read(), name) == default
    monkeypatch.setenv(f"DASH_DISPATCH_{name.upper()}", written)
    assert getattr(Settings.read(), name) == value


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(Settings.read(), name) is None
    monkeypatch.setenv(f"DASH_DISPATCH_{name.upper()}", f"redis://:{PASSWORD}@host")
    assert getattr(Settings.read(), name).get_secret_value() == f"redis://:{PASSWORD}@host"


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASH_DISPATCH_THREADS", "3")
    assert Settings.read(threads=4).threads == 4


def test_settings_do_not_change() -> None:
    read = Settings.read()
    with pytest.raises(ValidationError, match="frozen"):
        read.threads = 5  # type: ignore[misc]
    assert read.threads == 32


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("name", "written", "takes"),
    [
        ("redis_url", "localhost:6379", "redis://, rediss://, unix:// or redis+sentinel://"),
        ("redis_url", "http://host", "redis://, rediss://, unix:// or redis+sentinel://"),
        ("redis_url", "", "redis://, rediss://, unix:// or redis+sentinel://"),
        ("secret_key", "short", "at least 16"),
        ("namespace", "a:b", "pattern"),
        ("namespace", "", "pattern"),
        ("lease_s", "0.5", "greater than or equal to 1"),
        ("lease_s", "soon", "a valid number"),
        ("lease_s", "nan", ""),
        ("result_ttl_s", "0", "greater than or equal to 1"),
        ("session_ttl_s", "1", "greater than or equal to 10"),
        ("call_ttl_s", "1", "greater than or equal to 60"),
        ("max_result_bytes", "1", "greater than or equal to 1024"),
        ("inline_result_bytes", "-1", "greater than or equal to 0"),
        ("max_mailbox_entries", "1", "greater than or equal to 10"),
        ("threads", "0", "greater than or equal to 1"),
        ("threads", "many", "a valid integer"),
        ("post_timeout_s", "0", "greater than 0"),
        ("poll_hold_s", "60", "less than or equal to 55"),
        ("max_request_bytes", "1", "greater than or equal to 1024"),
        ("max_queue", "0", "greater than or equal to 1"),
        ("queues", "", "at least one queue name"),
        ("queues", " , ,", "at least one queue name"),
        ("queues", "fast,sl ow", "letters, digits"),
        ("concurrency", "0", "greater than or equal to 1"),
        ("processes", "0", "greater than or equal to 1"),
        ("worker_threads", "0", "greater than or equal to 1"),
        ("timeout_s", "0", "greater than 0"),
        ("grace_s", "-1", "greater than or equal to 0"),
        ("embedded_worker", "yes", "'auto', 'process', 'thread' or 'off'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_takes(
    name: str, written: str, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"DASH_DISPATCH_{name.upper()}"
    monkeypatch.setenv(variable, written)
    with pytest.raises(ConfigError) as caught:
        Settings.read()
    assert str(caught.value).startswith(f"{variable}: ")
    assert takes in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation is float]
)
@pytest.mark.parametrize("written", ["nan", "inf"])
def test_a_duration_is_a_finite_number(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DASH_DISPATCH_{name.upper()}", written)
    with pytest.raises(ConfigError, match=name.upper()):
        Settings.read()


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASH_DISPATCH_THREADS", "x")
    monkeypatch.setenv("DASH_DISPATCH_LEASE_S", "y")
    with pytest.raises(ConfigError, match=r"LEASE_S.*THREADS"):
        Settings.read()


def test_an_argument_that_is_no_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="DASH_DISPATCH_THREADZ"):
        Settings.read(threadz=3)


# --- passwords -----------------------------------------------------------------------------------

URLS = [
    f"redis://:{PASSWORD}@host:6379/0",
    f"rediss://user:{PASSWORD}@host:6379/0?ssl_cert_reqs=none",
    f"redis://host:6379/0?password={PASSWORD}",
    f"unix:///run/redis.sock?db=1&password={PASSWORD}",
    f"unix://user:{PASSWORD}@/run/redis.sock?db=1",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_nowhere_to_be_read(url: str) -> None:
    read = Settings.read(redis_url=url, secret_key=PASSWORD)
    for words in (str(read), repr(read), read.display_url, str(read.model_dump()), repr([read])):
        assert PASSWORD not in words
    assert read.redis_url is not None
    assert read.redis_url.get_secret_value() == url


def test_the_rest_of_the_url_is_shown() -> None:
    assert Settings.read().display_url == "(none)"
    assert Settings.read(redis_url="redis://host:6379/3").display_url == "redis://host:6379/3"
    shown = Settings.read(redis_url=f"rediss://me:{PASSWORD}@host:6380/3?a=b").display_url
    assert shown == "rediss://me:***@host:6380/3?a=b"
    shown = Settings.read(redis_url=f"unix:///run/r.sock?db=1&password={PASSWORD}").display_url
    assert shown == "unix:///run/r.sock?db=1&password=***"


@pytest.mark.parametrize(
    "url", [f"http://:{PASSWORD}@host", f"redis//:{PASSWORD}@host", f"redis::{PASSWORD}@host"]
)
def test_a_refused_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.read(redis_url=url)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None, "pydantic's error holds the input"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("key", ["short" + "\0", PASSWORD[:10]])
def test_a_refused_key_is_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.read(secret_key=key)
    assert key not in str(caught.value)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text("/#?@:[]%&=+ab1", min_size=1, max_size=8), st.sampled_from(["", "user"]))
def test_a_password_that_was_not_percent_encoded_is_hidden_too(odd: str, user: str) -> None:
    """Such a URL may be refused, or not work; what is shown of it never has the password."""
    password = f"<{odd}>"
    shown = Settings.read(redis_url=f"redis://{user}:{password}@host:6379/0").display_url
    assert "<" not in shown
    assert ">" not in shown
