"""Lessons: the runs that mined them, their newest version, and the versions before."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
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
from closeloop.models.luck import LessonEvidence
from closeloop.models.policy import SameTrade
from closeloop.store import locks
from closeloop.store.pages import page
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

_VIEW = (
    "lesson_id, book_id AS book, pattern_key, action_category, scope, n, avg_rr, variance, win_rate, edge_raw, effect, "
    "effect_low, effect_high, half_life_hours, effect_now, effect_now_low, effect_now_high, p, q, actionable, "
    "explained_by, status, edge_score, factors, newest_trade_at, version, as_of, policy_hash"
)
_REPLACE = "(lesson_id) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in LearningLesson.model_fields if column != "lesson_id"
)


# What is compared to tell whether something of a lesson changed: without the version and its instant.
_SAID = ", ".join(column for column in LessonHistory.model_fields if column not in ("lesson_id", "version", "as_of"))
_COLUMNS = ", ".join(LessonHistory.model_fields)
_KEEP_HISTORY = text(
    f"INSERT INTO lesson_history ({_COLUMNS}) SELECT {_COLUMNS} FROM learning_lessons l "  # noqa: S608
    "WHERE book_id = :book AND version = :version "
    "AND (status IN ('active', 'baseline') OR EXISTS (SELECT FROM lesson_history h WHERE h.lesson_id = l.lesson_id)) "
    f"AND ROW({_SAID}) IS DISTINCT FROM (SELECT ROW({_SAID}) FROM lesson_history h WHERE h.lesson_id = l.lesson_id "
    "ORDER BY h.version DESC LIMIT 1)"
)


async def hold(session: AsyncSession, book: str) -> None:
    """Lock the lessons and overrides of a book until the transaction ends, for one run or decision at a time."""
    await locks.book_lessons(session, book)


class LastRun(NamedTuple):
    """The newest version of a book's lessons."""

    version: int
    as_of: datetime


async def last_run(session: AsyncSession, book: str) -> LastRun | None:
    """The newest version of a book's lessons; None before the first."""
    result = await session.execute(
        text("SELECT version, as_of FROM lesson_runs WHERE book_id = :book ORDER BY version DESC LIMIT 1"),
        {"book": book},
    )
    row = result.one_or_none()
    return None if row is None else LastRun(*row)


async def report_of(session: AsyncSession, book: str, workflow_run: str) -> BuiltLessons | None:
    """The report of the version that a workflow run wrote; None if it has written none."""
    result = await session.execute(
        text("SELECT report FROM lesson_runs WHERE book_id = :book AND workflow_run = :run"),
        {"book": book, "run": workflow_run},
    )
    report = result.scalar_one_or_none()
    return None if report is None else BuiltLessons.model_validate(report)


async def same_trade(session: AsyncSession, book: str, version: int) -> SameTrade:
    """By which rule a version took trades for the same one."""
    result = await session.execute(
        text("SELECT report FROM lesson_runs WHERE book_id = :book AND version = :version"),
        {"book": book, "version": version},
    )
    report = result.scalar_one_or_none()
    return BuiltLessons.model_validate(report).same_trade if report else "never"


async def groups(session: AsyncSession, book: str) -> list[LessonGroup]:
    """The groups of a book, each with the number of trades and the policy hash that it was last mined with."""
    columns = ", ".join(LessonGroup.model_fields)
    result = await session.execute(
        text(f"SELECT {columns} FROM lesson_groups WHERE book_id = :book"),  # noqa: S608
        {"book": book},
    )
    return [LessonGroup(**row) for row in result.mappings()]


async def carry_over_hash(session: AsyncSession, book: str, before: str, now: str) -> None:
    """Replace the policy hash ``before`` of a book's groups by ``now``, a hash of the same numbers.

    Groups that 0.1 mined are then not mined again only because the hash is computed otherwise.
    """
    await session.execute(
        text("UPDATE lesson_groups SET policy_hash = :now WHERE book_id = :book AND policy_hash = :before"),
        {"book": book, "before": before, "now": now},
    )


async def write(
    session: AsyncSession,
    run: LessonRun,
    groups: Sequence[LessonGroup],
    lessons: Sequence[LearningLesson],
    weights: Sequence[LearningRegimeWeights],
) -> int:
    """Write a version: its groups' lessons replace those of the versions before.

    What was ever accepted has a line in the history for each version in which something of it changed. Of shadows only
    those of the newest version are kept: a noisy book has tens of thousands, and nothing is decided by them. Lessons of
    these groups that the version does not have are retired; returns how many. The caller holds the book.
    """
    of_groups = [group.model_dump() for group in groups]
    await execute(session, insertion(LessonRun, [run.model_dump(exclude={"created_at"})]))
    await execute(
        session,
        insertion(
            LessonGroup,
            of_groups,
            on_conflict="(book_id, pattern_key, action_category) DO UPDATE SET trades = excluded.trades, "
            "version = excluded.version, policy_hash = excluded.policy_hash",
        ),
    )
    rows = [lesson.model_dump() for lesson in lessons]
    await execute(session, insertion(LearningLesson, rows, on_conflict=_REPLACE))
    of_run = {"book": run.book_id, "version": run.version, "as_of": run.as_of}
    gone = (
        f"FROM learning_lessons l JOIN {recordset(LessonGroup)} g USING (book_id, pattern_key, action_category) "
        "WHERE l.book_id = :book AND l.status <> 'retired' AND l.version < :version"
    )
    dropped = await session.execute(
        text(
            f"DELETE FROM learning_lessons WHERE lesson_id IN (SELECT l.lesson_id {gone} AND l.status = 'shadow' "  # noqa: S608
            "AND NOT EXISTS (SELECT FROM lesson_history h WHERE h.lesson_id = l.lesson_id)) RETURNING 1"
        ),
        {"book": run.book_id, "version": run.version, "rows": as_json(of_groups)},
    )
    retired = await session.execute(
        text(
            "UPDATE learning_lessons SET status = 'retired', actionable = false, version = :version, as_of = :as_of "  # noqa: S608
            f"WHERE lesson_id IN (SELECT l.lesson_id {gone}) RETURNING 1"
        ),
        of_run | {"rows": as_json(of_groups)},
    )
    await session.execute(_KEEP_HISTORY, of_run)
    await execute(
        session,
        Write(
            "DELETE FROM learning_regime_weights w USING "  # noqa: S608
            f"{recordset(LessonGroup)} g WHERE (w.book_id, w.pattern_key, w.action_category) = "
            "(g.book_id, g.pattern_key, g.action_category)",
            as_json(of_groups),
        ),
    )
    await execute(session, insertion(LearningRegimeWeights, [row.model_dump() for row in weights]))
    return len(dropped.all()) + len(retired.all())


