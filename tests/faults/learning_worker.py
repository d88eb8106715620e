"""A worker process for test_learning_killed.py, which kills it, or which kills itself at a given place."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from closeloop.activities.learners import Learner
from closeloop.activities.patterns import PatternEvents, TimeframeCoefficients
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import PositionKey, PositionOutcome
from closeloop.store.database import open_engine
from closeloop.workers.wiring import build_worker

READY = "ready"
POLICY = LearningPolicy()


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


class LearnerDiesBeforeCommit(TimeframeCoefficients):
    """The process dies after the learner has written, before the commit."""

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        await super().take_in(session, outcomes, contexts)
        die()


class LearnerDiesAfterCommit(TimeframeCoefficients):
    """The process dies after the commit, before the workflow has the answer."""

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        await super().take_in(session, outcomes, contexts)
        event.listen(session.sync_session, "after_transaction_end", lambda _, ended: ended.parent is None and die())


class Fails(TimeframeCoefficients):
    """It cannot learn."""

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        raise RuntimeError("not in this process")


LEARNERS: dict[str, list[Learner]] = {
    "lives": [PatternEvents(POLICY), TimeframeCoefficients(POLICY)],
    "before": [PatternEvents(POLICY), LearnerDiesBeforeCommit(POLICY)],
    "after": [PatternEvents(POLICY), LearnerDiesAfterCommit(POLICY)],
    "fails": [PatternEvents(POLICY), Fails(POLICY)],
}


async def main(address: str, dsn: str, queue: str, folder: str, mode: str) -> None:
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    worker = build_worker(
        client,
        open_engine(dsn, pool_size=5),
        POLICY,
        concurrency=4,
        overlay_folder=Path(folder),
        corpus_folder=Path(folder),
        archive_folder=Path(folder),
        learners=LEARNERS[mode],
        task_queue=queue,
    )
    async with worker:
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
