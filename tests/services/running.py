"""Workers that say that they live."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.launches import LLM_TASK_QUEUE, TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.workers import ResearchSetup, WorkerBeat
from closeloop.services.workers import FORGOTTEN_AFTER


def setup(**changes: Any) -> ResearchSetup:
    return ResearchSetup.model_validate(
        {"model": "a-model", "key_present": True, "budget_usd_per_day": Decimal("0.5")} | changes
    )


def beat(worker_id: str, policy: LearningPolicy | None = None, /, **changes: Any) -> WorkerBeat:
    """What a worker would say: ``1@host``, of every queue, with the default policy."""
    policy = policy or LearningPolicy()
    said = {
        "worker_id": worker_id, "host": "host", "pid": 1, "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "version": "1", "policy_hash": policy.policy_hash, "policy": policy.model_dump(mode="json"),
        "queues": [TASK_QUEUE, LLM_TASK_QUEUE], "research": setup(),
    }  # fmt: skip
    return WorkerBeat.model_validate(said | changes)


async def publish(
    session: AsyncSession, worker_id: str, policy: LearningPolicy | None = None, /, **changes: Any
) -> None:
    await store.workers.publish(session, beat(worker_id, policy, **changes), FORGOTTEN_AFTER)
