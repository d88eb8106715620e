"""A worker says that it lives, and what it is set up with, for as long as it runs."""

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

from closeloop import store
from closeloop.models.policy import LearningPolicy
from closeloop.models.workers import ResearchSetup, WorkerBeat
from closeloop.services.workers import BEAT_EVERY, FORGOTTEN_AFTER
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.settings import Settings

ONE_WRITE_SECONDS = 10.0
logger = logging.getLogger(__name__)


def beat_of(settings: Settings, policy: LearningPolicy, queues: Sequence[str]) -> WorkerBeat:
    """What this process says of itself. Raises SettingsError."""
    return WorkerBeat(
        worker_id=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=datetime.now(UTC),
        version=version("closeloop"),
        policy_hash=policy.policy_hash,
        policy=policy.model_dump(mode="json"),
        queues=list(queues),
        research=ResearchSetup(
            model=settings.llm_model,
            key_present=settings.api_key() is not None,
            budget_usd_per_day=settings.llm_budget_usd_per_day,
        ),
    )


@asynccontextmanager
async def published(dsn: str, beat: WorkerBeat, every: timedelta = BEAT_EVERY) -> AsyncIterator[None]:
    """Keep the worker's row fresh, over a connection of its own, and take it away at the end.

    Where the row cannot be written, that is logged once, and the worker goes on.
    """
    engine = open_engine(dsn, pool_size=1)
    sessions = sessions_of(engine)
    written = await _publish(sessions, beat, True)
    beating = asyncio.create_task(_keep_fresh(sessions, beat, every, written))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait((beating,))
        with contextlib.suppress(Exception):  # it is forgotten by its age
            async with asyncio.timeout(ONE_WRITE_SECONDS), sessions.begin() as session:
                await store.workers.withdraw(session, beat.worker_id)
        await engine.dispose()


async def _keep_fresh(sessions: Sessions, beat: WorkerBeat, every: timedelta, written: bool) -> None:
    while True:
        await asyncio.sleep(every.total_seconds())
        written = await _publish(sessions, beat, written)


async def _publish(sessions: Sessions, beat: WorkerBeat, written_before: bool) -> bool:
    try:
        async with asyncio.timeout(ONE_WRITE_SECONDS), sessions.begin() as session:
            await store.workers.publish(session, beat, FORGOTTEN_AFTER)
    except Exception as error:  # whatever it is, it is no reason to stop working
        if written_before:
            logger.warning("cannot say that this worker lives", extra={"reason": type(error).__name__})
        return False
    return True
