"""What takes how much, what has left the database, and what will."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.periods import PeriodicTask
from closeloop.models.policy import RetentionPolicy
from closeloop.models.retention import Leaving, StorageReport, TemporalFile, WillLeave
from closeloop.services import periods
from closeloop.services.workers import LIVES_FOR
from closeloop.store.storage import CLOSES

COUNTED_AT_MOST = 200_000


async def report(
    session: AsyncSession, own: RetentionPolicy, now: datetime, temporal_file: TemporalFile | None
) -> StorageReport:
    """All of it. What will leave is told by the policy of the workers that live, or by one's own where none does."""
    policy, whose = await _policy(session, own)
    tables = await store.storage.tables(session)
    [standing] = [one for one in await periods.standing(session, now) if one.work == PeriodicTask.retention]
    return StorageReport(
        closes=next((table.rows for table in tables if table.table == CLOSES), None),
        database_bytes=await store.storage.database_bytes(session),
        tables=tables,
        temporal_file=temporal_file,
        archives=await store.retention.archives(session),
        leaving=[await _will_leave(session, policy, table, standing.next_at) for table in Leaving],
        by_policy_of=whose,
    )


async def _policy(session: AsyncSession, own: RetentionPolicy) -> tuple[RetentionPolicy, str]:
    found = [
        policy["retention"]
        for policy in (await store.workers.policies(session, LIVES_FOR, 10)).values()
        if "retention" in policy
    ]
    if not found:
        return own, "this command: no worker lives"
    differ = any(policy != found[0] for policy in found)
    whose = "one of the workers: they differ, 'closeloop status' says how" if differ else "the workers"
    return RetentionPolicy.model_validate(found[0]), whose


async def _will_leave(session: AsyncSession, policy: RetentionPolicy, table: Leaving, next_at: datetime) -> WillLeave:
    days = policy.days_of(table)
    rows = 0
    if days is not None:
        rows = await store.retention.count_leaving(session, table, next_at - timedelta(days=days), COUNTED_AT_MOST)
    return WillLeave(
        table=table,
        days=days,
        archived=policy.archive,
        next_at=next_at,
        rows=rows,
        counted_to_the_end=rows < COUNTED_AT_MOST,
    )
