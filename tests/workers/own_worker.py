"""A worker beside the session's: on a queue, a database or a namespace of the test's own."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker

from closeloop.activities.learners import Learner
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.workers.wiring import build_worker


def own_worker(
    client: Client,
    engine: AsyncEngine,
    folder: Path,
    *,
    learners: Sequence[Learner] | None = None,
    task_queue: str = TASK_QUEUE,
) -> Worker:
    """A worker with every workflow and activity; ``folder`` is for the files that it writes."""
    return build_worker(
        client,
        engine,
        LearningPolicy(),
        concurrency=8,
        overlay_folder=folder,
        corpus_folder=folder / "corpus",
        archive_folder=folder / "archive",
        learners=learners,
        task_queue=task_queue,
    )
