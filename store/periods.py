"""For which period each periodic task was done last."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.periods import PeriodicTask, WorkDone


class LastDone(NamedTuple):
    """The newest period of a task that was done, and when that was."""

    as_of: datetime
    done_at: datetime


async def last_done(session: AsyncSession, task: PeriodicTask) -> LastDone | None:
    """The newest period of a task that was done; None before the first."""
    result = await session.execute(
        text("SELECT as_of, done_at FROM periodic_work WHERE task = :task"), {"task": str(task)}
    )
    row = result.one_or_none()
    return None if row is None else LastDone(*row)


async def done(session: AsyncSession, work: WorkDone) -> None:
    """Put on record that a task was done as of an instant; one of an earlier period changes nothing."""
    await session.execute(
        text(
            "INSERT INTO periodic_work (task, as_of, workflow_id) VALUES (:task, :as_of, :workflow_id) "
            "ON CONFLICT (task) DO UPDATE SET as_of = excluded.as_of, workflow_id = excluded.workflow_id, "
            "done_at = clock_timestamp() WHERE periodic_work.as_of < excluded.as_of"
        ),
        {"task": str(work.task), "as_of": work.as_of, "workflow_id": work.workflow_id},
    )
