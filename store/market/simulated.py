"""A simulated market on record, and taking it out again: the market is one for all books, and a real one must never go
on from a simulated one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_OTHER = text(
    """
    SELECT EXISTS (SELECT 1 FROM regime_price_data_ohlc WHERE timestamp < :first OR timestamp >= :until)
        OR EXISTS (SELECT 1 FROM market_states WHERE bar_end <= :first OR bar_end > :until)
        OR EXISTS (SELECT 1 FROM market_sources)
        OR EXISTS (SELECT 1 FROM market_tokens WHERE asset <> ALL(CAST(:tokens AS text[])))
        OR EXISTS (SELECT 1 FROM price_history WHERE asset = ANY(CAST(:assets AS text[])) AND interval_seconds = 60
                   AND (ends_at <= :first OR ends_at > :until OR source <> 'simulated'))
    """
)
_FORGET = (
    "DELETE FROM market_checkpoints",
    "DELETE FROM market_bar_counts",
    "DELETE FROM market_changes WHERE subject LIKE 'bars/%' OR subject LIKE 'bucket/%' "
    "OR subject IN (SELECT 'asset/' || a FROM unnest(CAST(:assets AS text[])) AS a)",
    "DELETE FROM market_states WHERE bar_end > :first AND bar_end <= :until",
    "DELETE FROM regime_price_data_ohlc WHERE timestamp >= :first AND timestamp < :until",
    "DELETE FROM market_tokens WHERE asset = ANY(CAST(:tokens AS text[]))",
    "DELETE FROM price_history WHERE asset = ANY(CAST(:assets AS text[])) AND interval_seconds = 60 "
    "AND source = 'simulated' AND ends_at > :first AND ends_at <= :until",
)


async def is_alone(
    session: AsyncSession, first: datetime, until: datetime, tokens: Sequence[str], assets: Sequence[str]
) -> bool:
    """Whether the record has nothing else of a market than one that was simulated between two instants, of these
    tokens of buckets and candles of these assets."""
    return not (await session.execute(_OTHER, _values(_OTHER.text, first, until, tokens, assets))).scalar_one()


async def forget(
    session: AsyncSession, first: datetime, until: datetime, tokens: Sequence[str], assets: Sequence[str]
) -> None:
    """Delete such a market, and where computations would go on from, in the caller's transaction."""
    for statement in _FORGET:
        await session.execute(text(statement), _values(statement, first, until, tokens, assets))


def _values(
    statement: str, first: datetime, until: datetime, tokens: Sequence[str], assets: Sequence[str]
) -> dict[str, Any]:
    values = {"first": first, "until": until, "tokens": list(tokens), "assets": list(assets)}
    return {name: value for name, value in values.items() if f":{name}" in statement}
