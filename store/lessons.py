"""Lessons: runs, what they say now, and what they said before."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.lessons import (
    BuiltLessons,
    LearningLesson,
    LearningRegimeWeights,
    LessonGroup,
    LessonHistory,
    LessonRun,
    LessonVersion,
    LessonView,
)
from closeloop.store import locks
from closeloop.store.pages import page
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

_VIEW = (
    "lesson_id, book_id AS book, pattern_key, action_category, scope, n, avg_rr, variance, win_rate, edge_raw, effect, "
    "effect_low, effect_high, half_life_hours, p, q, actionable, explained_by, status, edge_score, factors, "
    "newest_trade_at, version, as_of, policy_hash"
)
_HISTORY = tuple(LessonHistory.model_fields)
_REPLACE = "(lesson_id) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in LearningLesson.model_fields if column != "lesson_id"
)


async def hold(session: AsyncSession, book: str) -> None:
    """Hold the lessons and overrides of a book until the transaction ends: one run or decision at a time."""
    await locks.book_lessons(session, book)


async def last_run(session: AsyncSession, book: str) -> RowMapping | None:
    """The newest version of a book's lessons."""
    result = await session.execute(
        text("SELECT * FROM lesson_runs WHERE book_id = :book ORDER BY version DESC LIMIT 1"), {"book": book}
    )
    return result.mappings().first()


async def run_of(session: AsyncSession, book: str, workflow_run: str) -> RowMapping | None:
    """The version that a workflow's run has written, if it has."""
    result = await session.execute(
        text("SELECT * FROM lesson_runs WHERE book_id = :book AND workflow_run = :run"),
        {"book": book, "run": workflow_run},
    )
    return result.mappings().first()


async def groups(session: AsyncSession, book: str) -> Sequence[Row[Any]]:
    """(pattern_key, action_category, trades, policy_hash) as each group was last mined."""
    result = await session.execute(
        text("SELECT pattern_key, action_category, trades, policy_hash FROM lesson_groups WHERE book_id = :book"),
        {"book": book},
    )
    return result.all()


async def write(
    session: AsyncSession,
    run: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    lessons: Sequence[Mapping[str, Any]],
    weights: Sequence[Mapping[str, Any]],
) -> int:
    """Write a version: its groups' lessons replace those of the versions before, which go into the history with them.

    Lessons of these groups that the version does not have are retired; returns how many. The caller holds the book.
    """
    await execute(session, insertion(LessonRun, [run]))
    await execute(
        session,
        insertion(
            LessonGroup,
            groups,
            on_conflict="(book_id, pattern_key, action_category) DO UPDATE SET trades = excluded.trades, "
            "version = excluded.version, policy_hash = excluded.policy_hash",
        ),
    )
    await execute(session, insertion(LearningLesson, lessons, on_conflict=_REPLACE))
    keys = {"book": run["book_id"], "version": run["version"], "as_of": run["as_of"]}
    retired = await session.execute(
        text(
            "UPDATE learning_lessons l SET status = 'retired', actionable = false, version = :version, as_of = :as_of "  # noqa: S608
            f"FROM {recordset(LessonGroup)} g WHERE l.book_id = :book AND l.status <> 'retired' "
            "AND l.version < :version AND (l.pattern_key, l.action_category) = (g.pattern_key, g.action_category) "
            "RETURNING l.lesson_id"
        ),
        keys | {"rows": as_json(groups)},
    )
    columns = ", ".join(_HISTORY)
    await session.execute(
        text(
            f"INSERT INTO lesson_history ({columns}) SELECT {columns} FROM learning_lessons "  # noqa: S608
            "WHERE book_id = :book AND version = :version"
        ),
        {"book": run["book_id"], "version": run["version"]},
    )
    await execute(
        session,
        Write(
            "DELETE FROM learning_regime_weights w USING "  # noqa: S608
            f"{recordset(LessonGroup)} g WHERE (w.book_id, w.pattern_key, w.action_category) = "
            "(g.book_id, g.pattern_key, g.action_category)",
            as_json(groups),
        ),
    )
    await execute(session, insertion(LearningRegimeWeights, weights))
    return len(retired.all())


async def set_report(session: AsyncSession, book: str, version: int, report: BuiltLessons) -> None:
    """Store what a run came to, as a retry of it will answer."""
    await session.execute(
        text("UPDATE lesson_runs SET report = CAST(:report AS jsonb) WHERE book_id = :book AND version = :version"),
        {"book": book, "version": version, "report": report.model_dump_json()},
    )


_LISTING = page(
    f"SELECT {_VIEW} FROM learning_lessons WHERE (CAST(:book AS text) IS NULL OR book_id = :book)",  # noqa: S608
    key="lesson_id",
    order="book, pattern_key, action_category, array_position(ARRAY['active', 'baseline', 'shadow', 'retired'], "
    "status), abs(coalesce(effect, 0)) DESC, lesson_id",
)


async def listing(
    session: AsyncSession, book: str | None, *, last: int | None = None, before: str | None = None
) -> list[LessonView]:
    """Lessons of a book or of all: by group the accepted ones first, the largest effect first. See ``pages.page``."""
    result = await session.execute(text(_LISTING), {"book": book, "last": last, "before": before})
    return [LessonView.model_validate(dict(row)) for row in result.mappings()]


async def find(session: AsyncSession, lesson_id: str) -> LessonView | None:
    """A lesson."""
    result = await session.execute(
        text(f"SELECT {_VIEW} FROM learning_lessons WHERE lesson_id = :id"),  # noqa: S608
        {"id": lesson_id},
    )
    row = result.mappings().first()
    return None if row is None else LessonView.model_validate(dict(row))


async def history(session: AsyncSession, lesson_id: str) -> list[LessonVersion]:
    """What each run said of a lesson, the oldest first."""
    columns = ", ".join(LessonVersion.model_fields)
    result = await session.execute(
        text(f"SELECT {columns} FROM lesson_history WHERE lesson_id = :id ORDER BY version"),  # noqa: S608
        {"id": lesson_id},
    )
    return [LessonVersion.model_validate(dict(row)) for row in result.mappings()]


async def actionable(session: AsyncSession, book: str) -> list[LessonView]:
    """Lessons of a book that are to be acted on."""
    result = await session.execute(
        text(f"SELECT {_VIEW} FROM learning_lessons WHERE book_id = :book AND actionable ORDER BY lesson_id"),  # noqa: S608
        {"book": book},
    )
    return [LessonView.model_validate(dict(row)) for row in result.mappings()]
