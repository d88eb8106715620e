"""A process that says that a worker lives, until it is killed: ``python -m tests.workers.published_worker DSN``."""

import asyncio
import sys
from datetime import timedelta

from closeloop.workers.publishing import published
from tests.services.running import beat


async def main(dsn: str) -> None:
    async with published(dsn, beat("killed"), timedelta(milliseconds=100)):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
