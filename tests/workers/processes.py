"""Processes of a test's own: what they do to the interpreter, they do to their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("CLOSELOOP_", "TEMPORAL_", "OTEL_", "DATABASE_URL")


@asynccontextmanager
async def script(
    module: str, *arguments: str, home: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``python -m module`` against the stack of this home; killed where the test ends before it does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=inherited | {"CLOSELOOP_HOME": str(home), "PYTHONFAULTHANDLER": "1"} | dict(environment or {}),
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process, seconds: float = PATIENCE) -> str:
    """The next line that it prints; empty where it ended."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), seconds)).decode().strip()


async def end(process: asyncio.subprocess.Process, seconds: float = PATIENCE) -> int:
    """Let it go on and end; its exit status."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()
    return await asyncio.wait_for(process.wait(), seconds)
