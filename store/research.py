"""Research: which closes wait to be studied, and what was said of them."""

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.readings import Hypothesis
from closeloop.models.research import (
    DayTotals,
    LlmLearning,
    ResearchView,
    Sample,
    Statement,
    StatementKind,
    StatementStatus,
)
from closeloop.store import attributions
from closeloop.store.rows import execute, insertion

# The watermark stays this far behind the present: a close that was attributed before it, in a transaction that commits
# after it was moved, would never be found.
WATERMARK_OVERLAP = timedelta(minutes=5)
_COLUMNS = (
    "id, book_id AS book, position_id, kind, level, module, status, content, model, prompt_version, input_tokens, "
    "output_tokens, cost_usd, as_of, run, policy_hash, created_at"
)
_UNREAD = (
    f"a.{attributions.IS_LIVE} AND a.attributed_at > coalesce((SELECT studied_until FROM llm_watermarks w "  # noqa: S608
    "WHERE w.book_id = a.book_id), '-infinity') AND NOT EXISTS (SELECT FROM llm_learning l "
    "WHERE (l.book_id, l.level, l.position_id) = (a.book_id, 1, a.position_id))"
)


# -- what is to be studied ----------------------------------------------------------------------------------------


async def books_due(session: AsyncSession, as_of: datetime, limit: int) -> list[str]:
    """The first ``limit`` books with live closes that nobody read, or with readings since they were last looked over.

    The book that has waited longest comes first: otherwise one book's closes could take every day's budget.
    """
    result = await session.execute(
        text(
            "SELECT book_id FROM books b WHERE b.archived_at IS NULL AND (EXISTS (SELECT FROM attributions a "  # noqa: S608
            f"WHERE a.book_id = b.book_id AND a.closed_at <= :as_of AND {_UNREAD}) OR {_NEWLY_READ}) ORDER BY "
            "(SELECT coalesce(max(l.id), 0) FROM llm_learning l WHERE l.book_id = b.book_id), book_id LIMIT :limit"
        ),
        {"as_of": as_of, "limit": limit},
    )
    return list(result.scalars())


_NEWLY_READ = (
    "(SELECT max(id) FROM llm_learning l WHERE l.book_id = b.book_id AND l.level = 1) > "
    "coalesce((SELECT max(id) FROM llm_learning l WHERE l.book_id = b.book_id AND l.level = 2), 0)"
)


async def newly_read(session: AsyncSession, book: str) -> bool:
    """Whether closes of the book were read since it was last looked over."""
    result = await session.execute(
        text(f"SELECT {_NEWLY_READ} FROM books b WHERE b.book_id = :book"),  # noqa: S608
        {"book": book},
    )
    return bool(result.scalar_one_or_none())


async def unread_closes(session: AsyncSession, book: str, as_of: datetime, limit: int) -> Sequence[RowMapping]:
    """Live closes that nobody read, the earliest attributed first, as facts are made of them."""
    result = await session.execute(
        text(
            f"SELECT {_TRADE} FROM attributions a JOIN positions p USING (book_id, position_id) "  # noqa: S608
            f"WHERE a.book_id = :book AND a.closed_at <= :as_of AND {_UNREAD} "
            "ORDER BY a.attributed_at, a.position_id LIMIT :limit"
        ),
        {"book": book, "as_of": as_of, "limit": limit},
    )
    return result.mappings().all()


async def unread_count(session: AsyncSession, book: str, as_of: datetime) -> int:
    """How many live closes of a book nobody read yet."""
    result = await session.execute(
        text(
            "SELECT count(*) FROM attributions a WHERE a.book_id = :book AND a.closed_at <= :as_of "  # noqa: S608
            f"AND {_UNREAD}"
        ),
        {"book": book, "as_of": as_of},
    )
    return int(result.scalar_one())


async def recent_closes(session: AsyncSession, book: str, as_of: datetime, limit: int) -> Sequence[RowMapping]:
    """The newest live closes of a book, newest first."""
    result = await session.execute(
        text(
            f"SELECT {_TRADE} FROM attributions a JOIN positions p USING (book_id, position_id) "  # noqa: S608
            f"WHERE a.book_id = :book AND a.closed_at <= :as_of AND a.{attributions.IS_LIVE} "
            "ORDER BY a.closed_at DESC, a.position_id DESC LIMIT :limit"
        ),
        {"book": book, "as_of": as_of, "limit": limit},
    )
    return result.mappings().all()


