"""What producers are worth by their forecasts: daily sums, the rolling window, agreement, recalibration, health."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Result, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.calibration import BIN_EDGES, COLUMNS
from closeloop.learning.ensemble import PAIR_COLUMNS
from closeloop.models.producers import Heartbeat, ProducerCorrelation, ProducerPerformance, RecalibrationMap
from closeloop.store import locks
from closeloop.store.rows import execute, insertion

DAYS_AT_ONCE = 16
_KEYS = "producer_id, asset, horizon, regime"
_SUMS = ", ".join(COLUMNS)
_TOTALS = ", ".join(f"sum({c})::float8 AS {c}" for c in COLUMNS)

# An outcome's share of an independent one: the time since the stream's previous target, in horizons, at most 1.
_RAW = f"""
    SELECT o.day, o.producer_id, o.asset, o.horizon, o.regime,
           width_bucket(o.confidence, CAST('{{{", ".join(map(str, BIN_EDGES))}}}' AS float8[])) AS bin,
           count(*) AS outcomes, count(*) FILTER (WHERE direction_correct) AS correct,
           sum(coalesce(least(1.0, date_part('epoch', target_at - before) / date_part('epoch', target_at - issued_at)),
                        1.0)) AS independent,
           sum(confidence) AS confidence, sum(confidence * confidence) AS confidence_squared,
           coalesce(sum(confidence) FILTER (WHERE direction_correct), 0) AS confidence_correct,
           sum(brier_score * brier_score) AS brier_squared, sum(log_score) AS log_score,
           sum(log_score * log_score) AS log_score_squared
    FROM (
        SELECT o.target_at::date AS day, o.producer_id, o.asset, o.horizon, coalesce(o.regime, '') AS regime,
               o.confidence, o.direction_correct, o.issued_at, o.target_at, o.brier_score, o.log_score,
               coalesce(
                   lag(o.target_at) OVER (PARTITION BY o.producer_id, o.asset, o.horizon, r.from_at
                                          ORDER BY o.target_at, o.forecast_id),
                   (SELECT max(p.target_at) FROM forecast_outcomes p
                    WHERE p.book_id = o.book_id AND p.producer_id = o.producer_id AND p.asset = o.asset
                      AND p.horizon = o.horizon AND p.target_at < r.from_at AND NOT p.shadow)
               ) AS before
        FROM unnest(CAST(:from_at AS timestamptz[]), CAST(:to_at AS timestamptz[])) AS r (from_at, to_at)
        JOIN forecast_outcomes o ON o.book_id = :book AND o.target_at >= r.from_at AND o.target_at < r.to_at
        WHERE NOT o.shadow
    ) o GROUP BY 1, 2, 3, 4, 5, 6
"""  # noqa: S608
_PAIR_SUMS = ", ".join(PAIR_COLUMNS)
_PAIR_TOTALS = ", ".join(f"sum({c})::bigint AS {c}" for c in PAIR_COLUMNS)
# A block's day is that of its start plus the horizon. Of each producer and block its last forecast counts.
_RAW_PAIRS = """
    WITH spoken AS (
        SELECT asset, horizon, block, producer_id, length, (block + length)::date AS day,
               date_part('epoch', length)::int AS horizon_seconds, latest % 8 / 2 AS action, latest % 2 = 1 AS correct
        FROM (
            -- the latest of a block in one pass, without a sort: its instant in µs, its action and whether it was right
            SELECT o.asset, o.horizon, b.block, o.producer_id, o.target_at - o.issued_at AS length,
                   max((date_part('epoch', o.issued_at) * 1000000)::bigint * 8 + o.direction_correct::int
                       + CASE o.action WHEN 'long' THEN 0 WHEN 'short' THEN 2 ELSE 4 END) AS latest
            FROM unnest(CAST(:from_at AS timestamptz[]), CAST(:to_at AS timestamptz[])) AS r (from_at, to_at)
            JOIN forecast_outcomes o ON o.book_id = :book AND o.target_at >= r.from_at
                 AND o.target_at < r.to_at + make_interval(secs => :block)
                 AND o.target_at <= CAST(:as_of AS timestamptz)
            CROSS JOIN LATERAL (
                SELECT date_bin(make_interval(secs => :block), o.issued_at, '1970-01-01Z')
            ) AS b (block)
            WHERE NOT o.shadow AND b.block + (o.target_at - o.issued_at) >= r.from_at
                  AND b.block + (o.target_at - o.issued_at) < r.to_at
            GROUP BY 1, 2, 3, 4, 5
        ) blocks
    )
    SELECT f.day, f.asset, f.horizon, f.producer_id AS first, s.producer_id AS second,
           max(f.horizon_seconds) AS horizon_seconds, count(*) AS samples,
           count(*) FILTER (WHERE f.action = s.action) AS agreed,
           count(*) FILTER (WHERE f.action = s.action AND f.correct) AS agreed_correct_first,
           count(*) FILTER (WHERE f.action = s.action AND s.correct) AS agreed_correct_second,
           count(*) FILTER (WHERE f.action <> s.action AND f.correct) AS disagreed_correct_first,
           count(*) FILTER (WHERE f.action <> s.action AND s.correct) AS disagreed_correct_second
    FROM spoken f JOIN spoken s ON s.asset = f.asset AND s.horizon = f.horizon AND s.length = f.length
         AND s.block = f.block AND f.producer_id < s.producer_id
    GROUP BY 1, 2, 3, 4, 5
