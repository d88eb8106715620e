"""Heartbeats of an activity whose single steps may take long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity

EVERY_SECONDS = 3.0


@asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Send a heartbeat every three seconds in the background.

    A worker whose heartbeats stop was then killed; one that is only slow goes on sending them.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            activity.heartbeat()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
