"""Performance and agreement of producers: sums of each day, and of the rolling window from these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.agreement import PAIR_COLUMNS
from closeloop.learning.calibration import BIN_EDGES, COLUMNS
from closeloop.models.producers import ProducerCorrelation, ProducerPerformance, Slice, SpokenOf
from closeloop.store.rows import execute, insertion

DAYS_AT_ONCE = 8  # days (UTC) that are added up in one transaction
_KEYS = "producer_id, asset, horizon, regime"
_SUMS = ", ".join(COLUMNS)
_TOTALS = ", ".join(f"sum({c})::float8 AS {c}" for c in COLUMNS)

# An outcome's overlap: of its stream (the same producer, asset and horizon) the part of the horizon in common with each
# outcome, twice if its target lies before, once if it is the same, as is its own. ``at`` is in microseconds since the
# start of the range, ``length`` in microseconds; outcomes before the range count only as earlier ones. Streams are told
# apart by a 64-bit hash, which sorts in half the time of their names; that two of a book's streams share one has a
# chance of 1 in 10^12 for 6,000 of them.
_RANGES = "unnest(CAST(:from_at AS timestamptz[]), CAST(:to_at AS timestamptz[])) AS r (from_at, to_at)"
_IN_RANGE = (
    "JOIN forecast_outcomes o ON o.book_id = :book AND o.target_at >= r.from_at AND o.target_at < r.to_at "
    "AND NOT o.shadow"
)
_SUMS_FROM_OUTCOMES = f"""
    SELECT target_at::date AS day, producer_id, asset, horizon, coalesce(regime, '') AS regime,
           width_bucket(confidence, CAST('{{{", ".join(map(str, BIN_EDGES))}}}' AS float8[])) AS bin,
           count(*) AS outcomes, count(*) FILTER (WHERE direction_correct) AS correct, sum(overlap) AS overlap,
           sum(confidence) AS confidence, sum(confidence * confidence) AS confidence_squared,
           coalesce(sum(confidence) FILTER (WHERE direction_correct), 0) AS confidence_correct,
           sum(brier_score * brier_score) AS brier_squared, sum(log_score) AS log_score,
           sum(log_score * log_score) AS log_score_squared
    FROM (
        SELECT *, 2 * (count(*) OVER until - (count(*) OVER until * at::float8 - sum(at) OVER until) / length)
                  - count(*) OVER together AS overlap
        FROM (
            SELECT *, hash_record_extended(ROW(producer_id, asset, horizon, from_at), 0) AS stream,
                   (date_part('epoch', target_at - from_at) * 1000000)::bigint AS at,
                   date_part('epoch', target_at - issued_at) * 1000000 AS length
            FROM (
                SELECT r.from_at, o.producer_id, o.asset, o.horizon, o.regime, o.confidence, o.direction_correct,
                       o.issued_at, o.target_at, o.brier_score, o.log_score
                FROM {_RANGES} {_IN_RANGE}
                UNION ALL
                SELECT s.from_at, p.* FROM (
                    SELECT DISTINCT r.from_at, o.producer_id, o.asset, o.horizon, o.target_at - o.issued_at AS length
                    FROM {_RANGES} {_IN_RANGE}
                ) s CROSS JOIN LATERAL (
                    SELECT p.producer_id, p.asset, p.horizon, p.regime, p.confidence, p.direction_correct,
                           p.issued_at, p.target_at, p.brier_score, p.log_score
                    FROM forecast_outcomes p
                    WHERE p.book_id = :book AND p.producer_id = s.producer_id AND p.asset = s.asset
                      AND p.horizon = s.horizon AND NOT p.shadow
                      AND p.target_at < s.from_at AND p.target_at > s.from_at - s.length
                    OFFSET 0  -- one look into the index for each stream
                ) p
            ) spoken
        ) placed
        WINDOW until AS (PARTITION BY stream ORDER BY at / length RANGE BETWEEN 1 PRECEDING AND CURRENT ROW),
               together AS (PARTITION BY stream ORDER BY at / length RANGE BETWEEN CURRENT ROW AND CURRENT ROW)
    ) weighed WHERE at >= 0 GROUP BY 1, 2, 3, 4, 5, 6