"""
_ADD_UP_DAYS = text(
    f"INSERT INTO producer_daily_bins (book_id, day, {_KEYS}, bin, {_SUMS}) "  # noqa: S608
    f"SELECT :book, day, {_KEYS}, bin, {_SUMS} FROM ({_RAW}) raw"
)
_ADD_UP_PAIRS = text(
    f"INSERT INTO pair_daily (book_id, day, asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS}) "  # noqa: S608
    f"SELECT :book, day, asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS} FROM ({_RAW_PAIRS}) raw"
)
_WINDOW = text(
    f"SELECT {_KEYS}, bin, {_TOTALS} FROM ("  # noqa: S608
    f"SELECT {_KEYS}, bin, {_SUMS} FROM producer_daily_bins "
    f"WHERE book_id = :book AND day >= :first_day AND day < :end_day "
    f"UNION ALL SELECT {_KEYS}, bin, {_SUMS} FROM ({_RAW}) raw) days GROUP BY {_KEYS}, bin ORDER BY {_KEYS}, bin"
)
_PAIR_WINDOW = text(
    "SELECT asset, horizon, first, second, max(horizon_seconds) AS horizon_seconds, "  # noqa: S608
    f"{_PAIR_TOTALS} FROM (SELECT asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS} FROM pair_daily "
    "WHERE book_id = :book AND day >= :first_day AND day < :end_day "
    f"UNION ALL SELECT asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS} FROM ({_RAW_PAIRS}) raw) days "
    "GROUP BY asset, horizon, first, second ORDER BY asset, horizon, first, second"
)


@dataclass(frozen=True)
class Window:
    """A window of time (from, to]: the whole days in it, and the pieces at its ends."""

    after: datetime
    until: datetime

    def split(self, settled: timedelta = timedelta(0)) -> tuple[date, date, list[datetime], list[datetime]]:
        """First whole day, the day after the last one (ended ``settled`` ago), and the half-open pieces around them."""
        just_after = self.after + timedelta(microseconds=1)
        beyond = self.until + timedelta(microseconds=1)
        first = just_after.date() if just_after == _midnight(just_after.date()) else just_after.date() + timedelta(1)
        end = max(first, (beyond - settled).date())
        if _midnight(first) > beyond:
            return first, first, [just_after], [beyond]
        return first, end, [just_after, _midnight(end)], [_midnight(first), beyond]


def _tuples(result: Result[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in result]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def books_with_outcomes(session: AsyncSession) -> list[str]:
    """Books with at least one outcome or abstention, by name."""
    result = await session.execute(
        text(
            "SELECT book_id FROM books b WHERE EXISTS (SELECT 1 FROM forecast_outcomes o WHERE o.book_id = b.book_id) "
            "OR EXISTS (SELECT 1 FROM forecasts f WHERE f.book_id = b.book_id AND f.action = 'no_forecast') "
            "ORDER BY book_id"
        )
    )
    return list(result.scalars())


async def take_turns(session: AsyncSession, book: str) -> None:
    """Wait until nobody else adds up this book; hold until the transaction ends."""
    await locks.book_performance(session, book)


async def _plan_well(session: AsyncSession) -> None:
    """Room to hash and sort, and plans for the tables as they are now."""
    await session.execute(
        text("SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true)")
    )


async def add_up_due_days(session: AsyncSession, book: str, block: timedelta, limit: int = DAYS_AT_ONCE) -> int:
    """Bring the sums of some days whose outcomes changed up to date; how many days, 0 if none was left.

    A day is added up anew from its outcomes: late ones, and a repetition, come out right. Who takes a day's mark owns
    its sums until the transaction ends; others take other days meanwhile.
    """
    await _plan_well(session)
    result = await session.execute(
        text(
            "DELETE FROM performance_due WHERE book_id = :book AND day IN (SELECT day FROM performance_due "
            "WHERE book_id = :book ORDER BY day LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING day"
        ),
        {"book": book, "limit": limit},
    )
    days = sorted(result.scalars())
    if not days:
        return 0
    # Statements of their own, so that they see what the writers of the marks just taken have committed.
    values = {"book": book, "days": days}
    for table in ("producer_daily_bins", "pair_daily"):
        await session.execute(
            text(f"DELETE FROM {table} WHERE book_id = :book AND day = ANY(CAST(:days AS date[]))"),  # noqa: S608
            values,
        )
    begins = [d for d in days if d - timedelta(1) not in days]
    ends = [d for d in days if d + timedelta(1) not in days]
    ranges = {"from_at": [_midnight(d) for d in begins], "to_at": [_midnight(d + timedelta(1)) for d in ends]}
    await session.execute(_ADD_UP_DAYS, {"book": book} | ranges)
    forever = datetime(9999, 12, 31, tzinfo=UTC)
    await session.execute(_ADD_UP_PAIRS, {"book": book, "block": int(block.total_seconds()), "as_of": forever} | ranges)
    return len(days)


async def window_sums(session: AsyncSession, book: str, window: Window) -> list[tuple[Any, ...]]:
    """Rows (producer, asset, horizon, regime or '', bin, the sums of learning.calibration.COLUMNS) of a window."""
    await _plan_well(session)
    first, end, from_at, to_at = window.split()
    values = {"book": book, "first_day": first, "end_day": end, "from_at": from_at, "to_at": to_at}
    return _tuples(await session.execute(_WINDOW, values))


async def window_pairs(session: AsyncSession, book: str, window: Window, block: timedelta) -> list[tuple[Any, ...]]:
    """Rows (asset, horizon, first, second, horizon in seconds, the counts of learning.ensemble.PAIR_COLUMNS)."""
    first, end, from_at, to_at = window.split(settled=block)
    result = await session.execute(
        _PAIR_WINDOW,
        {
            "book": book,
            "first_day": first,
            "end_day": end,
            "from_at": from_at,
            "to_at": to_at,
            "block": int(block.total_seconds()),
            "as_of": window.until,
        },
    )
    return _tuples(result)


async def abstentions(session: AsyncSession, book: str, window: Window) -> list[tuple[Any, ...]]:
    """Rows (producer, asset, horizon, regime or '', abstentions) of a window, by when the horizon elapsed."""
    result = await session.execute(
        text(
            "SELECT f.producer_id, f.asset, f.horizon, coalesce(f.regime, '') AS regime, count(*) AS abstentions "
            "FROM forecasts f LEFT JOIN forecast_resolution_state s USING (book_id, forecast_id) "
            "WHERE f.book_id = :book AND f.action = 'no_forecast' AND f.target_at > :after AND f.target_at <= :until "
            "AND s.state IS NULL AND NOT f.shadow GROUP BY 1, 2, 3, 4"
        ),
        {"book": book, "after": window.after, "until": window.until},
    )
    return _tuples(result)


async def write_performance(session: AsyncSession, book: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a book's performance."""
    await session.execute(text("DELETE FROM producer_performance WHERE book_id = :book"), {"book": book})
    await execute(session, insertion(ProducerPerformance, rows))


