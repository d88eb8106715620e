"""Decisions, discoveries and changes of positions, as engines send them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from closeloop import store
from closeloop.models.decisions import (
    HORIZONS_DAYS,
    DecisionMessage,
    DecisionSource,
    DecisionType,
    DecisionView,
    DiscoveryMessage,
    LearningDecision,
    LearningDiscovery,
    LearningTradeChange,
    TradeChangeMessage,
)
from closeloop.store.rows import as_json, execute, insertion, recordset

Key = tuple[str, str]
"""The book and the id of a message."""
DUE_AFTER = timedelta(minutes=5)  # the end of a horizon: by then its last candle is on record
# Absent in a message, it is when that arrived: sent again, it is the same all the same.
_TIMES = ("decided_at", "discovered_at", "changed_at")
_AT_ARRIVAL = frozenset({"received_at", "next_due_at", "awaits_close"})


@dataclass
class RecordedMessages:
    """What became of messages, by key: stored by this call, or on record with other values in these fields."""

    new: set[Key] = field(default_factory=set)
    differing: dict[Key, list[str]] = field(default_factory=dict)


def first_due(decided_at: datetime) -> datetime:
    """When the first outcome of a decision is due."""
    return decided_at + timedelta(days=HORIZONS_DAYS[0]) + DUE_AFTER


async def record(session: AsyncSession, messages: Mapping[Key, DecisionMessage], now: datetime) -> RecordedMessages:
    """Store decisions (sorted by key). One that is on record is compared, never overwritten."""
    rows = {key: _decision(message, now) for key, message in messages.items()}
    return await _record(session, LearningDecision, "decision_id", rows, _SENT_AS)


_SENT_AS = {
    "decision_type": "thesis.recommendation",
    "confidence": "thesis.confidence",
    "ai_generated": "thesis.ai_generated",
    "thesis_data": "thesis",
    "decided_at": "timestamp",
    "timestamp_stated": "timestamp",
    "decision_source": "source",
}


def _decision(message: DecisionMessage, now: datetime) -> dict[str, Any]:
    at = message.timestamp or now
    thesis = message.thesis
    kept = thesis.model_dump(mode="json", exclude={"recommendation", "confidence", "ai_generated"}, exclude_none=True)
    return {
        "book_id": message.book,
        "decision_id": message.decision_id,
        "symbol": message.symbol,
        "decided_at": at,
        "timestamp_stated": message.timestamp is not None,
        "received_at": now,
        "decision_type": thesis.recommendation,
        "decision_source": message.source,
        "confidence": thesis.confidence,
        "confidence_used": message.confidence_used,
        "arm": message.arm,
        "params_version": message.params_version,
        "market_regime": message.market_regime,
        "ai_generated": thesis.ai_generated,
        "position_id": message.position_id,
        "thesis_data": kept,
        "discovery_id": None,
        "score": None,
        "rank": None,
        "action_tag": None,
        "discovery_features": message.discovery_features,
        "market_conditions": message.market_conditions,
        "position_size_pct": message.position_size_pct,
        "entry_price": message.entry_price,
        "expected_volume_ratio": message.expected_volume_ratio,
        "catalyst_materialized": message.catalyst_materialized,
        "next_due_at": first_due(at),
        "awaits_close": message.position_id is not None,
    }


async def record_discoveries(
    session: AsyncSession, messages: Mapping[Key, DiscoveryMessage], now: datetime
) -> RecordedMessages:
    """Store discoveries (sorted by key) and a decision for each of their candidates."""
    rows = {key: _discovery(message, now) for key, message in messages.items()}
    recorded = await _record(session, LearningDiscovery, "discovery_id", rows, {"content": "candidates"})
    candidates = [row for key in sorted(recorded.new) for row in _candidates(messages[key], now)]
    await execute(session, insertion(LearningDecision, candidates, on_conflict="(book_id, decision_id) DO NOTHING"))
    return recorded


def _discovery(message: DiscoveryMessage, now: datetime) -> dict[str, Any]:
    content = json.dumps([candidate.model_dump(mode="json") for candidate in message.candidates], sort_keys=True)
    return {
        "book_id": message.book,
        "discovery_id": message.discovery_id,
        "discovered_at": message.timestamp or now,
        "timestamp_stated": message.timestamp is not None,
        "universe_size": message.universe_size,
        "candidates": len(message.candidates),
        "pipeline_stats": message.pipeline_stats,
        "market_conditions": message.market_conditions,
        "content": hashlib.sha256(content.encode()).hexdigest()[:32],
    }


def _candidates(message: DiscoveryMessage, now: datetime) -> list[dict[str, Any]]:
    at = message.timestamp or now
    conditions = message.market_conditions or {}
    regime = conditions.get("regime")
    return [
        {
            "book_id": message.book,
            "decision_id": f"{message.discovery_id}/{candidate.symbol}",
            "symbol": candidate.symbol,
            "decided_at": at,
            "timestamp_stated": message.timestamp is not None,
            "received_at": now,
            "decision_type": DecisionType.IGNORE,
            "decision_source": DecisionSource.discovery,
            "arm": candidate.arm,
            "params_version": candidate.params_version,
            "market_regime": regime[:200] if isinstance(regime, str) else None,
            "discovery_id": message.discovery_id,
            "score": candidate.score,
            "rank": candidate.rank,
            "action_tag": candidate.action_tag,
            "discovery_features": candidate.features,
            "next_due_at": first_due(at),
            "awaits_close": False,
        }
        for candidate in message.candidates
    ]


async def record_trade_changes(
    session: AsyncSession, messages: Mapping[Key, TradeChangeMessage], now: datetime
) -> RecordedMessages:
    """Store changes of positions (sorted by key)."""
    rows = {
        key: {
            "book_id": message.book,
            "change_id": message.change_id,
            "symbol": message.symbol,
            "change_type": message.change_type,
            "changed_at": message.timestamp or now,
            "timestamp_stated": message.timestamp is not None,
            "change_data": message.change_data,
        }
        for key, message in messages.items()
    }
    return await _record(session, LearningTradeChange, "change_id", rows, {"changed_at": "timestamp"})


async def take_back_trade_changes(session: AsyncSession, keys: Sequence[Key]) -> None:
    """Delete changes that this transaction stored, because the closes that they bring cannot be."""
    if keys:
        await session.execute(
            text(
                "DELETE FROM learning_trade_changes WHERE (book_id, change_id) IN "
                "(SELECT * FROM unnest(CAST(:books AS text[]), CAST(:ids AS text[])))"
            ),
            {"books": [book for book, _ in keys], "ids": [name for _, name in keys]},
        )


async def _record(
    session: AsyncSession,
    table: type[SQLModel],
    id_column: str,
    rows: Mapping[Key, dict[str, Any]],
    sent_as: Mapping[str, str],
) -> RecordedMessages:
    """Insert rows that are not there, and compare the others, as PostgreSQL reads both."""
    if not rows:
        return RecordedMessages()
    written = await execute(
        session,
        store.books.creating({book for book, _ in rows}),
        insertion(
            table,
            list(rows.values()),
            on_conflict=f"(book_id, {id_column}) DO NOTHING",
            returning=f"book_id, {id_column} AS id",
        ),
    )
    recorded = RecordedMessages(new={(row.book_id, row.id) for row in written})
    others = [row for key, row in rows.items() if key not in recorded.new]
    if not others:
        return recorded
    compared = [name for name in others[0] if name not in _AT_ARRIVAL | {"book_id", id_column}]
    unstated = "AND (p.timestamp_stated OR r.timestamp_stated)"  # two that were not said are when each arrived
    differs = ", ".join(
        f"CASE WHEN p.{name} IS DISTINCT FROM r.{name} {unstated if name in _TIMES else ''} THEN '{name}' END"
        for name in compared
    )
    result = await session.execute(
        text(
            f"SELECT p.book_id, p.{id_column} AS id, array_remove(ARRAY[{differs}], NULL) AS differing "  # noqa: S608
            f"FROM {table.__tablename__} p JOIN {recordset(table)} r USING (book_id, {id_column})"
        ),
        {"rows": as_json(others)},
    )
    for row in result:
        if row.differing:
            recorded.differing[row.book_id, row.id] = list(dict.fromkeys(sent_as.get(n, n) for n in row.differing))
    return recorded


_VIEW = (
    "SELECT d.book_id AS book, d.decision_id, d.symbol, d.decided_at, d.timestamp_stated, d.decision_type, "
    "d.decision_source, d.confidence, d.confidence_used, d.arm, d.params_version, d.market_regime, d.ai_generated, "
    "d.position_id, d.discovery_id, d.score, d.rank, d.action_tag, o.return_1d, o.return_7d, o.return_30d, "
    "o.max_favorable_excursion, o.max_adverse_excursion, o.volatility_realized, o.coverage, o.price_at_evaluation, "
    "o.evaluation_date, o.thesis_accuracy_score, coalesce(o.position_closed, false) AS position_closed, o.exit_price, "
    "o.exit_reason, coalesce(o.unresolvable, '{}') AS unresolvable "
    "FROM learning_decisions d LEFT JOIN learning_outcomes o USING (book_id, decision_id) "
)
_LISTED = (
    "(CAST(:book AS text) IS NULL OR d.book_id = :book) "
    "AND (CAST(:source AS text) IS NULL OR d.decision_source = :source) "
    "AND (CAST(:at AS timestamptz) IS NULL OR (d.decided_at, d.book_id, d.decision_id) < "
    '(CAST(:at AS timestamptz), CAST(:of AS text), CAST(:id AS text) COLLATE "C"))'
)


async def listing(
    session: AsyncSession,
    book: str | None,
    *,
    source: DecisionSource | None = None,
    last: int | None = None,
    before: DecisionView | None = None,
) -> list[DecisionView]:
    """Decisions by when they were made, oldest first; only the newest ``last`` of those before the one ``before``."""
    result = await session.execute(
        text(
            f"SELECT * FROM ({_VIEW} WHERE {_LISTED} ORDER BY d.decided_at DESC, d.book_id DESC, d.decision_id DESC "  # noqa: S608
            "LIMIT CAST(:last AS bigint)) newest ORDER BY decided_at, book, decision_id"
        ),
        {
            "book": book,
            "source": source,
            "last": last,
            "at": before and before.decided_at,
            "of": before and before.book,
            "id": before and before.decision_id,
        },
    )
    return [DecisionView.model_validate(dict(row)) for row in result.mappings()]


async def named(session: AsyncSession, decision_id: str, book: str | None = None) -> list[DecisionView]:
    """Decisions of this id, of a book or of all."""
    result = await session.execute(
        text(f"{_VIEW} WHERE d.decision_id = :id AND (CAST(:book AS text) IS NULL OR d.book_id = :book) LIMIT 100"),
        {"id": decision_id, "book": book},
    )
    return [DecisionView.model_validate(dict(row)) for row in result.mappings()]
