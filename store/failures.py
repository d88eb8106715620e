"""Work that keeps failing for one book or proposal."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.failures import FailingView


async def failed(session: AsyncSession, task: str, subject: str, reason: str) -> None:
    """Put on record that the last attempt at a task failed for a subject."""
    await session.execute(
        text(
            "INSERT INTO failing_work (task, subject, reason) VALUES (:task, :subject, :reason) "
            "ON CONFLICT (task, subject) DO UPDATE SET reason = excluded.reason, last_at = clock_timestamp()"
        ),
        {"task": task, "subject": subject, "reason": reason},
    )


async def succeeded(session: AsyncSession, task: str, subject: str) -> None:
    """The last attempt succeeded."""
    await session.execute(
        text("DELETE FROM failing_work WHERE task = :task AND subject = :subject"), {"task": task, "subject": subject}
    )


async def subjects(session: AsyncSession, task: str) -> set[str]:
    """For whom a task failed when it was tried last."""
    result = await session.execute(text("SELECT subject FROM failing_work WHERE task = :task"), {"task": task})
    return set(result.scalars())


async def forget(session: AsyncSession, book: str) -> None:
    """Forget what failed for a book, which was removed."""
    await session.execute(text("DELETE FROM failing_work WHERE subject = :book"), {"book": book})


async def listing(session: AsyncSession, limit: int) -> list[FailingView]:
    """What fails at the moment, the longest first; at most ``limit``."""
    result = await session.execute(
        text("SELECT task, subject, reason, since, last_at FROM failing_work ORDER BY since, task, subject LIMIT :n"),
        {"n": limit},
    )
    return [FailingView.model_validate(dict(row)) for row in result.mappings()]
