"""Plain arq: an empty job, and one that waits."""

import asyncio
import os

from arq.connections import RedisSettings

WAIT_S = 0.05


async def empty(_, value):
    return value


async def wait(_, value):
    await asyncio.sleep(WAIT_S)
    return value


class Worker:
    """As it comes, but for how often it looks and how many jobs it runs at once."""

    functions = (empty, wait)
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    poll_delay = float(os.environ["POLL_DELAY_S"])
    max_jobs = int(os.environ["MAX_JOBS"])
