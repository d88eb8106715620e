"""Forecasts: what was sent, and how it turned out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.forecasts import Forecast, ForecastKey, ForecastView, OutcomeView, StoredForecast
from closeloop.store.rows import as_json, execute, recordset

OUTCOME_COLUMNS = (
    "book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at, price_at_issue, "
    "price_at_target, return_pct, direction_correct, brier_score, log_score, regime, shadow, resolved_at, resolved_by, "
    "policy_hash, issue_candle_ends_at, issue_candle_seconds, issue_price_source, target_candle_ends_at, "
    "target_candle_seconds, target_price_source, revision"
)
_SENT = (
    "book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at, regime, "
    "abstention_reason, shadow, asset_sent, horizon_sent"
)
_RECORD = text(
    f"WITH sent AS (SELECT {_SENT} FROM {recordset(StoredForecast)}), "  # noqa: S608
    f"new AS (INSERT INTO forecasts ({_SENT}) SELECT {_SENT} FROM sent ON CONFLICT DO NOTHING RETURNING {_SENT}), "
    "due AS (INSERT INTO forecast_resolution_state (book_id, forecast_id, asset, target_at) "
    "SELECT book_id, forecast_id, asset, target_at FROM new), "
    "appended AS (INSERT INTO events (type, source, payload, dedupe_key) SELECT 'forecast.v1', 'closeloop', "
    "jsonb_strip_nulls(jsonb_build_object('book', book_id, 'forecast_id', forecast_id, 'producer_id', producer_id, "
    "'asset', asset, 'asset_sent', asset_sent, 'horizon', horizon, 'horizon_sent', horizon_sent, 'action', action, "
    "'confidence', confidence, 'issued_at', issued_at, "
    "'regime', regime, 'abstention_reason', abstention_reason)), "
    "'forecast.v1/' || book_id || '/' || forecast_id FROM new WHERE NOT shadow ON CONFLICT (dedupe_key) DO NOTHING) "
    "SELECT book_id, forecast_id FROM new"
)


@dataclass(frozen=True)
class ForecastsRecorded:
    """What became of forecasts that were sent: new, on record as sent, or on record with other content."""

    new: set[ForecastKey]
    differing: dict[ForecastKey, list[str]]


async def record(session: AsyncSession, forecasts: Sequence[Forecast], shadow: bool = False) -> ForecastsRecorded:
    """Store forecasts (distinct keys, sorted by key), queue them for resolution, and append their events.

    A forecast whose key is on record is compared, never overwritten. ``shadow``: what the meta-producer would have
    said; there is no event of it. The caller commits.
    """
    if not forecasts:
        return ForecastsRecorded(set(), {})
    await execute(session, store.books.creating({f.book for f in forecasts}))
    result = await session.execute(_RECORD, {"rows": as_json([_row(f, shadow) for f in forecasts])})
    new = {ForecastKey(r.book_id, r.forecast_id) for r in result}
    others = {f.key: f for f in forecasts if f.key not in new}
    differing: dict[ForecastKey, list[str]] = {}
    for row in await _on_record(session, list(others)):
        sent = others[ForecastKey(row["book_id"], row["forecast_id"])]
        wanted = _row(sent, shadow)
        fields = [name for name in wanted if row[name] != wanted[name] and name not in _NOT_COMPARED]
        if fields:
            differing[sent.key] = [_SENT_NAMES.get(name, name) for name in fields]
    return ForecastsRecorded(new, differing)


_SENT_NAMES = {"book_id": "book"}
# Another spelling of the same asset or horizon is the same forecast; the target follows from the issue and the horizon.
_NOT_COMPARED = {"asset_sent", "horizon_sent", "target_at"}


def _row(forecast: Forecast, shadow: bool) -> dict[str, Any]:
    row = forecast.model_dump() | forecast.spellings | {"target_at": forecast.target_at, "shadow": shadow}
    row["book_id"] = row.pop("book")
    return row


async def _on_record(session: AsyncSession, keys: Sequence[ForecastKey]) -> Sequence[RowMapping]:
    if not keys:
        return []
    result = await session.execute(
        text(
            f"SELECT {_SENT} FROM forecasts WHERE (book_id, forecast_id) IN "  # noqa: S608
            "(SELECT * FROM unnest(CAST(:books AS text[]), CAST(:ids AS text[])))"
        ),
        {"books": [k.book for k in keys], "ids": [k.forecast_id for k in keys]},
    )
    return result.mappings().all()


_STATE = "CASE WHEN s.state IS NOT NULL THEN s.state WHEN f.action = 'no_forecast' THEN 'abstained' ELSE 'resolved' END"
_FILTER = (
    "(CAST(:book AS text) IS NULL OR f.book_id = :book) "
    "AND (CAST(:producer AS text) IS NULL OR f.producer_id = :producer) "
)
_FORECASTS = (
    "SELECT f.book_id AS book, f.forecast_id, f.producer_id, f.asset, coalesce(f.asset_sent, f.asset) AS asset_sent, "  # noqa: S608
    "f.horizon, coalesce(f.horizon_sent, f.horizon) AS horizon_sent, f.action, f.confidence, "
    f"f.issued_at, f.target_at, f.regime, f.abstention_reason, {_STATE} AS state, s.reason, s.attempts, "
    "s.next_attempt_at FROM forecasts f LEFT JOIN forecast_resolution_state s USING (book_id, forecast_id) "
    "WHERE NOT f.shadow "
)
_OUTCOMES = (
    f"SELECT book_id AS book, {', '.join(name for name in OutcomeView.model_fields if name != 'book')} "  # noqa: S608
    "FROM forecast_outcomes f WHERE NOT f.shadow "
)

ListCursor = tuple[datetime, str, str]
"""(instant of the list's order, book, forecast_id) of a row of a list."""


async def listing(
    session: AsyncSession,
    *,
    book: str | None = None,
    producer: str | None = None,
    state: str | None = None,
    last: int | None = None,
    before: ListCursor | None = None,
) -> AsyncIterator[ForecastView]:
    """Forecasts with their state by (issued_at, book, forecast_id), streamed: the ``last`` of those before a cursor."""
    query = f"{_FORECASTS} AND {_FILTER} AND (CAST(:state AS text) IS NULL OR {_STATE} = :state) "
    values = {"book": book, "producer": producer, "state": state}
    async for row in _pages(session, query, values, "issued_at", last, before):
        yield ForecastView.model_validate(row)


async def named(session: AsyncSession, forecast_id: str, book: str | None = None) -> list[ForecastView]:
    """Forecasts with this id, of one book or (None) of all, by book."""
    result = await session.execute(
        text(
            f"{_FORECASTS} AND f.forecast_id = :forecast_id AND (CAST(:book AS text) IS NULL OR f.book_id = :book) "
            "ORDER BY f.book_id"
        ),
        {"forecast_id": forecast_id, "book": book},
    )
    return [ForecastView.model_validate(dict(row)) for row in result.mappings()]


async def outcomes(
    session: AsyncSession,
    *,
    book: str | None = None,
    producer: str | None = None,
    last: int | None = None,
    before: ListCursor | None = None,
) -> AsyncIterator[OutcomeView]:
    """Outcomes by (target_at, book, forecast_id), streamed: the ``last`` of those before a cursor."""
    values = {"book": book, "producer": producer}
    async for row in _pages(session, f"{_OUTCOMES} AND {_FILTER}", values, "target_at", last, before):
        yield OutcomeView.model_validate(row)


async def outcome(session: AsyncSession, key: ForecastKey) -> OutcomeView | None:
    """The outcome of a forecast."""
    result = await session.execute(
        text(f"{_OUTCOMES} AND f.book_id = :book AND f.forecast_id = :forecast_id"),
        {"book": key.book, "forecast_id": key.forecast_id},
    )
    row = result.mappings().first()
    return None if row is None else OutcomeView.model_validate(dict(row))


async def _pages(
    session: AsyncSession, query: str, values: dict[str, Any], instant: str, last: int | None, before: ListCursor | None
) -> AsyncIterator[dict[str, Any]]:
    order = f"f.{instant}{{d}}, f.book_id{{d}}, f.forecast_id{{d}}"
    if before is not None:
        query += f"AND (f.{instant}, f.book_id, f.forecast_id) < (:before_at, :before_book, :before_id) "
        values = values | dict(zip(("before_at", "before_book", "before_id"), before, strict=True))
    if last is None:
        query += "ORDER BY " + order.format(d="")
    else:
        newest = f"{query} ORDER BY {order.format(d=' DESC')} LIMIT :last"
        query = f"SELECT * FROM ({newest}) newest ORDER BY {instant}, book, forecast_id"  # noqa: S608
        values = values | {"last": last}
    result = await session.stream(text(query), values, execution_options={"yield_per": 1000})
    async for row in result.mappings():
        yield dict(row)
