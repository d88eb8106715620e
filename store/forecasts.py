"""Forecasts: what was sent, what is due, at which prices, and how it turned out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.forecasts import Forecast, ForecastKey, StoredForecast
from closeloop.store import locks
from closeloop.store.rows import as_json, execute, recordset

Cursor = tuple[datetime, str, str]

_SENT = (
    "book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at, regime, "
    "abstention_reason, shadow"
)
_RECORD = text(
    f"WITH sent AS (SELECT {_SENT} FROM {recordset(StoredForecast)}), "  # noqa: S608
    f"new AS (INSERT INTO forecasts ({_SENT}) SELECT {_SENT} FROM sent ON CONFLICT DO NOTHING RETURNING {_SENT}), "
    "due AS (INSERT INTO forecast_resolution_state (book_id, forecast_id, asset, target_at) "
    "SELECT book_id, forecast_id, asset, target_at FROM new), "
    "told AS (INSERT INTO events (type, source, payload, dedupe_key) SELECT 'forecast.v1', 'closeloop', "
    "jsonb_strip_nulls(jsonb_build_object('book', book_id, 'forecast_id', forecast_id, 'producer_id', producer_id, "
    "'asset', asset, 'horizon', horizon, 'action', action, 'confidence', confidence, 'issued_at', issued_at, "
    "'regime', regime, 'abstention_reason', abstention_reason)), "
    "'forecast.v1/' || book_id || '/' || forecast_id FROM new WHERE NOT shadow ON CONFLICT (dedupe_key) DO NOTHING) "
    "SELECT book_id, forecast_id FROM new"
)


@dataclass(frozen=True)
class Recorded:
    """What became of forecasts that were sent: new, on record as sent, or on record with other content."""

    new: set[ForecastKey]
    differing: dict[ForecastKey, list[str]]


async def record(session: AsyncSession, forecasts: Sequence[Forecast], shadow: bool = False) -> Recorded:
    """Store forecasts (distinct keys, sorted by key), put them on the list of what is to be resolved, and tell it."""
    if not forecasts:
        return Recorded(set(), {})
    await execute(session, store.books.meeting({f.book for f in forecasts}))
    result = await session.execute(_RECORD, {"rows": as_json([_row(f, shadow) for f in forecasts])})
    new = {ForecastKey(r.book_id, r.forecast_id) for r in result}
    others = {f.key: f for f in forecasts if f.key not in new}
    differing: dict[ForecastKey, list[str]] = {}
    for row in await _on_record(session, list(others)):
        sent = others[ForecastKey(row["book_id"], row["forecast_id"])]
        wanted = _row(sent, shadow)
        if fields := [_SENT_NAMES.get(name, name) for name in wanted if row[name] != wanted[name]]:
            differing[sent.key] = [field for field in fields if field != "target_at"]
    return Recorded(new, differing)


_SENT_NAMES = {"book_id": "book"}


def _row(forecast: Forecast, shadow: bool) -> dict[str, Any]:
    row = forecast.model_dump() | {"target_at": forecast.target_at, "shadow": shadow}
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


# -- what is due, and its prices ---------------------------------------------------------------------------------------

# The last candle that ended at or before t, at most the tolerance before it; of two that ended together the finer one.
# One that is not of t's own interval is used only if the next one is known not to exist: a later candle of the series
# was imported with it (its price is not read), or the source said that it gave all that it has up to t. What was
# fetched are islands: a later one says nothing of the sea between.
_PRICE_AT = """
    SELECT c.close, (
        {i}.t - c.ends_at < make_interval(secs => c.interval_seconds)
        OR 2 = (SELECT count(*) FILTER (WHERE e.source <> 'binance') FROM (
            (SELECT c.source)
            UNION ALL
            (SELECT l.source FROM price_history l WHERE l.asset = {i}.asset
             AND l.interval_seconds = c.interval_seconds AND l.ends_at > {i}.t ORDER BY l.ends_at LIMIT 1)) e)
        OR EXISTS (SELECT 1 FROM price_coverage k WHERE k.asset = {i}.asset
                   AND k.interval_seconds = c.interval_seconds
                   AND k.from_at <= c.ends_at + make_interval(secs => c.interval_seconds)
                   AND k.to_at > {i}.t - make_interval(secs => c.interval_seconds))
    ) AS certain
    FROM price_history c
    WHERE c.asset = {i}.asset AND c.ends_at <= {i}.t AND c.ends_at >= {i}.t - CAST(:tolerance AS interval)
      AND c.interval_seconds <= 1800
    ORDER BY c.ends_at DESC, c.interval_seconds LIMIT 1
