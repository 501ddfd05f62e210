"""The floor: a process that pops a message and pushes it back, and does nothing else."""

import asyncio
import sys

from redis.asyncio import Redis


async def main(port: int) -> None:
    client = Redis(port=port)
    print("ready", flush=True)
    while True:
        popped = await client.blpop("floor:there", 0)
        await client.lpush("floor:back", popped[1])


asyncio.run(main(int(sys.argv[1])))
