"""The same trade again under another id: how it is told from another trade.

Whoever imports an export twice under other ids, or shifted in time, has every trade's outcome several times; what is
taken for independent evidence then is not. A repeat is never refused: it is counted, and mined once.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.policy import SameTrade
from closeloop.models.positions import SAME_RESULT, Position, PositionKey
from closeloop.store.rows import as_json, recordset

_PRICES = ("entry_price", "exit_price")
_HELD = "({0}.closed_at - {0}.opened_at)"


def identity(rule: SameTrade, position: str, scope: str) -> str:
    """The SQL expressions that are equal of a trade and its repeats: of the table alias ``position``, and a scope.

    The five numbers of a result are compared by a hash of 64 bits, as the scope is: two of 100,000 different trades
    share one with a probability of 3e-10.
    """
    result = SAME_RESULT.format(f"{position}.")
    if rule == "result":
        return result
    return ", ".join([result, *(f"{position}.{price}" for price in _PRICES), f"jsonb_hash_extended({scope}, 0)"])


def repeated_in_groups(rule: SameTrade) -> str:
    """A query of (pattern_key, action_category, position_id): in each group of the book ``:book`` the trades with R,
    closed by ``:as_of``, that are another one again; of a trade and its repeats the first to close is none.

    A repeat that closes later never takes its original's place, whenever it was imported.
    """
    if rule == "never":
        return (
            "SELECT pattern_key, action_category, position_id FROM pattern_trade_events WHERE false AND "
            "book_id = :book AND closed_at <= CAST(:as_of AS timestamptz)"
        )
    same = identity(rule, "p", "e.scope")
    return (
        "SELECT DISTINCT pattern_key, action_category, position_id FROM ("  # noqa: S608
        f"SELECT e.pattern_key, e.action_category, e.position_id, {SAME_RESULT.format('p.')} AS result, "
        "first_value(e.position_id) OVER (PARTITION BY e.pattern_key, e.action_category, "
        f"{same} ORDER BY e.closed_at, e.position_id) AS original "
        "FROM pattern_trade_events e JOIN positions p USING (book_id, position_id) "
        "WHERE e.book_id = :book AND e.closed_at <= :as_of AND e.rr IS NOT NULL) once "
        "WHERE result IS NOT NULL AND position_id <> original"
    )


async def count(session: AsyncSession, rule: SameTrade, keys: Sequence[PositionKey]) -> dict[str, int]:
    """Of these attributed positions, by book, how many are another one again that was recorded before it."""
    if not keys or rule == "never":
        return {}
    same = "o.symbol = p.symbol AND o.direction = p.direction AND o.size = p.size AND o.realized_pnl = p.realized_pnl "
    same += f"AND {_HELD.format('o')} = {_HELD.format('p')}"
    if rule == "exact":
        same += "".join(f" AND o.{price} = p.{price}" for price in _PRICES)
        same += " AND (o.entry_context -> 'scope') IS NOT DISTINCT FROM (p.entry_context -> 'scope')"
    result = await session.execute(
        text(
            "SELECT p.book_id, count(*) AS repeated FROM "  # noqa: S608
            f"{recordset(Position)} r JOIN positions p ON (p.book_id, p.position_id) = (r.book_id, r.position_id) "
            "WHERE EXISTS (SELECT FROM positions o WHERE o.book_id = p.book_id AND o.attributed "
            f"AND {SAME_RESULT.format('o.')} = {SAME_RESULT.format('p.')} AND {same} "
            "AND (o.recorded_at, o.position_id) < (p.recorded_at, p.position_id)) GROUP BY p.book_id"
        ),
        {"rows": as_json([{"book_id": key.book, "position_id": key.position_id} for key in keys])},
    )
    return {row.book_id: row.repeated for row in result}