async def write_correlation(session: AsyncSession, book: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a book's agreement of producers."""
    await session.execute(text("DELETE FROM producer_correlation WHERE book_id = :book"), {"book": book})
    await execute(session, insertion(ProducerCorrelation, rows))


# -- recalibration -----------------------------------------------------------------------------------------------------


async def recalibration_due(
    session: AsyncSession, book: str, as_of: datetime, min_outcomes: int, growth: float
) -> list[tuple[str, int, int]]:
    """(producer, outcomes, last version) of those with enough outcomes, and enough new ones since their last map."""
    result = await session.execute(
        text(
            "SELECT o.producer_id, o.outcomes, coalesce(m.version, 0) AS version FROM "
            "(SELECT producer_id, count(*) AS outcomes FROM forecast_outcomes "
            "WHERE book_id = :book AND target_at <= :as_of AND NOT shadow GROUP BY 1) o "
            "LEFT JOIN LATERAL (SELECT version, n FROM recalibration_maps m WHERE m.book_id = :book "
            "AND m.producer_id = o.producer_id ORDER BY version DESC LIMIT 1) m ON true "
            "WHERE o.outcomes >= :least AND (m.n IS NULL OR o.outcomes - m.n >= m.n * CAST(:growth AS float8)) "
            "ORDER BY 1"
        ),
        {"book": book, "as_of": as_of, "least": min_outcomes, "growth": growth},
    )
    return [(row.producer_id, row.outcomes, row.version) for row in result]


async def confidence_history(
    session: AsyncSession, book: str, producer: str, as_of: datetime, limit: int
) -> list[tuple[Any, ...]]:
    """Rows (issued_at, target_at in µs since 1970, confidence, correct) of a producer's newest outcomes, by issue."""
    result = await session.execute(
        text(
            "SELECT (extract(epoch FROM issued_at) * 1000000)::bigint AS issued_at, "
            "(extract(epoch FROM target_at) * 1000000)::bigint AS target_at, confidence, direction_correct "
            "FROM (SELECT issued_at, target_at, confidence, direction_correct, forecast_id FROM forecast_outcomes "
            "WHERE book_id = :book AND producer_id = :producer AND target_at <= :as_of AND NOT shadow "
            "ORDER BY target_at DESC, forecast_id DESC LIMIT :limit) newest ORDER BY issued_at, forecast_id"
        ),
        {"book": book, "producer": producer, "as_of": as_of, "limit": limit},
    )
    return _tuples(result)


async def write_recalibration(session: AsyncSession, row: Mapping[str, Any]) -> bool:
    """Store a version of a map, once; False if that version is on record."""
    written = await execute(
        session, insertion(RecalibrationMap, [row], on_conflict="DO NOTHING", returning="producer_id")
    )
    return bool(written)


async def recalibrations(session: AsyncSession, book: str | None, producer: str | None = None) -> Sequence[RowMapping]:
    """The last map of each producer."""
    result = await session.execute(
        text(
            "SELECT DISTINCT ON (book_id, producer_id) book_id AS book, producer_id, version, adopted, stated, "
            "recalibrated, evidence, n, as_of, policy_hash FROM recalibration_maps "
            "WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "
            "AND (CAST(:producer AS text) IS NULL OR producer_id = :producer) "
            "ORDER BY book_id, producer_id, version DESC"
        ),
        {"book": book, "producer": producer},
    )
    return result.mappings().all()


# -- health ------------------------------------------------------------------------------------------------------------

_BEAT = text(
    "WITH new AS (INSERT INTO producer_heartbeats (book_id, producer_id, heartbeat_id, at) "
    "VALUES (:book, :producer, :id, clock_timestamp()) ON CONFLICT DO NOTHING RETURNING 1), "
    "counted AS (INSERT INTO producer_health AS h (book_id, producer_id, successes, failures, last_success_at, "
    "last_failure_at, last_error) SELECT :book, :producer, CAST(:successes AS bigint), CAST(:failures AS bigint), "
    "CASE WHEN :successes > 0 THEN CAST(:at AS timestamptz) END, "
    "CASE WHEN :failures > 0 THEN CAST(:at AS timestamptz) END, CAST(:error AS text) FROM new "
    "ON CONFLICT (book_id, producer_id) DO UPDATE SET successes = h.successes + excluded.successes, "
    "failures = h.failures + excluded.failures, "
    "last_success_at = greatest(h.last_success_at, excluded.last_success_at), "
    "last_failure_at = greatest(h.last_failure_at, excluded.last_failure_at), "
    "last_error = CASE WHEN excluded.last_failure_at >= coalesce(h.last_failure_at, '-infinity') "
    "THEN coalesce(excluded.last_error, h.last_error) ELSE h.last_error END) SELECT count(*) FROM new"
)


async def beat(session: AsyncSession, heartbeat: Heartbeat, heartbeat_id: str, at: datetime) -> bool:
    """Count a producer's sign of life, once; False if it was counted before."""
    await execute(session, store.books.meeting([heartbeat.book]))
    result = await session.execute(
        _BEAT,
        {
            "book": heartbeat.book,
            "producer": heartbeat.producer_id,
            "id": heartbeat_id,
            "at": at,
            "successes": heartbeat.successes,
            "failures": heartbeat.failures,
            "error": heartbeat.error,
        },
    )
    return bool(result.scalar_one())


async def forget_heartbeats(session: AsyncSession, days: int) -> None:
    """Forget the ids of old heartbeats; their counts stay."""
    await session.execute(
        text("DELETE FROM producer_heartbeats WHERE at < clock_timestamp() - make_interval(days => :days)"),
        {"days": days},
    )


# -- reading -----------------------------------------------------------------------------------------------------------


async def listing(
    session: AsyncSession,
    book: str | None,
    *,
    asset: str | None = None,
    horizon: str | None = None,
    regime: str | None = None,
    producer: str | None = None,
) -> Sequence[RowMapping]:
    """Producers with their performance (of all assets, horizons, regimes where none is named), karma and health.

    A producer that only has karma, heartbeats or outcomes of long ago is shown, too.
    """
    result = await session.execute(
        text(
            "WITH scored AS (SELECT book_id, producer_id, max(target_at) AS last_outcome_at FROM forecast_outcomes "
            "WHERE NOT shadow GROUP BY 1, 2), "
            "known AS (SELECT book_id, producer_id FROM producer_performance "
            "UNION SELECT book_id, producer_id FROM scored "
            "UNION SELECT book_id, producer_id FROM producer_health "
            "UNION SELECT book_id, producer_id FROM producer_karma) "
            "SELECT k.book_id AS book, k.producer_id, CAST(:asset AS text) AS asset, "
            "CAST(:horizon AS text) AS horizon, "
            "CAST(:regime AS text) AS regime, "
            "p.outcomes, p.correct, p.independent, p.abstentions, p.hit_rate, "
            "p.hit_low, p.hit_high, p.mean_confidence, p.mean_confidence_se, p.brier, p.brier_se, p.reliability, "
            "p.resolution, p.uncertainty, p.within_bin_variance, p.within_bin_covariance, p.log_score, p.log_score_se, "
            "p.calibration_error, p.calibration_error_if_perfect, p.correlation, p.sums, p.as_of, p.policy_hash, "
            "s.last_outcome_at, a.karma, h.successes, h.failures, h.last_success_at, h.last_failure_at, h.last_error "
            "FROM known k "
            "LEFT JOIN producer_performance p ON p.book_id = k.book_id AND p.producer_id = k.producer_id "
            "AND p.asset = coalesce(CAST(:asset AS text), '') AND p.horizon = coalesce(CAST(:horizon AS text), '') "
            "AND p.regime = coalesce(CAST(:regime AS text), '') "
            "LEFT JOIN scored s ON s.book_id = k.book_id AND s.producer_id = k.producer_id "
            "LEFT JOIN producer_karma a ON a.book_id = k.book_id AND a.producer_id = k.producer_id "
            "LEFT JOIN producer_health h ON h.book_id = k.book_id AND h.producer_id = k.producer_id "
            "WHERE (CAST(:book AS text) IS NULL OR k.book_id = :book) "
            "AND (CAST(:producer AS text) IS NULL OR k.producer_id = :producer) "
            "ORDER BY k.book_id, p.brier NULLS LAST, k.producer_id"
        ),
        {"book": book, "asset": asset, "horizon": horizon, "regime": regime, "producer": producer},
    )
    return result.mappings().all()


async def agreement(session: AsyncSession, book: str | None) -> Sequence[RowMapping]:
    """How pairs of producers agree."""
    result = await session.execute(
        text(
            "SELECT book_id AS book, asset, horizon, first, second, samples, agreement, agreement_low, agreement_high, "
            "hit_agreed, hit_agreed_low, hit_agreed_high, hit_first_disagreed, hit_first_disagreed_low, "
            "hit_first_disagreed_high, hit_second_disagreed, hit_second_disagreed_low, hit_second_disagreed_high, "
            "as_of, policy_hash FROM producer_correlation WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "
            "ORDER BY book_id, asset, horizon, first, second"
        ),
        {"book": book},
    )
    return result.mappings().all()