"""

# The source gave all that it has of the time in which a candle could price t.
_COVERED = """{p}.close IS NULL AND EXISTS (
            SELECT 1 FROM price_coverage k
            WHERE k.asset = {i}.asset AND k.to_at > {i}.t - make_interval(secs => k.interval_seconds)
            AND k.from_at < {i}.t - CAST(:tolerance AS interval) + make_interval(secs => k.interval_seconds)
        )"""

_DUE = """
    WITH due AS MATERIALIZED (
        SELECT s.book_id, s.forecast_id, s.target_at, s.next_attempt_at, s.attempts, s.first_attempt_at
        FROM forecast_resolution_state s
        WHERE s.state = 'pending' AND s.target_at <= CAST(:due AS timestamptz) AND
              (CAST(:after_at AS timestamptz) IS NULL OR (s.target_at, s.book_id, s.forecast_id) >
               (CAST(:after_at AS timestamptz), CAST(:after_book AS text), CAST(:after_id AS text) COLLATE "C"))
        ORDER BY s.target_at, s.book_id, s.forecast_id LIMIT :limit
    ), asked AS MATERIALIZED (
        SELECT d.*, f.producer_id, f.asset, f.horizon, f.action, f.confidence, f.issued_at
        FROM due d JOIN forecasts f USING (book_id, forecast_id)
    )
