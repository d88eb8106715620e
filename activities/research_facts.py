"""The facts that research reads: trades, lessons, groups and hypotheses of a book, cut to what a prompt may hold."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.contexts import completed
from closeloop.learning.research import fact
from closeloop.learning.scope import flatten
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import PositionKey
from closeloop.models.readings import (
    MAX_DIMENSIONS,
    BookFacts,
    GroupFacts,
    JudgedFacts,
    LessonFacts,
    TradeFacts,
    TradesRecord,
    TradeToRead,
)

RECENT_TRADES_IN_PROMPT = 40
LESSONS_IN_PROMPT = 40
GROUPS_IN_PROMPT = 10
VALUES_A_DIMENSION = 6
HYPOTHESES_IN_PROMPT = 20
NAMES_A_TRADE = 20  # of its producers, and of its patterns
# The records of groups are counted over so many of a book's newest executed actions.
GROUPED_ACTIONS = 20_000


async def unread_trades(
    session: AsyncSession, book: str, as_of: datetime, limit: int, policy: LearningPolicy
) -> dict[str, TradeToRead]:
    """Live closes that nobody read, by position, each beside the record of its book."""
    rows = await store.research.unread_closes(session, book, as_of, limit)
    record = TradesRecord.model_validate(await store.research.book_record(session, book, as_of))
    trades = await _trades(session, book, rows, policy)
    return {row["position_id"]: TradeToRead(trade=trade, book=record) for row, trade in zip(rows, trades, strict=True)}


async def book_facts(session: AsyncSession, book: str, as_of: datetime, policy: LearningPolicy) -> BookFacts:
    """What a book is looked over for."""
    recent = await store.research.recent_closes(session, book, as_of, RECENT_TRADES_IN_PROMPT)
    lessons = await store.research.lessons(session, book, as_of, LESSONS_IN_PROMPT)
    judged = await store.research.tested_hypotheses(session, book, HYPOTHESES_IN_PROMPT)
    groups = await store.research.groups(session, book, as_of, GROUPED_ACTIONS, policy.mining.min_trades)
    return BookFacts(
        recent=await _trades(session, book, recent, policy),
        lessons=[LessonFacts.model_validate({**row, **_named(row), "scope": _facts(row["scope"])}) for row in lessons],
        groups=_groups(groups),
        tested=[
            JudgedFacts(
                **_named(row["content"]),
                scope=_facts({c["dimension"]: c["value"] for c in row["content"]["conditions"]}),
                claim=row["content"]["claim"],
                status=row["status"],
            )
            for row in judged
        ],
    )


async def _trades(
    session: AsyncSession, book: str, rows: Sequence[RowMapping], policy: LearningPolicy
) -> list[TradeFacts]:
    """Trades, with what the record adds of the market at their openings."""
    keys = [PositionKey(book, row["position_id"]) for row in rows]
    found = await store.market_contexts.found(session, keys)
    return [
        _trade(row, flatten(completed(row["entry_context"], found.get(key)), policy.patterns).values)
        for key, row in zip(keys, rows, strict=True)
    ]


def _trade(row: RowMapping, scope: Mapping[str, str]) -> TradeFacts:
    return TradeFacts(
        symbol=fact(row["symbol"]),
        direction=row["direction"],
        closed_at=row["closed_at"],
        time_held_hours=row["time_held_hours"],
        rr=row["rr"],
        won=row["won"],
        max_drawdown_pct=row["max_drawdown_pct"],
        max_favorable_pct=row["max_favorable_pct"],
        regime_at_entry=row["regime_at_entry"] and fact(row["regime_at_entry"]),
        exit_reason=row["exit_reason"] and fact(row["exit_reason"]),
        producers=[fact(name) for name in row["producers"][:NAMES_A_TRADE]],
        patterns=[fact(name) for name in row["patterns"][:NAMES_A_TRADE]],
        scope=_facts(dict(list(scope.items())[:MAX_DIMENSIONS])),
    )


def _named(row: RowMapping | Mapping[str, Any]) -> dict[str, str]:
    return {name: fact(row[name]) for name in ("pattern_key", "action_category")}


def _facts(scope: Mapping[str, str]) -> dict[str, str]:
    return {fact(dimension): fact(value) for dimension, value in scope.items()}


def _groups(rows: Sequence[RowMapping]) -> list[GroupFacts]:
    """The largest groups, each dimension with its most frequent values."""
    found: dict[tuple[str, str], GroupFacts] = {}
    for row in rows:
        record = TradesRecord(trades=row["trades"], wins=row["wins"], avg_rr=row["avg_rr"])
        if not row["dimension"]:
            group = GroupFacts(**_named(row), record=record, dimensions={})
            found[row["pattern_key"], row["action_category"]] = group
            continue
        group = found[row["pattern_key"], row["action_category"]]
        values = group.dimensions.setdefault(fact(row["dimension"]), {})
        if len(values) < VALUES_A_DIMENSION and len(group.dimensions) <= MAX_DIMENSIONS:
            values[fact(row["value"])] = record
    return sorted(found.values(), key=lambda group: -group.record.trades)[:GROUPS_IN_PROMPT]
