"""Fills in outcomes of decisions, and kills itself at a boundary, for test_decisions_killed.py.

Boundaries are counted: before each statement and each commit.
"""

import asyncio
import os
import signal
import sys
from datetime import datetime
from typing import Any

from sqlalchemy import event
from temporalio.testing import ActivityEnvironment

from closeloop.activities.decisions import DecisionActivities
from closeloop.models.decisions import FillRequest
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import open_engine, sessions_of


async def main(dsn: str, as_of: str, page_size: str, die_at: str) -> None:
    engine = open_engine(dsn)
    passed = 0

    def boundary(*_: Any, **__: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine.sync_engine, "before_cursor_execute", boundary)
    event.listen(engine.sync_engine, "commit", boundary)
    activities = DecisionActivities(sessions_of(engine), LearningPolicy())
    activities.page_size = int(page_size)
    request = FillRequest(as_of=datetime.fromisoformat(as_of))
    await ActivityEnvironment().run(activities.fill_decision_outcomes, request)
    print(passed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
