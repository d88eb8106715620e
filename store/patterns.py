"""What learners have still to take in, the executed actions of closed trades, and coefficients."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.contexts import completed
from closeloop.models.patterns import Coefficients, LearningConfig, PatternTradeEvent, Unlearned
from closeloop.models.policy import SameTrade
from closeloop.models.positions import PositionKey
from closeloop.store import locks, market_contexts
from closeloop.store.books import not_archived
from closeloop.store.pages import page
from closeloop.store.repeats import repeated_in_groups
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

ROWS_PER_FETCH = 2_000

# Rows are locked by key before they are deleted: transactions that claim the same outcomes wait for each other instead
# of deadlocking, and the one that waited finds the rows gone and gets nothing.
_CLAIM = (
    "WITH held AS MATERIALIZED (SELECT u.book_id, u.position_id FROM "  # noqa: S608
    # a look-up for each: whatever the planner thinks of a table that is empty most of the time
    f"(SELECT * FROM {recordset(Unlearned)} ORDER BY book_id, position_id) r CROSS JOIN LATERAL "
    "(SELECT u.book_id, u.position_id FROM unlearned u WHERE (u.learner, u.book_id, u.position_id) = "
    "(r.learner, r.book_id, r.position_id) FOR UPDATE) u), "
    "gone AS (DELETE FROM unlearned u USING held h "
    "WHERE (u.learner, u.book_id, u.position_id) = (:learner, h.book_id, h.position_id)) "
    "SELECT h.book_id, h.position_id, p.entry_context FROM held h JOIN positions p USING (book_id, position_id) "
    "ORDER BY h.book_id, h.position_id"
)


def marking_unlearned(keys: Sequence[PositionKey], learners: Sequence[str]) -> Write | None:
    """The write that marks each of these outcomes as not yet learned by each of these learners."""
    rows = [_row(learner, key) for learner in sorted(learners) for key in keys]
    return insertion(Unlearned, rows, on_conflict="(learner, book_id, position_id) DO NOTHING")


async def claim(session: AsyncSession, learner: str, keys: Sequence[PositionKey]) -> dict[PositionKey, Any]:
    """Remove this learner's marks from these outcomes; returns the entry contexts, by key, of those that had one.

    Each with what the record adds of the market. The caller lets the learner take these in within the same transaction.
    """
    if not keys:
        return {}
    ordered = sorted(set(keys))
    rows = await session.execute(
        text(_CLAIM), {"rows": as_json([_row(learner, key) for key in ordered]), "learner": learner}
    )
    contexts = {PositionKey(row.book_id, row.position_id): row.entry_context for row in rows}
    # Asked for once the marks are held: what was filled in while this waited for them is seen.
    found = await market_contexts.found(session, list(contexts))
    return {key: completed(context, found.get(key)) for key, context in contexts.items()}


async def missed(
    session: AsyncSession, learner: str, books: Sequence[str] | None, after: PositionKey | None, limit: int
) -> list[PositionKey]:
    """The next outcomes, by key, that a learner has still to take in, after the given one; their marks are locked.

    Outcomes that another transaction has locked, or that are postponed, are left out where ``books`` is None, and
    waited for or tried where books are named: an import ends when its own books are learned.
    """
    await session.execute(text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"))
    skip = " SKIP LOCKED" if books is None else ""
    rows = await session.execute(
        text(
            "SELECT book_id, position_id FROM unlearned WHERE learner = :learner "  # noqa: S608
            f"AND {not_archived('unlearned.book_id')} "
            "AND (CASE WHEN CAST(:books AS text[]) IS NULL "
            "THEN coalesce(next_attempt_at <= clock_timestamp(), true) ELSE book_id = ANY(CAST(:books AS text[])) END) "
            "AND (CAST(:book AS text) IS NULL "
            'OR (book_id, position_id) > (CAST(:book AS text), CAST(:id AS text) COLLATE "C")) '
            f"ORDER BY book_id, position_id LIMIT :limit FOR UPDATE{skip}"
        ),
        {
            "learner": learner,
            "books": None if books is None else list(books),
            "book": after.book if after else None,
            "id": after.position_id if after else None,
            "limit": limit,
        },
    )
    return [PositionKey(row.book_id, row.position_id) for row in rows]


async def postpone(session: AsyncSession, learner: str, key: PositionKey) -> None:
    """A learner failed on this outcome by itself: it is tried again in 10 minutes, then ever more seldom, to daily."""
    await session.execute(
        text(
            "UPDATE unlearned SET attempts = attempts + 1, next_attempt_at = clock_timestamp() "
            "+ least(interval '10 minutes' * 2 ^ least(attempts, 10), interval '1 day') "
            "WHERE (learner, book_id, position_id) = (:learner, :book, :id)"
        ),
        {"learner": learner, "book": key.book, "id": key.position_id},
    )


def storing_actions(rows: Sequence[Mapping[str, Any]]) -> Write | None:
    """The write that stores executed actions of closed trades; an action that is on record stays as it is."""
    return insertion(PatternTradeEvent, rows, on_conflict="(book_id, position_id, action_index) DO NOTHING")


async def set_scopes(session: AsyncSession, scopes: Mapping[PositionKey, Mapping[str, str]], policy_hash: str) -> int:
    """Give the actions of these closes (of one book) the scope that is known of them now; returns how many there are.

    Their groups are due to be mined, however few of their trades are new. The caller's transaction holds the lessons
    of the book until it ends.
    """
    rows = [
        {"book_id": key.book, "position_id": key.position_id, "scope": scope, "policy_hash": policy_hash}
        for key, scope in scopes.items()
    ]
    for book in sorted({key.book for key in scopes}):
        await locks.book_lessons(session, book)
    result = await session.execute(
        text(
            "WITH changed AS (UPDATE pattern_trade_events e SET scope = r.scope, policy_hash = r.policy_hash "  # noqa: S608
            f"FROM {recordset(PatternTradeEvent)} r WHERE (e.book_id, e.position_id) = (r.book_id, r.position_id) "
            "RETURNING e.book_id, e.pattern_key, e.action_category), "
            "due AS (UPDATE lesson_groups g SET policy_hash = '' FROM (SELECT DISTINCT * FROM changed) c "
            "WHERE (g.book_id, g.pattern_key, g.action_category) = (c.book_id, c.pattern_key, c.action_category)) "
            "SELECT count(*) FROM changed"
        ),
        {"rows": as_json(rows)},
    )
    return int(result.scalar_one())


async def groups(session: AsyncSession, book: str, as_of: Any, rule: SameTrade) -> Sequence[Row[Any]]:
    """(pattern_key, action_category, trades, repeated) of a book's groups, closed by ``as_of``, by key.

    ``trades``: distinct ones with R, each once. ``repeated``: how many others are one of them again.
    """
    result = await session.execute(
        text(
            "SELECT pattern_key, action_category, count(DISTINCT position_id) - coalesce(repeated, 0) AS trades, "  # noqa: S608
            "coalesce(repeated, 0) AS repeated FROM pattern_trade_events LEFT JOIN "
            f"(SELECT pattern_key, action_category, count(*) AS repeated FROM ({repeated_in_groups(rule)}) again "
            "GROUP BY 1, 2) counted USING (pattern_key, action_category) "
            "WHERE book_id = :book AND closed_at <= :as_of AND rr IS NOT NULL GROUP BY 1, 2, repeated ORDER BY 1, 2"
        ),
        {"book": book, "as_of": as_of},
    )
    return result.all()


async def trades(
    session: AsyncSession, book: str, as_of: Any, wanted: Sequence[tuple[str, str]], rule: SameTrade
) -> AsyncIterator[Sequence[Row[Any]]]:
    """Actions of trades with R in these groups, closed by ``as_of``, group after group, in batches off the server.

    A trade that is on record again under other ids comes once.
    """
    rows = [{"pattern_key": pattern, "action_category": action} for pattern, action in wanted]
    result = await session.stream(
        text(
            f"WITH again AS MATERIALIZED ({repeated_in_groups(rule)}) "  # noqa: S608
            "SELECT e.pattern_key, e.action_category, e.position_id, e.symbol, e.rr, e.opened_at, e.closed_at, e.scope "
            f"FROM pattern_trade_events e JOIN {recordset(PatternTradeEvent)} r USING (pattern_key, action_category) "
            "WHERE e.book_id = :book AND e.closed_at <= :as_of AND e.rr IS NOT NULL "
            "AND NOT EXISTS (SELECT FROM again a WHERE (a.pattern_key, a.action_category, a.position_id) = "
            "(e.pattern_key, e.action_category, e.position_id)) "
            "ORDER BY e.pattern_key, e.action_category"
        ),
        {"book": book, "as_of": as_of, "rows": as_json(rows)},
        execution_options={"yield_per": ROWS_PER_FETCH},
    )
    async for batch in result.partitions():
        yield batch


async def books(session: AsyncSession, after: str | None = None, limit: int | None = None) -> list[str]:
    """The first ``limit`` books that learn and have actions on record, by name in the order of its bytes."""
    result = await session.execute(
        text(
            "SELECT book_id FROM books b WHERE EXISTS (SELECT FROM pattern_trade_events e WHERE e.book_id = b.book_id) "
            'AND b.archived_at IS NULL AND (CAST(:after AS text) IS NULL OR book_id COLLATE "C" > :after) '
            'ORDER BY book_id COLLATE "C" LIMIT CAST(:limit AS bigint)'
        ),
        {"after": after, "limit": limit},
    )
    return list(result.scalars())


async def hold_config(session: AsyncSession, book: str, module: str, policy_hash: str) -> RowMapping:
    """A module's coefficients in a book; their row is created if need be and locked until the transaction ends."""
    result = await session.execute(
        text(
            "INSERT INTO learning_configs (book_id, module_id, config_data, sums, policy_hash) "
            "VALUES (:book, :module, '{}', '{}', :policy) "
            "ON CONFLICT (book_id, module_id) DO UPDATE SET book_id = excluded.book_id RETURNING config_data, sums"
        ),
        {"book": book, "module": module, "policy": policy_hash},
    )
    return result.mappings().one()