_TRADE = (
    "a.position_id, a.symbol, a.direction, a.closed_at, a.time_held_hours, a.rr, a.direction_correct AS won, "
    "a.max_drawdown_pct, a.max_favorable_pct, a.regime_at_entry, p.exit_reason, a.producers, p.entry_context, "
    "ARRAY(SELECT DISTINCT e.pattern_key || ' ' || e.action_category FROM pattern_trade_events e "
    "WHERE (e.book_id, e.position_id) = (a.book_id, a.position_id) ORDER BY 1) AS patterns"
)


async def book_record(session: AsyncSession, book: str, as_of: datetime) -> RowMapping:
    """Number of trades, wins and mean R of a book."""
    result = await session.execute(
        text(
            "SELECT count(*) AS trades, count(*) FILTER (WHERE direction_correct) AS wins, avg(rr) AS avg_rr "
            "FROM attributions WHERE book_id = :book AND closed_at <= :as_of"
        ),
        {"book": book, "as_of": as_of},
    )
    return result.mappings().one()


async def advance_watermark(session: AsyncSession, book: str) -> None:
    """Move a book's watermark just before its earliest unread live close, or else to the present, less the overlap.

    It never moves back; closes before it are not looked at again.
    """
    await session.execute(
        text(
            "INSERT INTO llm_watermarks (book_id, studied_until) SELECT :book, "  # noqa: S608
            "least(coalesce((SELECT min(a.attributed_at) - interval '1 microsecond' FROM attributions a "
            f"WHERE a.book_id = :book AND {_UNREAD}), 'infinity'), "
            "transaction_timestamp() - CAST(:overlap AS interval)) "
            "ON CONFLICT (book_id) DO UPDATE SET studied_until = greatest(llm_watermarks.studied_until, "
            "excluded.studied_until)"
        ),
        {"book": book, "overlap": WATERMARK_OVERLAP},
    )


_GROUPS = """
    WITH newest AS (
        SELECT * FROM pattern_trade_events WHERE book_id = :book AND closed_at <= :as_of
        ORDER BY closed_at DESC LIMIT :limit
    ), trades AS (
        SELECT DISTINCT ON (pattern_key, action_category, position_id) pattern_key, action_category, scope, rr, pnl
        FROM newest ORDER BY pattern_key, action_category, position_id, action_index
    )
    SELECT pattern_key, action_category, dimension, value, count(*) AS trades,
           count(*) FILTER (WHERE pnl > 0) AS wins, avg(rr) AS avg_rr
    FROM trades CROSS JOIN LATERAL
        (SELECT '' AS dimension, '' AS value UNION ALL SELECT * FROM jsonb_each_text(scope)) d
    GROUP BY 1, 2, 3, 4 HAVING dimension = '' OR count(*) >= :fewest
    ORDER BY 1, 2, dimension COLLATE "C", count(*) DESC, value COLLATE "C"
"""
_SAMPLES = """
    WITH trades AS (
        SELECT DISTINCT ON (position_id) rr, date(opened_at AT TIME ZONE 'UTC') AS day,
               scope @> CAST(:scope AS jsonb) AS inside
        FROM pattern_trade_events WHERE book_id = :book AND pattern_key = :pattern AND action_category = :action
        AND rr IS NOT NULL AND closed_at <= :as_of ORDER BY position_id, action_index
    )
    SELECT day, inside, count(*) AS n, sum(rr) AS total, avg(rr) AS mean, coalesce(var_samp(rr), 0) AS variance
    FROM trades GROUP BY GROUPING SETS ((inside), (day, inside))
"""


async def groups(session: AsyncSession, book: str, as_of: datetime, newest: int, fewest: int) -> Sequence[RowMapping]:
    """Records of each pattern and action over the book's newest facts, whole (``dimension`` is empty) and by value.

    Values that fewer than ``fewest`` trades have are left out.
    """
    result = await session.execute(text(_GROUPS), {"book": book, "as_of": as_of, "limit": newest, "fewest": fewest})
    return result.mappings().all()


