"""`on_worker_start` and `on_worker_stop`: order, errors, and what they take."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dash_dispatch import ConfigError, lifecycle, on_worker_start, on_worker_stop


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """Those of a test are forgotten afterwards."""
    before = dict(lifecycle._start), dict(lifecycle._stop)
    lifecycle._start.clear()
    lifecycle._stop.clear()
    yield
    for hooks, earlier in zip((lifecycle._start, lifecycle._stop), before, strict=True):
        hooks.clear()
        hooks.update(earlier)


async def test_they_run_in_order_and_end_in_the_opposite_one() -> None:
    said: list[str] = []

    @on_worker_start
    def first() -> None:
        said.append("first")

    @on_worker_start
    async def second() -> None:
        said.append("second")

    @on_worker_stop
    def last() -> None:
        said.append("last")

    @on_worker_stop
    async def before_that() -> None:
        said.append("before that")

    await lifecycle.start()
    await lifecycle.stop()
    assert said == ["first", "second", "before that", "last"]


async def test_a_function_stays_what_it_is_and_an_apps_factory_may_be_called_twice() -> None:
    said: list[int] = []

    def factory(number: int) -> Any:
        @on_worker_start
        def load() -> None:
            said.append(number)

        return load

    factory(1)()
    factory(2)
    await lifecycle.start()
    assert said == [1, 2], "the first was called by the test; of the two, one is registered"


@pytest.mark.parametrize("error", [ValueError("why"), SystemExit("why")])
async def test_an_error_at_the_start_is_said(error: BaseException) -> None:
    @on_worker_start
    def load() -> None:
        raise error

    name = type(error).__name__
    with pytest.raises(ConfigError, match=rf"on_worker_start: .*load failed: {name}: why"):
        await lifecycle.start()


async def test_an_error_at_the_end_is_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []

    @on_worker_stop
    def last() -> None:
        said.append("last")

    @on_worker_stop
    async def breaks() -> None:
        raise ValueError("why")

    with caplog.at_level(logging.ERROR):
        await lifecycle.stop()
    assert said == ["last"]
    assert "breaks failed" in caplog.text
    assert "ValueError: why" in caplog.text


@pytest.mark.parametrize("hook", [on_worker_start, on_worker_stop])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda needed: needed, "takes 'needed'"),
        (len, "takes a function"),
        ("text", "takes a function"),
    ],
)
def test_what_they_take(hook: Any, wrong: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        hook(wrong)
    hook(lambda optional=1: optional)


def test_whether_there_is_anything_to_do_at_the_end() -> None:
    assert not lifecycle.stops()
    on_worker_stop(lambda: None)
    assert lifecycle.stops()
