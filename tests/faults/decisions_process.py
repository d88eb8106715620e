"""Fills in outcomes of decisions, and kills itself at a boundary, for test_decisions_killed.py.

Boundaries are counted: before each statement and each commit.
"""

import asyncio
import sys
from datetime import datetime

from temporalio.testing import ActivityEnvironment

from closeloop.activities.decisions import DecisionActivities
from closeloop.models.decisions import FillRequest
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import open_engine, sessions_of
from tests.faults.boundaries import Boundaries


async def main(dsn: str, as_of: str, page_size: str, die_at: str) -> None:
    engine = open_engine(dsn)
    boundaries = Boundaries(int(die_at))
    boundaries.watch(engine)
    activities = DecisionActivities(sessions_of(engine), LearningPolicy())
    activities.page_size = int(page_size)
    request = FillRequest(as_of=datetime.fromisoformat(as_of))
    await ActivityEnvironment().run(activities.fill_decision_outcomes, request)
    print(boundaries.passed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