"""  # noqa: S608
_PAIR_SUMS = ", ".join(PAIR_COLUMNS)
_PAIR_TOTALS = ", ".join(f"sum({c})::bigint AS {c}" for c in PAIR_COLUMNS)
# A block's day is that of its start plus the horizon. Of each producer and block its last forecast counts.
_PAIRS_FROM_OUTCOMES = """
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
    f"SELECT :book, day, {_KEYS}, bin, {_SUMS} FROM ({_SUMS_FROM_OUTCOMES}) raw"
)
_ADD_UP_PAIRS = text(
    f"INSERT INTO pair_daily (book_id, day, asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS}) "  # noqa: S608
    f"SELECT :book, day, asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS} FROM ({_PAIRS_FROM_OUTCOMES}) raw"
)
_WINDOW = text(
    f"SELECT {_KEYS}, bin, {_TOTALS} FROM ("  # noqa: S608
    f"SELECT {_KEYS}, bin, {_SUMS} FROM producer_daily_bins "
    f"WHERE book_id = :book AND day >= :first_day AND day < :end_day "
    f"UNION ALL SELECT {_KEYS}, bin, {_SUMS} FROM ({_SUMS_FROM_OUTCOMES}) raw) days "
    f"GROUP BY {_KEYS}, bin ORDER BY {_KEYS}, bin"
)
_PAIR_WINDOW = text(
    "SELECT asset, horizon, first, second, max(horizon_seconds) AS horizon_seconds, "  # noqa: S608
    f"{_PAIR_TOTALS} FROM (SELECT asset, horizon, first, second, horizon_seconds, {_PAIR_SUMS} FROM pair_daily "
    "WHERE book_id = :book AND day >= :first_day AND day < :end_day "
    "UNION ALL SELECT asset, horizon, first, second, horizon_seconds, "
    f"{_PAIR_SUMS} FROM ({_PAIRS_FROM_OUTCOMES}) raw) days "
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


class BinSums(NamedTuple):
    """The sums of a slice's outcomes in a confidence bin, in the order of learning.calibration.COLUMNS."""

    slice: Slice
    bin: int
    sums: tuple[float, ...]


class Abstentions(NamedTuple):
    """How often a producer abstained, by asset, horizon and the regime that its forecasts named."""

    slice: Slice
    abstentions: int


class PairCounts(NamedTuple):
    """Blocks that two producers shared, counted in the order of learning.agreement.PAIR_COLUMNS."""

    asset: str
    horizon: str
    first: str
    second: str
    horizon_seconds: int
    counts: tuple[int, ...]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def books_with_outcomes(session: AsyncSession) -> list[str]:
    """Books with at least one outcome or abstention, or that had one until it was withdrawn, by name."""
    result = await session.execute(
        text(
            "SELECT book_id FROM books b WHERE b.archived_at IS NULL AND "
            "(EXISTS (SELECT 1 FROM forecast_outcomes o WHERE o.book_id = b.book_id) "
            "OR EXISTS (SELECT 1 FROM performance_due d WHERE d.book_id = b.book_id) "
            "OR EXISTS (SELECT 1 FROM forecasts f WHERE f.book_id = b.book_id AND f.action = 'no_forecast')) "
            "ORDER BY book_id"
        )
    )
    return list(result.scalars())


class WrittenWindow(NamedTuple):
    """As of when a book's producers were last scored, and how often they have been."""

    as_of: datetime
    written: int


_NEVER_WRITTEN = WrittenWindow(datetime(1, 1, 1, tzinfo=UTC), 0)


async def written_window(session: AsyncSession, book: str) -> WrittenWindow:
    """The window over which a book's producers were last scored; one before all time if none ever was."""
    result = await session.execute(
        text("SELECT as_of, written FROM performance_windows WHERE book_id = :book"), {"book": book}
    )
    row = result.first()
    return WrittenWindow._make(row) if row else _NEVER_WRITTEN


async def take_window(session: AsyncSession, book: str, as_of: datetime, seen: WrittenWindow) -> bool:
    """Whether this transaction may replace a book's scores by those as of ``as_of``, computed after ``seen`` was read.

    Not where another one has written meanwhile, which may have known more, nor where those on record are of a later
    instant. Until the transaction ends, no other one may.
    """
    result = await session.execute(
        text(
            "INSERT INTO performance_windows AS w (book_id, as_of, written) VALUES (:book, :as_of, 1) "
            "ON CONFLICT (book_id) DO UPDATE SET as_of = excluded.as_of, written = w.written + 1 "
            "WHERE w.written = :seen AND w.as_of <= excluded.as_of RETURNING 1"
        ),
        {"book": book, "as_of": as_of, "seen": seen.written},
    )
    return result.first() is not None


async def _set_planner_options(session: AsyncSession) -> None:
    """For the rest of the transaction: 64 MB to hash and sort, fresh plans, and sums by hashing instead of sorting.

    The planner cannot estimate how many rows an array of days selects, or how many pairs share a block. It expects few
    and chooses to sort by texts, which is slow for many.
    """
    await session.execute(
        text(
            "SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true), "
            "set_config('enable_sort', 'off', true), set_config('enable_mergejoin', 'off', true)"
        )
    )


async def last_due_day(session: AsyncSession) -> date | None:
    """The latest day whose sums are to be added up again, of any book."""
    result = await session.execute(text("SELECT max(day) FROM performance_due"))
    day: date | None = result.scalar_one()
    return day


async def add_up_due_days(session: AsyncSession, book: str, block: timedelta, limit: int = DAYS_AT_ONCE) -> int:
    """Add up again at most ``limit`` days whose outcomes changed; returns how many days, 0 if none was left.

    A day is added up anew from its outcomes, so that late ones, and a repetition, come out right. A transaction that
    has deleted a day's mark is the only one to write the day's sums until it ends; others take other days meanwhile.
    """
    await _set_planner_options(session)
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


async def window_sums(session: AsyncSession, book: str, window: Window) -> list[BinSums]:
    """The sums of a window, by slice and bin; the regime of forecasts that named none is empty."""
    await _set_planner_options(session)
    first, end, from_at, to_at = window.split()
    values = {"book": book, "first_day": first, "end_day": end, "from_at": from_at, "to_at": to_at}
    result = await session.execute(_WINDOW, values)
    return [BinSums(Slice._make(row[:4]), row[4], tuple(row[5:])) for row in result]


async def window_pairs(session: AsyncSession, book: str, window: Window, block: timedelta) -> list[PairCounts]:
    """How often pairs of producers spoke in the same block of a window, and how that turned out."""
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
    return [PairCounts._make((*row[:5], tuple(row[5:]))) for row in result]


async def abstentions(session: AsyncSession, book: str, window: Window) -> list[Abstentions]:
    """Abstentions whose horizon elapsed within a window, counted by slice."""
    result = await session.execute(
        text(
            "SELECT f.producer_id, f.asset, f.horizon, coalesce(f.regime, '') AS regime, count(*) AS abstentions "
            "FROM forecasts f LEFT JOIN forecast_resolution_state s USING (book_id, forecast_id) "
            "WHERE f.book_id = :book AND f.action = 'no_forecast' AND f.target_at > :after AND f.target_at <= :until "
            "AND s.state IS NULL AND NOT f.shadow GROUP BY 1, 2, 3, 4"
        ),
        {"book": book, "after": window.after, "until": window.until},
    )
    return [Abstentions(Slice._make(row[:4]), row[4]) for row in result]


async def spoken_of(session: AsyncSession, book: str | None, after: datetime, until: datetime) -> SpokenOf:
    """Assets, horizons and regimes of the outcomes on the days of a window, of a book or of all."""
    query = (
        "SELECT DISTINCT {name} FROM producer_daily_bins WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "
        "AND day BETWEEN CAST(:after AS date) AND CAST(:until AS date) AND {name} <> '' ORDER BY 1 LIMIT 20"
    )
    values = {"book": book, "after": after.date(), "until": until.date()}
    found = [
        list((await session.execute(text(query.format(name=name)), values)).scalars())
        for name in ("asset", "horizon", "regime")
    ]
    return SpokenOf(assets=found[0], horizons=found[1], regimes=found[2])


async def write_performance(session: AsyncSession, book: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a book's performance."""
    await session.execute(text("DELETE FROM producer_performance WHERE book_id = :book"), {"book": book})
    await execute(session, insertion(ProducerPerformance, rows))


async def write_correlation(session: AsyncSession, book: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a book's agreement of producers."""
    await session.execute(text("DELETE FROM producer_correlation WHERE book_id = :book"), {"book": book})
    await execute(session, insertion(ProducerCorrelation, rows))
