"""The error tree: as drawn, exported, and every error of the Redis client in it."""

import asyncio
import inspect
import re
from collections.abc import Iterator

import pytest
import redis.exceptions

import dash_dispatch
from dash_dispatch import errors
from dash_dispatch.connection import translate
from dash_dispatch.errors import CallError, DispatchError, StoreError, StoreUnavailable


def classes() -> list[type[DispatchError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, DispatchError)
    ]


def drawn() -> Iterator[tuple[str, str | None, int | None, str]]:
    """Name, parent, HTTP status and remark of each line of the drawing."""
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r" {4}((?:[│ ]  )*)(├─ |└─ )?([A-Z]\w+)\s*(\d{3})?(.*)$", line)
        if match is None:
            continue
        rails, branch, name, status, remark = match.groups()
        depth = len(rails) // 3 + (1 if branch else 0)
        path = [*path[:depth], name]
        yield name, path[-2] if depth else None, int(status) if status else None, remark


def test_the_drawing_is_the_tree() -> None:
    tree = {cls.__name__: cls.__base__.__name__ for cls in classes() if cls is not DispatchError}  # type: ignore[union-attr]
    assert {name: parent for name, parent, _, _ in drawn() if parent is not None} == tree


def test_the_drawing_tells_the_status_and_whether_to_try_again() -> None:
    for name, _, status, remark in drawn():
        cls = getattr(errors, name)
        if status is not None:
            assert cls.http_status == status, name
        assert cls.retryable == ("tried again" in remark), name


def test_only_what_may_succeed_later_is_retryable() -> None:
    for cls in classes():
        assert not cls.retryable or cls.http_status == 503, cls.__name__


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_an_error_is_public_and_says_what_it_means(cls: type[DispatchError]) -> None:
    assert getattr(dash_dispatch, cls.__name__, None) is cls or cls is DispatchError
    assert cls.__name__ in dash_dispatch.__all__
    assert inspect.getdoc(cls), cls.__name__
    assert cls.__doc__
    assert re.fullmatch(r"[a-z_]+", cls.code)
    assert 400 <= cls.http_status < 600


def test_codes_tell_errors_apart() -> None:
    codes = [cls.code for cls in classes()]
    assert len(set(codes)) == len(codes)


def test_a_call_error_carries_the_call() -> None:
    for cls in classes():
        if issubclass(cls, CallError):
            error = cls("c0ffee", "what happened")
            assert error.call_id == "c0ffee"
            assert str(error) == "what happened"


# --- errors of the client ------------------------------------------------------------------------


def client_errors() -> list[type[Exception]]:
    return [
        value
        for value in vars(redis.exceptions).values()
        if inspect.isclass(value) and issubclass(value, redis.exceptions.RedisError)
    ]


def make(cls: type[Exception]) -> Exception:
    if issubclass(cls, redis.exceptions.AskError):  # and MovedError
        return cls("1 host:6379")
    return cls("the words of the client")


@pytest.mark.parametrize("cls", client_errors(), ids=lambda cls: cls.__name__)
def test_every_error_of_the_client_is_one_of_ours(cls: type[Exception]) -> None:
    error = translate(make(cls))
    assert isinstance(error, StoreError)
    assert str(error)


@pytest.mark.parametrize(
    "cls",
    [
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.BusyLoadingError,
        redis.exceptions.ReadOnlyError,
        redis.exceptions.TryAgainError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.MasterDownError,
        redis.exceptions.OutOfMemoryError,
        redis.exceptions.MaxConnectionsError,
        ConnectionRefusedError,
        ConnectionResetError,
        BrokenPipeError,
        OSError,
        TimeoutError,
        asyncio.TimeoutError,
    ],
    ids=lambda cls: f"{cls.__module__}.{cls.__name__}",
)
def test_what_may_be_over_in_a_moment_may_be_tried_again(cls: type[Exception]) -> None:
    error = translate(cls("the words of the client"))
    assert isinstance(error, StoreUnavailable)
    assert error.retryable
    assert "the words of the client" in str(error)


@pytest.mark.parametrize(
    "cls", [redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError]
)
def test_a_refused_password_is_nothing_to_wait_for(cls: type[Exception]) -> None:
    error = translate(cls("NOAUTH"))
    assert type(error) is StoreError
    assert "DASH_DISPATCH_REDIS_URL" in str(error)


@pytest.mark.parametrize(
    "cls",
    [
        redis.exceptions.ResponseError,
        redis.exceptions.DataError,
        redis.exceptions.NoScriptError,
        redis.exceptions.NoPermissionError,
        redis.exceptions.PubSubError,
    ],
)
def test_our_own_mistakes_are_not_tried_again(cls: type[Exception]) -> None:
    error = translate(cls("ERR"))
    assert type(error) is StoreError
    assert not error.retryable