async def set_config(session: AsyncSession, row: Mapping[str, Any]) -> None:
    """Store coefficients whose row the caller has locked: book_id, module_id, config_data, sums, policy_hash."""
    sql = (
        "UPDATE learning_configs c SET config_data = r.config_data, sums = r.sums, policy_hash = r.policy_hash, "  # noqa: S608
        f"updated_at = clock_timestamp() FROM {recordset(LearningConfig)} r "
        "WHERE (c.book_id, c.module_id) = (r.book_id, r.module_id)"
    )
    await execute(session, Write(sql, as_json([row])))


async def configs(
    session: AsyncSession, book: str | None, last: int | None = None, before: str | None = None
) -> list[Coefficients]:
    """Coefficients by book and module, of one book or of all.

    Only the ``last`` of them, and of those only what comes before the module ``before`` (BOOK/MODULE).
    """
    query = (
        "SELECT book_id AS book, module_id, config_data, policy_hash, updated_at, book_id || '/' || module_id AS name "
        "FROM learning_configs WHERE CAST(:book AS text) IS NULL OR book_id = :book"
    )
    result = await session.execute(
        text(page(query, key="name", order="book, module_id")), {"book": book, "last": last, "before": before}
    )
    return [Coefficients.model_validate(dict(row)) for row in result.mappings()]


