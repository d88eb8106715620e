"""Workers that run, by what they publish."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.workers import RunningWorker, WorkerBeat, WorkerView
from closeloop.store.rows import execute, insertion


async def publish(session: AsyncSession, beat: WorkerBeat, forget_after: timedelta) -> None:
    """Put on record that a worker lives, now by the database's clock; rows older than ``forget_after`` go."""
    row = beat.model_dump(mode="json")
    kept = ", ".join(f"{name} = excluded.{name}" for name in row if name != "worker_id")
    await execute(
        session,
        insertion(
            RunningWorker,
            [row],
            on_conflict=f"(worker_id) DO UPDATE SET {kept}, last_seen = clock_timestamp()",
        ),
    )
    await session.execute(
        text("DELETE FROM running_workers WHERE last_seen < clock_timestamp() - CAST(:age AS interval)"),
        {"age": forget_after},
    )


async def withdraw(session: AsyncSession, worker_id: str) -> None:
    """The worker has ended."""
    await session.execute(text("DELETE FROM running_workers WHERE worker_id = :id"), {"id": worker_id})


async def live(session: AsyncSession, within: timedelta, limit: int) -> list[WorkerView]:
    """Workers that were seen within a time, the longest running first; at most ``limit``."""
    result = await session.execute(
        text(
            "SELECT host, pid, started_at, last_seen, version, policy_hash, queues, research FROM running_workers "
            "WHERE last_seen > clock_timestamp() - CAST(:within AS interval) ORDER BY started_at, worker_id LIMIT :n"
        ),
        {"within": within, "n": limit},
    )
    return [WorkerView.model_validate(dict(row)) for row in result.mappings()]


async def policies(session: AsyncSession, within: timedelta, limit: int) -> dict[str, dict[str, Any]]:
    """The policies of workers that were seen within a time, by their hash; at most ``limit``."""
    result = await session.execute(
        text(
            "SELECT DISTINCT ON (policy_hash) policy_hash, policy FROM running_workers "
            "WHERE last_seen > clock_timestamp() - CAST(:within AS interval) ORDER BY policy_hash LIMIT :n"
        ),
        {"within": within, "n": limit},
    )
    return {row["policy_hash"]: row["policy"] for row in result.mappings()}
