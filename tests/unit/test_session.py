"""Session handles: nobody can guess, forge or keep one for ever."""

import time
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import Event, Outcome, Status
from dash_dispatch.session import TOKEN_AGE_S, Rate, Session, Signer

SECRET = "a secret for tests only"


@pytest.fixture
def signer() -> Signer:
    return Signer(SECRET, "app")


def test_a_handle_names_its_session(signer: Signer) -> None:
    session = signer.new()
    assert signer.verify(signer.sign(session)) == session
    assert Signer(SECRET, "app").verify(signer.sign(session)) == session, "on every replica"


def test_sessions_are_not_guessed(signer: Signer) -> None:
    sessions = {signer.new() for _ in range(100)}
    assert len(sessions) == 100
    assert all(len(session) >= 22 for session in sessions), "128 bits and more"


@pytest.mark.parametrize("other", [Signer("another secret, longer", "app"), Signer(SECRET, "two")])
def test_a_handle_of_another_app_is_refused(signer: Signer, other: Signer) -> None:
    assert signer.verify(other.sign("session")) is None


def test_a_handle_is_not_kept_for_ever(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    token, now = signer.sign("session"), time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + TOKEN_AGE_S - 5)
    assert signer.verify(token) == "session"
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + TOKEN_AGE_S + 5)
    assert signer.verify(token) is None


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 200), st.characters(codec="ascii", exclude_characters="+/"))
def test_a_garbled_handle_is_refused(place: int, character: str) -> None:
    signer = Signer(SECRET, "app")
    token = signer.sign("session")
    place %= len(token)
    garbled = token[:place] + character + token[place + 1 :]
    found = signer.verify(garbled)
    # Base64 takes "+" for "-", and "/" for "_"; a signature's last character has bits to spare.
    assert found is None or garbled == token or (found == "session" and place == len(token) - 1)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40))
def test_whatever_comes_is_no_handle(token: str) -> None:
    assert Signer(SECRET, "app").verify(token) is None


def test_only_a_name_is_a_session() -> None:
    from itsdangerous import URLSafeTimedSerializer

    forged = URLSafeTimedSerializer(SECRET, salt="app.session").dumps({"session": "x"})
    assert Signer(SECRET, "app").verify(forged) is None


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_allows_a_burst_and_then_so_many_per_second() -> None:
    clock = Clock()
    rate = Rate(3.0, clock)
    assert [rate.take() for _ in range(31)] == [True] * 30 + [False]
    clock.now_s += 1.0
    assert [rate.take() for _ in range(4)] == [True] * 3 + [False]
    clock.now_s += 1e6
    assert [rate.take() for _ in range(31)] == [True] * 30 + [False], "silence is not saved up"


def test_the_smallest_rate_allows_one() -> None:
    assert Rate(0.001, Clock()).take()


def test_an_outcome_that_was_faster_than_its_call_is_not_waited_for() -> None:
    """Else its record would be looked for when it is gone, and the page be told that it is lost."""
    session = Session("s", Outbox(cast(Any, None), "s"), Rate(1.0))
    done = Outcome(Status.NO_UPDATE)
    session.heard([Event("p", "early", "c1", done)])
    session.expect("c1", "p", "early")
    session.expect("c2", "p", "late")
    assert session.awaited == {"c2": ("p", "late")}
    session.heard([Event("p", "late", "c2", props=b"{}"), Event("p", "late", "c2", done)])
    assert not session.awaited
    session.expect("c2", "p", "late")
    assert len(session.awaited) == 1, "asked for once more, it has to be told once more"