async def lessons(session: AsyncSession, book: str, as_of: datetime, limit: int) -> Sequence[RowMapping]:
    """The lessons in force, actionable and large ones first."""
    result = await session.execute(
        text(
            "SELECT pattern_key, action_category, scope, n, avg_rr, coalesce(effect, edge_raw) AS effect, actionable "
            "FROM learning_lessons WHERE book_id = :book AND status = 'active' AND as_of <= :as_of "
            "ORDER BY actionable DESC, abs(coalesce(effect, edge_raw)) DESC, lesson_id LIMIT :limit"
        ),
        {"book": book, "as_of": as_of, "limit": limit},
    )
    return result.mappings().all()


async def samples(
    session: AsyncSession, book: str, hypothesis: Hypothesis, as_of: datetime
) -> tuple[Sample, Sample, list[DayTotals]]:
    """R-multiples of the trades that meet a hypothesis's condition, of the others, and of both by day of entry."""
    result = await session.execute(
        text(_SAMPLES),
        {
            "book": book,
            "pattern": hypothesis.pattern_key,
            "action": hypothesis.action_category,
            "scope": json.dumps(hypothesis.scope),
            "as_of": as_of,
        },
    )
    whole = {True: Sample(0), False: Sample(0)}
    days: dict[date, dict[bool, tuple[int, float]]] = {}
    for row in result:
        if row.day is None:
            whole[row.inside] = Sample(row.n, row.mean, row.variance)
        else:
            days.setdefault(row.day, {})[row.inside] = (row.n, row.total)
    none = (0, 0.0)
    by_day = [DayTotals(*days[day].get(True, none), *days[day].get(False, none)) for day in sorted(days)]
    return whole[True], whole[False], by_day


# -- what was said ------------------------------------------------------------------------------------------------


def digest_of(prompt: str) -> str:
    """Names a level-2 question by its facts: the same prompt is the same question."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def question_key(book: str, level: int, version: str, about: str) -> str:
    """The dedupe key of a question, which is answered once. ``about``: a position's id, or a digest of the facts."""
    return f"{book}/{level}/{version}/{about}"


async def write(session: AsyncSession, statements: Sequence[Statement]) -> None:
    """Store statements; one whose dedupe key is on record stays as it is."""
    rows = [asdict(statement) for statement in statements]
    await execute(session, insertion(LlmLearning, rows, on_conflict="(dedupe_key) DO NOTHING"))


async def is_answered(session: AsyncSession, key: str) -> bool:
    """Whether this question was answered, or given up."""
    result = await session.execute(text("SELECT 1 FROM llm_learning WHERE dedupe_key = :key"), {"key": key})
    return result.scalar_one_or_none() is not None


async def tested_hypotheses(session: AsyncSession, book: str, last: int) -> Sequence[RowMapping]:
    """The newest ``last`` hypotheses of a book, each with its status after the test."""
    result = await session.execute(
        text(
            "SELECT content, status FROM llm_learning WHERE book_id = :book AND level = 2 AND kind = 'hypothesis' "
            "ORDER BY id DESC LIMIT :last"
        ),
        {"book": book, "last": last},
    )
    return result.mappings().all()


async def listing(
    session: AsyncSession,
    book: str | None,
    kind: StatementKind | None,
    status: StatementStatus | None,
    last: int | None = None,
    before: int | None = None,
) -> AsyncIterator[ResearchView]:
    """Rows of research, oldest first, streamed: the newest ``last`` of those before the row ``before``."""
    query = (
        f"SELECT {_COLUMNS} FROM llm_learning WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "  # noqa: S608
        "AND (CAST(:kind AS text) IS NULL OR kind = :kind) AND (CAST(:status AS text) IS NULL OR status = :status) "
        "AND (CAST(:before AS bigint) IS NULL OR id < :before) ORDER BY id"
    )
    if last is not None:
        query = f"SELECT * FROM ({query} DESC LIMIT :last) newest ORDER BY id"  # noqa: S608
    values = {"book": book, "kind": kind, "status": status, "before": before}
    result = await session.stream(
        text(query),
        values | ({} if last is None else {"last": last}),
        execution_options={"yield_per": 1000},
    )
    async for row in result.mappings():
        yield ResearchView.model_validate(dict(row))


async def find(session: AsyncSession, number: int) -> ResearchView | None:
    """One row of research."""
    result = await session.execute(
        text(f"SELECT {_COLUMNS} FROM llm_learning WHERE id = :id"),  # noqa: S608
        {"id": number},
    )
    row = result.mappings().one_or_none()
    return None if row is None else ResearchView.model_validate(dict(row))
