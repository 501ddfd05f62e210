"""``redis+sentinel://``: read, or refused in words without what stands in it."""

import pytest

from dash_dispatch import ConfigError, Settings
from dash_dispatch.config import SentinelUrl


def test_all_that_may_stand_in_it() -> None:
    found = SentinelUrl.read(
        "rediss+sentinel://ann:p%40ss@one:1,two,[::1]:3/main/5?sentinel_username=u&sentinel_password=v"
    )
    assert found == SentinelUrl(
        (("one", 1), ("two", 26379), ("::1", 3)),
        "main",
        5,
        {"username": "ann", "password": "p@ss"},
        {"username": "u", "password": "v"},
        True,
        {},
    )


def test_the_least_of_it() -> None:
    found = SentinelUrl.read("redis+sentinel://one/main")
    assert found == SentinelUrl((("one", 26379),), "main", 0, {}, {}, False, {})


def test_how_certificates_are_checked() -> None:
    found = SentinelUrl.read(
        "rediss+sentinel://one/main?ssl_ca_certs=/ca.crt&ssl_check_hostname=True"
    )
    assert found is not None
    assert found.tls == {"ssl_ca_certs": "/ca.crt", "ssl_check_hostname": True}


@pytest.mark.parametrize("url", ["redis://one/0", "rediss://one", "unix:///x", ""])
def test_other_urls_are_none(url: str) -> None:
    assert SentinelUrl.read(url) is None


WRONG = [
    *("", "one", "one/", "/main", "one,/main", "one:port/main", "one/main/x", "one/main/-1"),
    *("one/main/0/1", "one/main?db=1", "one/main?ssl_ca_certs=/ca.crt", "a+b@/main"),
]


@pytest.mark.parametrize("rest", WRONG)
def test_what_it_does_not_take(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASH_DISPATCH_REDIS_URL", f"redis+sentinel://:hunter2@{rest}")
    with pytest.raises(ConfigError, match=r"REDIS_URL: takes redis\+sentinel") as told:
        Settings.read()
    assert "hunter2" not in str(told.value)


def test_passwords_are_not_shown() -> None:
    url = "redis+sentinel://:secret@one,two/main?sentinel_password=secret"
    settings = Settings.read(redis_url=url)
    assert settings.display_url == "redis+sentinel://:***@one,two/main?sentinel_password=***"
