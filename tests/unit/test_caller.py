"""Who waits for tasks, for whom, and what becomes of it at the end."""

import asyncio
from typing import Any

import msgspec
import pytest

from dash_dispatch.caller import MAX_DEPTH, Scope, scope_of
from dash_dispatch.identity import Identity
from dash_dispatch.protocol import CallSpec, Outcome, RequestSnapshot, Status
from tests.stack import eventually

TASK = CallSpec("", "", "", "", "task:m:f", "default:loop", 1.0, b"{}", b"")


class Asked:
    """Takes calls and answers none, until it is told to."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, _spec: CallSpec, scope: Scope) -> Outcome:
        self.scopes.append(scope)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Outcome(Status.OK, b"1")


async def nobody() -> Identity:
    return Identity()


async def test_it_is_asked_from_the_loop_and_from_threads() -> None:
    asked = Asked()
    asked.go.set()
    with Scope(asked, nobody) as scope:
        assert (await asyncio.wrap_future(scope.submit(TASK))).body == b"1"
        assert (await asyncio.to_thread(lambda: scope.submit(TASK).result(10))).body == b"1"
        assert (await scope.ask(TASK)).body == b"1"


async def test_the_end_cancels_what_is_waited_for_and_nothing_can_be_asked_any_more() -> None:
    asked = Asked()
    scope = Scope(asked, nobody)
    futures = [scope.submit(TASK) for _ in range(3)]
    await eventually(lambda: len(asked.scopes) == 3, "all are asked")
    scope.close()
    await asyncio.wait([asyncio.wrap_future(future) for future in futures], timeout=10)
    assert all(future.cancelled() for future in futures)
    assert asked.cancelled == 3
    with pytest.raises(RuntimeError, match="has ended"):
        scope.submit(TASK)


async def test_a_future_that_is_cancelled_cancels_its_call_alone() -> None:
    asked = Asked()
    with Scope(asked, nobody) as scope:
        first, second = scope.submit(TASK), scope.submit(TASK)
        await eventually(lambda: len(asked.scopes) == 2, "both are asked")
        waiting = asyncio.wrap_future(first)
        waiting.cancel()
        await eventually(lambda: asked.cancelled, "the first is cancelled")
        asked.go.set()
        assert (await asyncio.wrap_future(second)).status is Status.OK
    assert asked.cancelled == 1


async def test_tasks_wait_for_tasks_up_to_a_depth() -> None:
    async def at(depth: int) -> Scope:
        spec = msgspec.structs.replace(TASK, request=str(depth))
        return scope_of(spec, Asked(), named=False)

    assert (await at(0)).depth == 1
    (await at(MAX_DEPTH - 2)).submit(TASK).cancel()
    with pytest.raises(RuntimeError, match=f"{MAX_DEPTH} tasks wait for each other"):
        (await at(MAX_DEPTH - 1)).submit(TASK)


def callback(user: str, **snapshot: Any) -> CallSpec:
    return CallSpec(
        "c", "s", "p", "r", "out.children", "default:loop", 1.0, b"",
        msgspec.json.encode(RequestSnapshot(**snapshot)), user=user,
    )  # fmt: skip


async def test_a_task_is_for_the_user_of_its_callback() -> None:
    async def who(spec: CallSpec, *, named: bool = False) -> Identity:
        return await scope_of(spec, Asked(), named=named).who()

    ann = await who(callback("browser", cookies={"login": "ann"}))
    assert ann.turns == "browser"
    assert ann == await who(callback("browser", cookies={"login": "ann"}))
    assert ann.cache != (await who(callback("browser", cookies={"login": "bob"}))).cache
    token = await who(callback("browser", headers={"Authorization": "Bearer a"}))
    assert token.cache != (await who(callback("browser"))).cache
    assert await who(callback("ann", cookies={"x": "1"}), named=True) == Identity("ann", "ann")
    # And so is a task of that task.
    task = msgspec.structs.replace(TASK, request="0", snapshot=msgspec.json.encode(ann))
    assert await who(task) == ann
