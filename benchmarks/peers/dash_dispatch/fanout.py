"""A process that sends one update to many pages, as the store lets it: a ``post`` for each.

There is no public way to push, so this uses what such a way would. The sessions come on standard
input; each push is asked for by an entry in a list.
"""

import asyncio
import json
import os
import sys
import time

from redis.asyncio import Redis

from dash_dispatch import Settings
from dash_dispatch.protocol import Event
from dash_dispatch.store import Store

AT_ONCE = 64


async def main():
    sessions = json.loads(sys.stdin.readline())
    store = Store(Settings.read())
    asked = Redis.from_url(os.environ["DASH_DISPATCH_REDIS_URL"])
    while True:
        _, number = await asked.blpop("fanout:push", 0)
        props = {"componentId": "shown", "props": {"data": time.time()}}
        event = Event("push", "push", f"push-{int(number)}", props=json.dumps(props).encode())
        left = iter(sessions)

        async def post(left=left, event=event):
            for session in left:
                await store.post(session, event)

        await asyncio.gather(*(post() for _ in range(AT_ONCE)))


asyncio.run(main())
