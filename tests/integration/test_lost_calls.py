"""What a web process still waits for, when it looks whether Redis has lost it."""

from collections.abc import AsyncIterator

import pytest

from dash_dispatch import Dash
from dash_dispatch.outbox import Outbox
from dash_dispatch.protocol import Outcome, Status
from dash_dispatch.runtime import Services
from dash_dispatch.session import Rate, Session
from dash_dispatch.threads import Threads
from tests.integration.conftest import SettingsFactory
from tests.integration.test_store import spec, started


@pytest.fixture
async def services(make_settings: SettingsFactory) -> AsyncIterator[Services]:
    settings = make_settings(secret_key="a secret for tests only")
    threads = Threads(1)
    made = Services(Dash(__name__, dispatch_settings=settings), settings, threads)
    yield made
    await made.store.close()
    threads.close()


async def test_only_what_is_lost_is_told(services: Services) -> None:
    """What waits or runs is waited for; what has ended lies in the mailbox, and is told there."""
    store = services.store
    session = Session("s", Outbox(store, "s"), Rate(1))
    runs = await started(store, spec("runs", session="s"))
    ended = await started(store, spec("ended", session="s"))
    await store.create(spec("waits", session="s"))
    await store.finish("w1", ended, Outcome(Status.OK, b"{}"))
    for call in ("waits", runs.id, ended.id, "lost"):
        session.awaited[call] = ("page", f"request {call}")

    await services.sessions.give_up_lost(session)
    await session.outbox.close(5)

    assert session.awaited.keys() == {"waits", "runs"}
    told = [entry.event for entry in await store.read("s", None, 10)]
    assert [event.call for event in told] == ["ended", "lost"]
    assert told[1].outcome is not None
    assert "Redis has lost this call" in told[1].outcome.failure.message
