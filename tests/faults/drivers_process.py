"""Proposes other weights of a book's drivers, approves or reverts them, and kills itself at a boundary, for
test_drivers_killed.py.

Boundaries are counted: before each statement that writes or locks, and before each commit.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime

from closeloop.models.approvals import ApprovalKey, ApprovalVerdict, RecordApproval
from closeloop.models.policy import LearningPolicy
from closeloop.services import approvals, market_drivers
from closeloop.services.market_drivers import DriversProposal
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal
from tests.faults.boundaries import Boundaries

READING = ("SELECT", "WITH RECURSIVE")


def writes_or_locks(statement: str) -> bool:
    return not statement.lstrip().upper().startswith(READING) or "FOR UPDATE" in statement


async def main(step: str, dsn: str, book: str, as_of: str, die_at: str) -> None:
    settings = Settings.load()
    client = await connect_temporal(settings, Telemetry(settings))
    engine = open_engine(dsn)
    sessions = sessions_of(engine)
    boundaries = Boundaries(int(die_at))
    boundaries.watch(engine, writes_or_locks)
    if step == "propose":
        await market_drivers.propose(client, sessions, LearningPolicy(), book, datetime.fromisoformat(as_of))
    elif step == "approve":
        key = ApprovalKey(kind="drivers", book=book, id="1")
        word = RecordApproval(
            **key.model_dump(),
            verdict=ApprovalVerdict.approve,
            operator="ann",
            note="",
            at=datetime.now(UTC),
        )
        async with sessions.begin() as session:
            await approvals.decide(session, DriversProposal(), word)
    else:
        await market_drivers.revert(client, sessions, book, "bob", "")
    print(boundaries.passed, flush=True)
    await engine.dispose()
    os._exit(0)  # the Temporal client's threads can abort an interpreter that finalizes


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