"""

# A look-up for each price, though forecasts share some: joining them to shared ones is a matter of the planner's
# estimates, which are wrong by far for a table that was empty a moment ago.
_PAGE = text(
    f"""{_DUE}
    SELECT a.*, p0.close AS price_at_issue, p0.certain AS certain_at_issue,
           {_COVERED.format(p="p0", i="i0")} AS covered_at_issue,
           p1.close AS price_at_target, p1.certain AS certain_at_target,
           {_COVERED.format(p="p1", i="i1")} AS covered_at_target
    FROM asked a
    CROSS JOIN LATERAL (SELECT a.asset, a.issued_at AS t) i0
    LEFT JOIN LATERAL ({_PRICE_AT.format(i="i0")}) p0 ON true
    CROSS JOIN LATERAL (SELECT a.asset, a.target_at AS t) i1
    LEFT JOIN LATERAL ({_PRICE_AT.format(i="i1")}) p1 ON true
    ORDER BY a.target_at, a.book_id, a.forecast_id
    """  # noqa: S608
)

_MAY_BE_ASKED_FOR = _DUE.replace(
    "s.state = 'pending' AND",
    "s.state = 'pending' AND (s.next_attempt_at IS NULL OR s.next_attempt_at <= CAST(:as_of AS timestamptz)) AND",
)
_MISSING = text(
    f"""{_MAY_BE_ASKED_FOR}
    SELECT i.asset, i.t, (SELECT count(*) FROM due) AS looked_at
    FROM (
        SELECT asset, issued_at AS t FROM asked WHERE action <> 'no_forecast'
        UNION SELECT asset, target_at FROM asked WHERE action <> 'no_forecast'
    ) i LEFT JOIN LATERAL ({_PRICE_AT.format(i="i")}) p ON true
    WHERE p.certain IS NOT TRUE ORDER BY i.asset, i.t
    """  # noqa: S608
)


async def take_turns(session: AsyncSession) -> None:
    """Wait until no other resolution writes; hold until the transaction ends."""
    await locks.one_at_a_time(session, locks.FORECAST_RESOLUTION)
    # A plan that was made while the tables were small must not be kept for a backlog.
    await session.execute(text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"))


async def due_with_prices(
    session: AsyncSession, due: datetime, tolerance: timedelta, after: Cursor | None, limit: int
) -> Sequence[RowMapping]:
    """The next forecasts whose target is at or before ``due``, oldest first, with the prices that are on record."""
    result = await session.execute(_PAGE, _cursor(after) | {"due": due, "tolerance": tolerance, "limit": limit})
    return result.mappings().all()


async def missing_prices(
    session: AsyncSession, due: datetime, tolerance: timedelta, as_of: datetime, limit: int
) -> tuple[list[tuple[str, datetime]], bool]:
    """(asset, instant) of what is due, may be asked for, and has no price; and whether there is more than the limit."""
    values = {"due": due, "tolerance": tolerance, "as_of": as_of, "limit": limit}
    rows = (await session.execute(_MISSING, _cursor(None) | values)).all()
    return [(asset, instant) for asset, instant, _ in rows], bool(rows) and rows[0].looked_at >= limit


async def ask_again(session: AsyncSession, due: datetime) -> None:
    """Forecasts that wait for their next attempt need not wait."""
    await session.execute(
        text(
            "UPDATE forecast_resolution_state SET next_attempt_at = NULL "
            "WHERE state = 'pending' AND target_at <= :due AND next_attempt_at IS NOT NULL"
        ),
        {"due": due},
    )


def _cursor(after: Cursor | None) -> dict[str, Any]:
    at, book, forecast_id = after or (None, None, None)
    return {"after_at": at, "after_book": book, "after_id": forecast_id}


# -- what came out -----------------------------------------------------------------------------------------------------

_OUTCOME = (
    "book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at, price_at_issue, "
    "price_at_target, return_pct, direction_correct, brier_score, log_score, regime, shadow, resolved_at, resolved_by, "
    "policy_hash"
)
_COUNT = text(
    "INSERT INTO resolutions (resolution_id, as_of, resolved, abstained, given_up, candles) "
    "VALUES (:id, :as_of, :resolved, :abstained, :given_up, :candles) ON CONFLICT (resolution_id) DO UPDATE SET "
    "resolved = resolutions.resolved + excluded.resolved, abstained = resolutions.abstained + excluded.abstained, "
    "given_up = resolutions.given_up + excluded.given_up, candles = resolutions.candles + excluded.candles"
)
_SETTLE = text(
    f"""
    WITH scored AS (
        SELECT * FROM unnest(
            CAST(:books AS text[]), CAST(:ids AS text[]), CAST(CAST(:issue AS text[]) AS numeric[]),
            CAST(CAST(:target AS text[]) AS numeric[]),
            CAST(:returns AS float8[]), CAST(:correct AS bool[]), CAST(:brier AS float8[]), CAST(:log AS float8[])
        ) AS s (book_id, forecast_id, price_at_issue, price_at_target, return_pct, direction_correct, brier_score,
                log_score)
    ), new AS (
        INSERT INTO forecast_outcomes ({_OUTCOME})
        SELECT s.book_id, s.forecast_id, f.producer_id, f.asset, f.horizon, f.action, f.confidence, f.issued_at,
               f.target_at, s.price_at_issue, s.price_at_target, s.return_pct, s.direction_correct, s.brier_score,
               s.log_score, f.regime, f.shadow, CAST(:resolved_at AS timestamptz), CAST(:resolved_by AS text),
               CAST(:policy_hash AS text)
        FROM scored s JOIN forecasts f ON f.book_id = s.book_id AND f.forecast_id = s.forecast_id COLLATE "C"
        ON CONFLICT DO NOTHING RETURNING {_OUTCOME}
    ), settled AS (
        DELETE FROM forecast_resolution_state d USING scored s
        WHERE d.book_id = s.book_id AND d.forecast_id = s.forecast_id COLLATE "C"
    ), told AS (
        INSERT INTO events (type, source, payload, dedupe_key)
        SELECT 'forecast.outcome.v1', 'closeloop', jsonb_build_object(
            'book', book_id, 'forecast_event_id', 'forecast.v1/' || book_id || '/' || forecast_id,
            'forecast_id', forecast_id, 'producer_id', producer_id, 'asset', asset, 'horizon', horizon,
            'action', action, 'confidence', confidence, 'issued_at', issued_at, 'target_at', target_at,
            'price_at_issue', price_at_issue::text, 'price_at_target', price_at_target::text,
            'return_actual_pct', return_pct, 'direction_correct', direction_correct, 'brier_score', brier_score,
            'log_score', log_score, 'regime_at_forecast', regime, 'resolved_by', resolved_by,
            'policy_hash', policy_hash
        ), 'forecast.outcome.v1/' || book_id || '/' || forecast_id
        FROM new WHERE NOT shadow ON CONFLICT (dedupe_key) DO NOTHING
    ), streams AS (
        SELECT DISTINCT book_id, producer_id, asset, horizon, target_at - issued_at AS length, target_at::date AS day,
               (date_bin(make_interval(secs => :block), issued_at, '1970-01-01Z') + (target_at - issued_at))::date
               AS pair_day
        FROM new WHERE NOT shadow
    ), days AS (
        SELECT book_id, day FROM streams UNION SELECT book_id, pair_day FROM streams
        UNION SELECT s.book_id, o.day FROM streams s CROSS JOIN LATERAL (
            -- an outcome's share of an independent one depends on the one before it, maybe of an earlier day
            SELECT min(o.target_at)::date AS day FROM forecast_outcomes o
            WHERE o.book_id = s.book_id AND o.producer_id = s.producer_id AND o.asset = s.asset
              AND o.horizon = s.horizon AND NOT o.shadow
              AND o.target_at >= s.day + 1 AND o.target_at < s.day + 1 + s.length
        ) o WHERE o.day IS NOT NULL
    ), marked AS (
        INSERT INTO performance_due (book_id, day) SELECT book_id, day FROM days ORDER BY book_id, day
        -- an update, not nothing: whoever works the mark off waits for this transaction
        ON CONFLICT (book_id, day) DO UPDATE SET day = excluded.day
    )
    SELECT book_id, count(*) AS resolved FROM new GROUP BY book_id
    """  # noqa: S608
)


async def settle(
    session: AsyncSession,
    keys: Sequence[ForecastKey],
    prices: Sequence[tuple[Any, Any]],
    returns: Sequence[float],
    correct: Sequence[bool],
    brier: Sequence[float],
    log: Sequence[float],
    *,
    resolved_at: datetime,
    resolved_by: str,
    policy_hash: str,
    block: timedelta,
) -> dict[str, int]:
    """Write outcomes, take their forecasts off the list, tell them, mark what is to be added up; new ones by book."""
    if not keys:
        return {}
    result = await session.execute(
        _SETTLE,
        {
            "books": [k.book for k in keys],
            "ids": [k.forecast_id for k in keys],
            "issue": [str(p[0]) for p in prices],
            "target": [str(p[1]) for p in prices],
            "returns": list(returns),
            "correct": list(correct),
            "brier": list(brier),
            "log": list(log),
            "resolved_at": resolved_at,
            "resolved_by": resolved_by,
            "policy_hash": policy_hash,
            "block": int(block.total_seconds()),
        },
    )
    return {row.book_id: row.resolved for row in result}


async def drop_abstentions(session: AsyncSession, keys: Sequence[ForecastKey]) -> None:
    """Abstentions whose horizon has elapsed: off the list, counted from now on, never scored."""
    await session.execute(
        text(
            "DELETE FROM forecast_resolution_state d USING "
            "unnest(CAST(:books AS text[]), CAST(:ids AS text[])) AS k (book_id, forecast_id) "
            'WHERE d.book_id = k.book_id AND d.forecast_id = k.forecast_id COLLATE "C"'
        ),
        {"books": [k.book for k in keys], "ids": [k.forecast_id for k in keys]},
    )


@dataclass(frozen=True)
class Left:
    """A forecast that could not be priced, why, and whether it is given up."""

    key: ForecastKey
    reason: str
    first_attempt_at: datetime
    next_attempt_at: datetime | None
    given_up: bool


async def leave(session: AsyncSession, left: Sequence[Left]) -> None:
    """Record why forecasts have no outcome, and tell of those that are given up."""
    if not left:
        return
    await session.execute(
        text(
            "WITH l AS (SELECT * FROM unnest(CAST(:books AS text[]), CAST(:ids AS text[]), CAST(:reasons AS text[]), "
            "CAST(:first AS timestamptz[]), CAST(:next AS timestamptz[]), CAST(:given_up AS bool[])) "
            "AS l (book_id, forecast_id, reason, first_attempt_at, next_attempt_at, given_up)), "
            "told AS (INSERT INTO events (type, source, payload, dedupe_key) "
            "SELECT 'forecast.unresolvable.v1', 'closeloop', jsonb_build_object('book', book_id, 'forecast_id', "
            "forecast_id, 'reason', reason, 'attempted_at', first_attempt_at), "
            "'forecast.unresolvable.v1/' || book_id || '/' || forecast_id || '/' || first_attempt_at FROM l "
            "WHERE given_up ON CONFLICT (dedupe_key) DO NOTHING) "
            "UPDATE forecast_resolution_state s SET reason = l.reason, attempts = s.attempts + 1, "
            "first_attempt_at = l.first_attempt_at, next_attempt_at = l.next_attempt_at, "
            "state = CASE WHEN l.given_up THEN 'unresolvable' ELSE 'pending' END "
            'FROM l WHERE s.book_id = l.book_id AND s.forecast_id = l.forecast_id COLLATE "C"'
        ),
        {
            "books": [one.key.book for one in left],
            "ids": [one.key.forecast_id for one in left],
            "reasons": [one.reason for one in left],
            "first": [one.first_attempt_at for one in left],
            "next": [one.next_attempt_at for one in left],
            "given_up": [one.given_up for one in left],
        },
    )


async def count(
    session: AsyncSession,
    resolution_id: str,
    as_of: datetime,
    *,
    resolved: int = 0,
    abstained: int = 0,
    given_up: int = 0,
    candles: int = 0,
) -> None:
    """Add to what a resolution did, in the transaction that does it: a retry neither loses nor repeats a count."""
    await session.execute(
        _COUNT,
        {
            "id": resolution_id,
            "as_of": as_of,
            "resolved": resolved,
            "abstained": abstained,
            "given_up": given_up,
            "candles": candles,
        },
    )


async def counted(session: AsyncSession, resolution_id: str) -> RowMapping | None:
    """What a resolution did so far."""
    result = await session.execute(
        text("SELECT resolved, abstained, given_up, candles FROM resolutions WHERE resolution_id = :id"),
        {"id": resolution_id},
    )
    return result.mappings().first()


async def pending_reasons(session: AsyncSession, due: datetime) -> dict[str, int]:
    """Why forecasts that are due have no outcome, with counts."""
    result = await session.execute(
        text(
            "SELECT coalesce(reason, 'not looked at yet') AS reason, count(*) AS forecasts "
            "FROM forecast_resolution_state WHERE state = 'pending' AND target_at <= :due GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
        {"due": due},
    )
    return {row.reason: row.forecasts for row in result}


# -- reading -----------------------------------------------------------------------------------------------------------

_STATE = "CASE WHEN s.state IS NOT NULL THEN s.state WHEN f.action = 'no_forecast' THEN 'abstained' ELSE 'resolved' END"
_FILTER = (
    "(CAST(:book AS text) IS NULL OR f.book_id = :book) "
    "AND (CAST(:producer AS text) IS NULL OR f.producer_id = :producer) "
)


async def listing(
    session: AsyncSession,
    *,
    book: str | None = None,
    producer: str | None = None,
    state: str | None = None,
    forecast_id: str | None = None,
    shadow: bool = False,
    last: int | None = None,
) -> AsyncIterator[RowMapping]:
    """Forecasts with their state, oldest first, streamed; only the newest ``last`` where that is given."""
    query = (
        "SELECT f.book_id AS book, f.forecast_id, f.producer_id, f.asset, f.horizon, f.action, f.confidence, "  # noqa: S608
        f"f.issued_at, f.target_at, f.regime, f.abstention_reason, {_STATE} AS state, s.reason, s.attempts, "
        "s.next_attempt_at FROM forecasts f LEFT JOIN forecast_resolution_state s USING (book_id, forecast_id) "
        f"WHERE f.shadow = :shadow AND {_FILTER} AND (CAST(:state AS text) IS NULL OR {_STATE} = :state) "
        "AND (CAST(:forecast_id AS text) IS NULL OR f.forecast_id = CAST(:forecast_id AS text)) "
        "ORDER BY f.issued_at, f.book_id, f.forecast_id"
    )
    if last is not None:
        query = (
            f"SELECT * FROM ({query.replace('f.issued_at, f.book_id, f.forecast_id', 'f.issued_at DESC, f.book_id DESC, f.forecast_id DESC')} "  # noqa: S608, E501
            "LIMIT :last) newest ORDER BY issued_at, book, forecast_id"
        )
    values = {"book": book, "producer": producer, "state": state, "forecast_id": forecast_id, "shadow": shadow}
    result = await session.stream(
        text(query), values | ({} if last is None else {"last": last}), execution_options={"yield_per": 1000}
    )
    async for row in result.mappings():
        yield row


async def outcomes(
    session: AsyncSession,
    *,
    book: str | None = None,
    producer: str | None = None,
    forecast_id: str | None = None,
    shadow: bool = False,
    last: int | None = None,
) -> AsyncIterator[RowMapping]:
    """Outcomes in the order of their targets, streamed; only the newest ``last`` where that is given."""
    columns = _OUTCOME.replace("book_id,", "book_id AS book,").replace(" shadow,", "")
    query = (
        f"SELECT {columns} FROM forecast_outcomes f WHERE f.shadow = :shadow AND {_FILTER} "  # noqa: S608
        "AND (CAST(:forecast_id AS text) IS NULL OR f.forecast_id = CAST(:forecast_id AS text)) "
        "ORDER BY target_at{d}, book_id{d}, forecast_id{d}"
    )
    if last is None:
        query = query.format(d="")
    else:
        query = f"SELECT * FROM ({query.format(d=' DESC')} LIMIT :last) n ORDER BY target_at, book, forecast_id"  # noqa: S608
    values = {"book": book, "producer": producer, "forecast_id": forecast_id, "shadow": shadow}
    result = await session.stream(
        text(query), values | ({} if last is None else {"last": last}), execution_options={"yield_per": 1000}
    )
    async for row in result.mappings():
        yield row


async def counts(session: AsyncSession, book: str | None = None) -> dict[str, int]:
    """How many forecasts there are in each state (shadows not counted)."""
    result = await session.execute(
        text(
            f"SELECT {_STATE} AS state, count(*) AS forecasts FROM forecasts f "  # noqa: S608
            "LEFT JOIN forecast_resolution_state s USING (book_id, forecast_id) "
            "WHERE NOT f.shadow AND (CAST(:book AS text) IS NULL OR f.book_id = :book) GROUP BY 1 ORDER BY 1"
        ),
        {"book": book},
    )
    return {row.state: row.forecasts for row in result}