async def trades_of(
    session: AsyncSession, book: str, pattern_key: str, action_category: str, as_of: Any, rule: SameTrade
) -> AsyncIterator[RowMapping]:
    """Trades with R of a group, each once, in the order in which they closed, streamed."""
    result = await session.stream(
        text(
            f"WITH again AS MATERIALIZED ({repeated_in_groups(rule)}) "  # noqa: S608
            "SELECT once.position_id, symbol, scope, rr, pnl, opened_at, closed_at FROM "
            "(SELECT DISTINCT ON (position_id) * FROM pattern_trade_events "
            "WHERE book_id = :book AND pattern_key = :pattern AND action_category = :action "
            "AND closed_at <= :as_of AND rr IS NOT NULL ORDER BY position_id, action_index) once "
            "WHERE NOT EXISTS (SELECT FROM again a WHERE (a.pattern_key, a.action_category, a.position_id) = "
            "(once.pattern_key, once.action_category, once.position_id)) "
            "ORDER BY closed_at, position_id"
        ),
        {"book": book, "pattern": pattern_key, "action": action_category, "as_of": as_of},
        execution_options={"yield_per": ROWS_PER_FETCH},
    )
    async for row in result.mappings():
        yield row


def _row(learner: str, key: PositionKey) -> dict[str, str]:
    return {"learner": learner, "book_id": key.book, "position_id": key.position_id}
