"""Lets old events leave, and kills itself at a boundary, for test_retention_killed.py.

Boundaries are counted: before each statement and each commit, and before a file is opened or renamed.
"""

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from closeloop.activities.retention import RetentionActivities
from closeloop.gateways.archive import ArchiveFolder
from closeloop.models.policy import LearningPolicy
from closeloop.models.retention import Leaving, LeavingBatch
from closeloop.store.database import open_engine, sessions_of
from tests.faults.boundaries import Boundaries


async def main(dsn: str, folder: str, as_of: str, rows: str, die_at: str) -> None:
    engine = open_engine(dsn)
    boundaries = Boundaries(int(die_at))

    def of_files(name: str, arguments: tuple[Any, ...]) -> None:
        if name in ("open", "os.rename") and folder in str(arguments[0]):
            boundaries.reach()

    boundaries.watch(engine)
    sys.addaudithook(of_files)
    activities = RetentionActivities(
        sessions_of(engine), LearningPolicy(), ArchiveFolder(Path(folder)), batch_rows=int(rows)
    )
    batch = LeavingBatch(table=Leaving.events, as_of=datetime.fromisoformat(as_of))
    while (await activities.let_leave(batch)).more:
        pass
    print(boundaries.passed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