async def set_report(session: AsyncSession, book: str, version: int, report: BuiltLessons) -> None:
    """Store the report of a version, which a retry of the same workflow run returns."""
    await session.execute(
        text("UPDATE lesson_runs SET report = CAST(:report AS jsonb) WHERE book_id = :book AND version = :version"),
        {"book": book, "version": version, "report": report.model_dump_json()},
    )


_LISTING = page(
    f"SELECT {_VIEW} FROM learning_lessons WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "  # noqa: S608
    "AND (:shadows OR status = 'active' OR lesson_id = CAST(:before AS text))",
    key="lesson_id",
    order="book, pattern_key, action_category, array_position(ARRAY['active', 'baseline', 'shadow', 'retired'], "
    "status), abs(coalesce(effect, 0)) DESC, lesson_id",
)


async def listing(
    session: AsyncSession, book: str | None, *, shadows: bool = True, last: int | None = None, before: str | None = None
) -> list[LessonView]:
    """Lessons of a book or of all: by group the accepted ones first, the largest effect first. See ``pages.page``.

    Without ``shadows`` only the accepted ones.
    """
    values = {"book": book, "shadows": shadows, "last": last, "before": before}
    result = await session.execute(text(_LISTING), values)
    return [LessonView.model_validate(dict(row)) for row in result.mappings()]


async def find(session: AsyncSession, lesson_id: str) -> LessonView | None:
    """A lesson by its id; None if there is none."""
    result = await session.execute(
        text(f"SELECT {_VIEW} FROM learning_lessons WHERE lesson_id = :id"),  # noqa: S608
        {"id": lesson_id},
    )
    row = result.mappings().first()
    return None if row is None else LessonView.model_validate(dict(row))


async def evidence(session: AsyncSession, lesson_id: str) -> LessonEvidence | None:
    """The luck that a lesson was weighed against; None where that is not on record."""
    result = await session.execute(
        text("SELECT evidence FROM learning_lessons WHERE lesson_id = :id"), {"id": lesson_id}
    )
    kept = result.scalar_one_or_none()
    return None if kept is None else LessonEvidence.model_validate(kept)


async def untold(session: AsyncSession, book: str | None) -> tuple[int, int, LessonEvidence | None]:
    """Of the groups of a book, or of all, as they were last mined: how many there are, how many conditions stood out in
    them and could not be told from luck, and the evidence of the group with the strongest of these."""
    result = await session.execute(
        text(
            "SELECT evidence, count(*) OVER () AS groups, coalesce(sum((evidence ->> 'untold')::bigint) OVER (), 0) "
            "AS untold FROM learning_lessons WHERE status = 'baseline' "
            "AND (CAST(:book AS text) IS NULL OR book_id = :book) "
            "ORDER BY (evidence #>> '{examples,0,p_of_trades}')::float8 NULLS LAST, lesson_id LIMIT 1"
        ),
        {"book": book},
    )
    row = result.one_or_none()
    if row is None:
        return 0, 0, None
    return row.groups, int(row.untold), None if row.evidence is None else LessonEvidence.model_validate(row.evidence)


async def history(session: AsyncSession, lesson_id: str) -> list[LessonVersion]:
    """What runs said of a lesson, the oldest first: those in which something of it changed, and the newest."""
    columns = ", ".join(LessonVersion.model_fields)
    result = await session.execute(
        text(
            f"SELECT {columns} FROM lesson_history WHERE lesson_id = :id UNION ALL "  # noqa: S608
            f"SELECT {columns} FROM learning_lessons l WHERE lesson_id = :id AND NOT EXISTS "
            "(SELECT FROM lesson_history h WHERE (h.lesson_id, h.version) = (l.lesson_id, l.version)) ORDER BY version"
        ),
        {"id": lesson_id},
    )
    return [LessonVersion.model_validate(dict(row)) for row in result.mappings()]


async def actionable(session: AsyncSession, book: str) -> list[LessonView]:
    """Lessons of a book from which overrides are made, by id."""
    result = await session.execute(
        text(f"SELECT {_VIEW} FROM learning_lessons WHERE book_id = :book AND actionable ORDER BY lesson_id"),  # noqa: S608
        {"book": book},
    )
    return [LessonView.model_validate(dict(row)) for row in result.mappings()]
