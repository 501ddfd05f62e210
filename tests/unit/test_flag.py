"""`tasks.Flag`, by what an ``asyncio.Event`` would do."""

import asyncio

import pytest

from dash_dispatch.tasks import Flag


async def test_who_waits_is_woken() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    flag.set()
    await waiting
    assert flag.is_set()
    await flag.wait()
    flag.clear()
    assert not flag.is_set()


async def test_setting_it_twice_is_setting_it_once() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.set()
    await waiting


async def test_who_gives_up_leaves_room_for_the_next() -> None:
    flag = Flag()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flag.wait()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    await waiting


async def test_it_is_for_one_who_waits() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one who waits"):
        await flag.wait()
    flag.set()
    await waiting
