"""Resolution: forecasts that are due, the prices on record for them, and their outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.forecasts import ForecastKey
from closeloop.store import locks
from closeloop.store.books import not_archived
from closeloop.store.forecasts import OUTCOME_COLUMNS

DueCursor = tuple[datetime, str, str]
"""(target_at, book, forecast_id) of the forecast to begin after."""

# The last candle that ended at or before t, at most the tolerance before it; of two that ended together the finer one.
# A candle that ended a whole interval or more before t is used only if the candle after it is known not to exist: the
# gap is real (see store/price_imports.py), or the source said that it gave all that it has up to t. One that may have
# been going on when its file was written is never used.
_PRICE_AT = """
    SELECT c.close, c.ends_at, c.interval_seconds, c.source, c.provisional, NOT c.provisional AND (
        {i}.t - c.ends_at < make_interval(secs => c.interval_seconds)
        OR EXISTS (SELECT 1 FROM price_gaps g WHERE g.asset = {i}.asset
                   AND g.interval_seconds = c.interval_seconds AND g.from_at = c.ends_at AND g.to_at > {i}.t)
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


def price_at(instant: str) -> str:
    """SQL: the candle that prices ``instant``, a FROM item with ``asset`` and ``t``; ``:tolerance`` is a parameter."""
    return _PRICE_AT.format(i=instant)


# The source gave all that it has of the time in which a candle could price t.
_COVERED = """{p}.close IS NULL AND EXISTS (
            SELECT 1 FROM price_coverage k
            WHERE k.asset = {i}.asset AND k.to_at > {i}.t - make_interval(secs => k.interval_seconds)
            AND k.from_at < {i}.t - CAST(:tolerance AS interval) + make_interval(secs => k.interval_seconds)
        )"""

_LEARNS = not_archived("s.book_id")
_DUE = f"""
    WITH due AS MATERIALIZED (
        SELECT s.book_id, s.forecast_id, s.target_at, s.next_attempt_at, s.attempts, s.first_attempt_at, s.revision
        FROM forecast_resolution_state s
        WHERE s.state = 'pending' AND s.target_at <= CAST(:due AS timestamptz) AND {_LEARNS} AND
              (s.target_at, s.book_id, s.forecast_id) >
               (CAST(:after_at AS timestamptz), CAST(:after_book AS text), CAST(:after_id AS text) COLLATE "C")
        ORDER BY s.target_at, s.book_id, s.forecast_id LIMIT :limit
    ), asked AS MATERIALIZED (
        SELECT d.*, f.asset, f.action, f.confidence, f.issued_at
        FROM due d JOIN forecasts f USING (book_id, forecast_id)
    )
"""  # noqa: S608

# Each price is looked up by itself, although forecasts share some: a join to the distinct ones would depend on the
# planner's estimates, which are far off for a table that was empty a moment ago.
_PRICES = ", ".join(
    f"{p}.close::text AS price_at_{end}, coalesce({p}.certain, false) AS certain_at_{end}, "
    f"{_COVERED.format(p=p, i=i)} AS covered_at_{end}, coalesce({p}.provisional, false) AS provisional_at_{end}, "
    f"{p}.ends_at AS {end}_candle_ends_at, {p}.interval_seconds AS {end}_candle_seconds, "
    f"{p}.source AS {end}_price_source"
    for p, i, end in (("p0", "i0", "issue"), ("p1", "i1", "target"))
)
WITH_PRICES = f"""
    SELECT a.book_id, a.forecast_id, a.asset, a.action, a.confidence, a.issued_at, a.target_at,
           a.attempts, a.first_attempt_at, a.next_attempt_at, a.revision, {_PRICES}
    FROM asked a
    CROSS JOIN LATERAL (SELECT a.asset, a.issued_at AS t) i0
    LEFT JOIN LATERAL ({_PRICE_AT.format(i="i0")}) p0 ON true
    CROSS JOIN LATERAL (SELECT a.asset, a.target_at AS t) i1
    LEFT JOIN LATERAL ({_PRICE_AT.format(i="i1")}) p1 ON true
    ORDER BY a.target_at, a.book_id, a.forecast_id
"""  # noqa: S608
_PAGE = text(_DUE + WITH_PRICES)

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


class DueForecast(NamedTuple):
    """A forecast whose horizon has elapsed, with the prices that are on record.

    ``price_at_...``: every digit, null where there is none; ``certain_at_...``: it is the price to resolve with;
    ``covered_at_...``: there is none, and the source said that it has none; ``provisional_at_...``: the candle may have
    been going on when its file was written. The candle is told by when it ended, its length and where it came from.
    """

    book: str
    forecast_id: str
    asset: str
    action: str
    confidence: float | None
    issued_at: datetime
    target_at: datetime
    attempts: int
    first_attempt_at: datetime | None
    next_attempt_at: datetime | None
    revision: int
    price_at_issue: str | None
    certain_at_issue: bool
    covered_at_issue: bool
    provisional_at_issue: bool
    issue_candle_ends_at: datetime | None
    issue_candle_seconds: int | None
    issue_price_source: str | None
    price_at_target: str | None
    certain_at_target: bool
    covered_at_target: bool
    provisional_at_target: bool
    target_candle_ends_at: datetime | None
    target_candle_seconds: int | None
    target_price_source: str | None

    @property
    def key(self) -> ForecastKey:
        """What the forecast is stored under."""
        return ForecastKey(self.book, self.forecast_id)

    @property
    def priced(self) -> bool:
        """Whether it can be resolved."""
        return self.certain_at_issue and self.certain_at_target


_BEFORE_ALL: DueCursor = (datetime(1, 1, 1, tzinfo=UTC), "", "")


async def lock(session: AsyncSession) -> None:
    """Lock the resolution of forecasts until the transaction ends: one transaction at a time writes outcomes."""
    await locks.one_at_a_time(session, locks.FORECAST_RESOLUTION)


async def due_with_prices(
    session: AsyncSession, due: datetime, tolerance: timedelta, after: DueCursor | None, limit: int
) -> list[DueForecast]:
    """The next forecasts whose target is at or before ``due``, oldest first, with the prices that are on record."""
    await look_up_by_index(session)
    result = await session.execute(_PAGE, _cursor(after) | {"due": due, "tolerance": tolerance, "limit": limit})
    return [DueForecast._make(row) for row in result]


async def missing_prices(
    session: AsyncSession, due: datetime, tolerance: timedelta, as_of: datetime, limit: int
) -> tuple[list[tuple[str, datetime]], bool]:
    """(asset, instant) without a usable price, of due forecasts that may be asked for; and whether there are more."""
    values = {"due": due, "tolerance": tolerance, "as_of": as_of, "limit": limit}
    rows = (await session.execute(_MISSING, _cursor(None) | values)).all()
    return [(asset, instant) for asset, instant, _ in rows], bool(rows) and rows[0].looked_at >= limit


async def ask_again(session: AsyncSession, due: datetime) -> None:
    """Let due forecasts that wait for their next attempt be asked for at once."""
    await session.execute(
        text(
            "UPDATE forecast_resolution_state SET next_attempt_at = NULL "
            "WHERE state = 'pending' AND target_at <= :due AND next_attempt_at IS NOT NULL"
        ),
        {"due": due},
    )


async def look_up_by_index(session: AsyncSession) -> None:
    """For the rest of the transaction, join by looking each row of a page up in an index.

    That is right for a page, however large the tables are. Left to itself the planner reads whole tables instead: it
    counts on far fewer rows than an array of keys has, and knows nothing of a table that was empty a moment ago.
    """
    await session.execute(
        text(
            "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), "
            "set_config('enable_seqscan', 'off', true)"
        )
    )


def _cursor(after: DueCursor | None) -> dict[str, Any]:
    at, book, forecast_id = after or _BEFORE_ALL
    return {"after_at": at, "after_book": book, "after_id": forecast_id}


# -- what came out -----------------------------------------------------------------------------------------------------

_COUNT = text(
    "INSERT INTO resolutions (resolution_id, as_of, resolved, abstained, given_up, candles) "
    "VALUES (:id, :as_of, :resolved, :abstained, :given_up, :candles) ON CONFLICT (resolution_id) DO UPDATE SET "
    "resolved = resolutions.resolved + excluded.resolved, abstained = resolutions.abstained + excluded.abstained, "
    "given_up = resolutions.given_up + excluded.given_up, candles = resolutions.candles + excluded.candles"
)
SCORED = """
    scored AS (
        SELECT * FROM unnest(
            CAST(:books AS text[]), CAST(:ids AS text[]), CAST(CAST(:issue AS text[]) AS numeric[]),
            CAST(CAST(:target AS text[]) AS numeric[]),
            CAST(:returns AS float8[]), CAST(:correct AS bool[]), CAST(:brier AS float8[]), CAST(:log AS float8[]),
            CAST(:issue_ends AS timestamptz[]), CAST(:issue_seconds AS int[]), CAST(:issue_sources AS text[]),
            CAST(:target_ends AS timestamptz[]), CAST(:target_seconds AS int[]), CAST(:target_sources AS text[]),
            CAST(:revisions AS int[])
        ) AS s (book_id, forecast_id, price_at_issue, price_at_target, return_pct, direction_correct, brier_score,
                log_score, issue_candle_ends_at, issue_candle_seconds, issue_price_source, target_candle_ends_at,
                target_candle_seconds, target_price_source, revision)
    )"""
# The days whose sums change with the outcomes of ``new``.
MARK_DAYS = """
    streams AS (
        SELECT DISTINCT book_id, producer_id, asset, horizon, target_at - issued_at AS length, target_at::date AS day,
               (date_bin(make_interval(secs => :block), issued_at, '1970-01-01Z') + (target_at - issued_at))::date
               AS pair_day
        FROM new WHERE NOT shadow
    ), days AS (
        SELECT book_id, day FROM streams UNION SELECT book_id, pair_day FROM streams
        UNION SELECT s.book_id, d.day::date FROM streams s CROSS JOIN LATERAL
            -- an outcome overlaps those of the horizon before it, maybe of earlier days
            generate_series(s.day + interval '1 day', s.day + interval '1 day' + s.length, interval '1 day') AS d (day)
        WHERE EXISTS (
            SELECT 1 FROM forecast_outcomes o WHERE o.book_id = s.book_id AND o.producer_id = s.producer_id
              AND o.asset = s.asset AND o.horizon = s.horizon AND NOT o.shadow AND o.target_at >= d.day
              AND o.target_at < least(d.day + interval '1 day', s.day + interval '1 day' + s.length)
        )
    ), marked AS (
        INSERT INTO performance_due (book_id, day) SELECT book_id, day FROM days ORDER BY book_id, day
        -- an update even where the day is marked: who adds the day up meanwhile waits for this transaction's outcomes
        ON CONFLICT (book_id, day) DO UPDATE SET day = excluded.day
    )"""
_SETTLE = text(
    f"""
    WITH {SCORED}, new AS (
        INSERT INTO forecast_outcomes ({OUTCOME_COLUMNS})
        SELECT s.book_id, s.forecast_id, f.producer_id, f.asset, f.horizon, f.action, f.confidence, f.issued_at,
               f.target_at, s.price_at_issue, s.price_at_target, s.return_pct, s.direction_correct, s.brier_score,
               s.log_score, f.regime, f.shadow, CAST(:resolved_at AS timestamptz), CAST(:resolved_by AS text),
               CAST(:policy_hash AS text), s.issue_candle_ends_at, s.issue_candle_seconds, s.issue_price_source,
               s.target_candle_ends_at, s.target_candle_seconds, s.target_price_source, s.revision
        FROM scored s JOIN forecasts f ON f.book_id = s.book_id AND f.forecast_id = s.forecast_id COLLATE "C"
        ON CONFLICT DO NOTHING RETURNING {OUTCOME_COLUMNS}
    ), settled AS (
        DELETE FROM forecast_resolution_state d USING scored s
        WHERE d.book_id = s.book_id AND d.forecast_id = s.forecast_id COLLATE "C"
    ), appended AS (
        INSERT INTO events (type, source, payload, dedupe_key)
        SELECT 'forecast.outcome.v1', 'closeloop', to_jsonb(payload) - 'revision',
               'forecast.outcome.v1/' || book || '/' || forecast_id
               || CASE WHEN revision = 0 THEN '' ELSE '/' || revision END
        FROM (
            SELECT book_id AS book, 'forecast.v1/' || book_id || '/' || forecast_id AS forecast_event_id, forecast_id,
                   producer_id, asset, horizon, action, confidence, issued_at, target_at, price_at_issue::text,
                   price_at_target::text, return_pct AS return_actual_pct, direction_correct, brier_score, log_score,
                   regime AS regime_at_forecast, resolved_by, policy_hash, revision
            FROM new WHERE NOT shadow
        ) payload ON CONFLICT (dedupe_key) DO NOTHING
    ), {MARK_DAYS}
    SELECT count(*) FROM new
    """  # noqa: S608
)


@dataclass(frozen=True)
class PageScores:
    """Scores of a page of forecasts, in its order: the return (5 is 5 %), whether the action was right, Brier score and
    log score (nats)."""

    return_pct: Sequence[float]
    correct: Sequence[bool]
    brier: Sequence[float]
    log: Sequence[float]


async def settle(
    session: AsyncSession,
    forecasts: Sequence[DueForecast],
    scores: PageScores,
    *,
    resolved_at: datetime,
    resolved_by: str,
    policy_hash: str,
    block: timedelta,
) -> int:
    """Write the outcomes of priced forecasts and their events; returns how many are new.

    The forecasts leave the queue, and the days whose sums have changed are marked. ``block``: length of the blocks in
    which two producers are compared. The caller holds the resolution's lock.
    """
    if not forecasts:
        return 0
    result = await session.execute(
        _SETTLE,
        scored(forecasts, scores)
        | {
            "resolved_at": resolved_at,
            "resolved_by": resolved_by,
            "policy_hash": policy_hash,
            "block": int(block.total_seconds()),
        },
    )
    return int(result.scalar_one())


def scored(forecasts: Sequence[DueForecast], scores: PageScores) -> dict[str, Any]:
    """The parameters of ``SCORED``: priced forecasts and their scores."""
    return {
        "books": [f.book for f in forecasts],
        "ids": [f.forecast_id for f in forecasts],
        "issue": [f.price_at_issue for f in forecasts],
        "target": [f.price_at_target for f in forecasts],
        "returns": scores.return_pct,
        "correct": scores.correct,
        "brier": scores.brier,
        "log": scores.log,
        "issue_ends": [f.issue_candle_ends_at for f in forecasts],
        "issue_seconds": [f.issue_candle_seconds for f in forecasts],
        "issue_sources": [f.issue_price_source for f in forecasts],
        "target_ends": [f.target_candle_ends_at for f in forecasts],
        "target_seconds": [f.target_candle_seconds for f in forecasts],
        "target_sources": [f.target_price_source for f in forecasts],
        "revisions": [f.revision for f in forecasts],
    }


async def drop_abstentions(session: AsyncSession, keys: Sequence[ForecastKey]) -> None:
    """Take abstentions whose horizon has elapsed off the queue: from now on they are counted; they are never scored."""
    await session.execute(
        text(
            "DELETE FROM forecast_resolution_state d USING "
            "unnest(CAST(:books AS text[]), CAST(:ids AS text[])) AS k (book_id, forecast_id) "
            'WHERE d.book_id = k.book_id AND d.forecast_id = k.forecast_id COLLATE "C"'
        ),
        {"books": [k.book for k in keys], "ids": [k.forecast_id for k in keys]},
    )


@dataclass(frozen=True)
class Unpriced:
    """A due forecast without a price: why, when it is tried again, and whether it is given up."""

    key: ForecastKey
    reason: str
    first_attempt_at: datetime
    next_attempt_at: datetime | None
    given_up: bool


async def record_unpriced(session: AsyncSession, left: Sequence[Unpriced]) -> None:
    """Record why due forecasts have no outcome, and append an event for each that is given up."""
    if not left:
        return
    await session.execute(
        text(
            "WITH l AS (SELECT * FROM unnest(CAST(:books AS text[]), CAST(:ids AS text[]), CAST(:reasons AS text[]), "
            "CAST(:first AS timestamptz[]), CAST(:next AS timestamptz[]), CAST(:given_up AS bool[])) "
            "AS l (book_id, forecast_id, reason, first_attempt_at, next_attempt_at, given_up)), "
            "appended AS (INSERT INTO events (type, source, payload, dedupe_key) "
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


class ResolutionCounts(NamedTuple):
    """How many forecasts a resolution has resolved, abstained and given up so far, and candles fetched."""

    resolved: int
    abstained: int
    given_up: int
    candles: int


async def counted(session: AsyncSession, resolution_id: str) -> ResolutionCounts:
    """The counts of a resolution; all 0 if it has done nothing yet."""
    result = await session.execute(
        text("SELECT resolved, abstained, given_up, candles FROM resolutions WHERE resolution_id = :id"),
        {"id": resolution_id},
    )
    row = result.first()
    return ResolutionCounts._make(row) if row else ResolutionCounts(0, 0, 0, 0)


async def pending_reasons(session: AsyncSession, due: datetime) -> dict[str, int]:
    """How many forecasts that are due have no outcome, by reason, the most frequent first; not of archived books."""
    result = await session.execute(
        text(
            "SELECT coalesce(reason, 'not looked at yet') AS reason, count(*) AS forecasts "  # noqa: S608
            f"FROM forecast_resolution_state s WHERE state = 'pending' AND target_at <= :due AND {_LEARNS} "
            "GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
        {"due": due},
    )
    return {row.reason: row.forecasts for row in result}
