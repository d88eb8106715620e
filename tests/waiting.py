"""Waiting for what happens: for a condition, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds after which what is waited for will not come. Nothing takes nearly as long, unless the machine is very busy.
PATIENCE = 180.0


async def eventually(look: Callable[[], Awaitable[T]], found: Callable[[T], bool], seconds: float = PATIENCE) -> T:
    """Look until what is there is what was awaited; after the deadline, what is there then (for an assertion)."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if found(seen) or time.monotonic() > deadline:
            return seen
        await asyncio.sleep(0.05)


async def until(what: str, happens: Callable[[], bool | Awaitable[bool]], every: float = 0.02) -> None:
    """Wait for something to happen; fail after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while True:
        answer = happens()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < end, f"{what}: did not happen in {PATIENCE:.0f} s"
        await asyncio.sleep(every)
