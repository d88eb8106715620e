"""Computes affected outcomes again, as ``closeloop prices recompute`` does, for test_recompute_killed.py."""

import asyncio
import sys
from datetime import UTC, datetime

from closeloop.models.policy import LearningPolicy
from closeloop.services import outcome_corrections
from closeloop.store.database import session_for


async def main(dsn: str) -> None:
    async with session_for(dsn) as session:
        print("ready", flush=True)
        done = await outcome_corrections.recompute(session, LearningPolicy(), datetime.now(UTC))
        print(done.corrected, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
