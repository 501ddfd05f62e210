"""`Offload`: what each option takes."""

import math
import re
from typing import Any

import pytest

from dash_dispatch import ConfigError, Offload
from dash_dispatch.offload import Queued, in_words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": ""}, "queue=''"),
        ({"queue": "a b"}, "queue='a b'"),
        ({"queue": "a:b"}, "queue='a:b'"),
        ({"queue": "a\n"}, "queue="),
        ({"queue": "x" * 65}, "letters, digits"),
        ({"queue": None}, "queue=None"),
        ({"queue": 3}, "queue=3"),
        ({"queue": b"q"}, "queue=b'q'"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"timeout": math.inf}, "timeout=inf"),
        ({"timeout": "x"}, "timeout='x'"),
        ({"timeout": "5"}, "positive number of seconds"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": 10**400}, "positive number of seconds"),
        ({"timeout": [1]}, "positive number of seconds"),
        ({"executor": "x"}, "auto, thread, process"),
        ({"executor": "loop"}, "auto, thread, process"),
        ({"executor": None}, "executor=None"),
        ({"executor": []}, "executor=\\[\\]"),
    ],
)
def test_a_wrong_option_is_said_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Offload(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": "newest"}, "overlap='newest'): takes one of latest, queue, parallel, drop"),
        ({"overlap": 1}, "overlap=1"),
        ({"on_leave": "stay"}, "one of keep, cancel"),
        ({"on_leave": None}, "on_leave=None"),
        ({"retries": -1}, "0 to 100"),
        ({"retries": True}, "retries=True"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"retries": 101}, "0 to 100"),
        ({"backoff": 0}, "backoff=0"),
        ({"backoff": None}, "backoff=None"),
        ({"concurrency": 0}, "whole number from 1 on"),
        ({"concurrency": "2"}, "concurrency='2'"),
        ({"group": "a b", "concurrency": 1}, "group='a b'"),
        ({"group": "gpu"}, "takes concurrency= as well"),
        ({"priority": 11}, "-10 to 10"),
        ({"priority": 0.5}, "-10 to 10"),
        ({"cache": 0}, "cache=0"),
        ({"cache": True}, "cache=True"),
        ({"scope": "page"}, "one of user, global"),
        ({"scope": None}, "scope=None"),
    ],
)
def test_a_wrong_option_of_how_calls_meet(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Offload(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": "queue"},
        {"overlap": None},
        {"on_leave": "cancel"},
        {"retries": 100, "backoff": 0.1},
        {"concurrency": 1},
        {"group": "gpu-1", "concurrency": 2},
        {"priority": -10},
        {"cache": 0.5, "scope": "global"},
    ],
)
def test_right_options_of_how_calls_meet(options: dict[str, Any]) -> None:
    made = Offload(**options)
    assert {name: getattr(made, name) for name in options} == options


@pytest.mark.parametrize(
    ("estimate_s", "words"),
    [(None, ""), (0, "about 1 s"), (19.6, "about 20 s"), (60, "about 1 min"), (200, "about 3 min")],
)
def test_an_estimate_in_words(estimate_s: float | None, words: str) -> None:
    assert in_words(estimate_s) == words
    assert Queued(None, "{position}, {estimate}", "").shown(2, estimate_s) == f"2, {words}"


def test_right_options() -> None:
    assert Offload(queue="gpu-1.fast_x", timeout=0.5, executor="thread").timeout == 0.5
    assert Offload(timeout=None).timeout is None
    assert Offload(timeout=3) == Offload(timeout=3.0)


def test_options_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Offload().queue = "x"  # type: ignore[misc]
