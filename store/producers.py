"""Producers: scores, karma and heartbeats of each, and how pairs of them agree."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.producers import Heartbeat, PairRates, PairView, Scores
from closeloop.store.pages import page
from closeloop.store.rows import execute


class HeartbeatCounts(NamedTuple):
    """How a producer's heartbeats went until an instant; every field but the first three is None where it sent none.

    ``uncounted``: of some heartbeats since the beginning of the window it is not on record how they went.
    """

    recent_successes: int
    recent_failures: int
    uncounted: bool
    successes: int | None
    failures: int | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_error: str | None


@dataclass(frozen=True)
class KnownProducer:
    """A producer and its scores of the slice that was asked for, as they were last written for its book (``as_of``)."""

    book: str
    producer_id: str
    scores: Scores
    sums: list[list[float]]
    as_of: datetime | None
    policy_hash: str | None
    last_outcome_at: datetime | None
    karma: float | None
    heartbeats: HeartbeatCounts


# What came until then: all that is counted, less what came later. Where nothing came later, the last is still the last.
_BEATS = (
    "beats AS (SELECT book_id, producer_id, "
    "sum(successes) FILTER (WHERE NOT later AND happened_at > :since) AS recent_successes, "
    "sum(failures) FILTER (WHERE NOT later AND happened_at > :since) AS recent_failures, "
    "sum(successes) FILTER (WHERE later) AS later_successes, sum(failures) FILTER (WHERE later) AS later_failures, "
    "max(happened_at) FILTER (WHERE NOT later AND successes > 0) AS last_success_at, "
    "max(happened_at) FILTER (WHERE NOT later AND failures > 0) AS last_failure_at, "
    "(array_agg(error ORDER BY happened_at DESC) FILTER (WHERE NOT later AND failures > 0 AND error IS NOT NULL "
    "AND CAST(:as_of AS timestamptz) IS NOT NULL))[1] AS last_error, "
    "bool_or(successes IS NULL) FILTER (WHERE at > :since) AS uncounted "
    "FROM (SELECT *, coalesce(at > :as_of, false) AS later FROM producer_heartbeats "
    "WHERE at > CAST(:since AS timestamptz) OR CAST(:as_of AS timestamptz) IS NOT NULL) b GROUP BY 1, 2)"
)
_UNTIL_THEN = ", ".join(
    [
        "coalesce(b.recent_successes, 0) AS recent_successes, coalesce(b.recent_failures, 0) AS recent_failures, "
        "coalesce(b.uncounted, false) AS uncounted, h.successes - coalesce(b.later_successes, 0) AS successes, "
        "h.failures - coalesce(b.later_failures, 0) AS failures",
        *(
            f"CASE WHEN coalesce(b.later_{which}, 0) = 0 THEN h.{last} ELSE b.{last} END AS {last}"
            for which, last in (
                ("successes", "last_success_at"),
                ("failures", "last_failure_at"),
                ("failures", "last_error"),
            )
        ),
    ]
)
_LISTING = page(
    f"WITH {_BEATS}, scored AS (SELECT book_id, producer_id, max(target_at) AS last_outcome_at FROM forecast_outcomes "  # noqa: S608
    "WHERE NOT shadow GROUP BY 1, 2), "
    "known AS (SELECT book_id, producer_id FROM producer_performance "
    "UNION SELECT book_id, producer_id FROM scored "
    "UNION SELECT book_id, producer_id FROM producer_health "
    "UNION SELECT book_id, producer_id FROM producer_karma) "
    "SELECT k.book_id || '/' || k.producer_id AS id, k.book_id AS book, k.producer_id, "
    f"{', '.join(f'p.{name}' for name in Scores.model_fields)}, p.sums, w.as_of, p.policy_hash, "
    f"s.last_outcome_at, a.karma, {_UNTIL_THEN} "
    "FROM known k "
    "LEFT JOIN producer_performance p ON p.book_id = k.book_id AND p.producer_id = k.producer_id "
    "AND p.asset = coalesce(CAST(:asset AS text), '') AND p.horizon = coalesce(CAST(:horizon AS text), '') "
    "AND p.regime = coalesce(CAST(:regime AS text), '') "
    "LEFT JOIN performance_windows w ON w.book_id = k.book_id "
    "LEFT JOIN scored s ON s.book_id = k.book_id AND s.producer_id = k.producer_id "
    "LEFT JOIN producer_karma a ON a.book_id = k.book_id AND a.producer_id = k.producer_id "
    "LEFT JOIN producer_health h ON h.book_id = k.book_id AND h.producer_id = k.producer_id "
    "LEFT JOIN beats b ON b.book_id = k.book_id AND b.producer_id = k.producer_id "
    "WHERE (CAST(:book AS text) IS NULL OR k.book_id = :book) "
    "AND (CAST(:producer AS text) IS NULL OR k.producer_id = :producer)",
    key="id",
    order="book, brier NULLS LAST, producer_id",
)


async def listing(
    session: AsyncSession,
    book: str | None,
    *,
    asset: str | None = None,
    horizon: str | None = None,
    regime: str | None = None,
    producer: str | None = None,
    as_of: datetime | None = None,
    heartbeats_since: datetime | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[KnownProducer]:
    """Producers of a book or of all, the best Brier score of the slice first. See ``pages.page``; ``before``: an id.

    Outcomes after ``as_of`` are not the last one, and heartbeats that came after it are not counted; those that
    happened after ``heartbeats_since`` are the recent ones (without it, none).

    A producer that only has karma, heartbeats or outcomes of long ago is listed, too.
    """
    values: dict[str, Any] = {"book": book, "asset": asset, "horizon": horizon, "regime": regime, "producer": producer}
    values |= {"as_of": as_of, "since": heartbeats_since, "last": last, "before": before}
    result = await session.execute(text(_LISTING), values)
    return [
        KnownProducer(
            book=row["book"],
            producer_id=row["producer_id"],
            scores=Scores() if row["outcomes"] is None else Scores(**{name: row[name] for name in Scores.model_fields}),
            sums=row["sums"] or [],
            as_of=row["as_of"],
            policy_hash=row["policy_hash"],
            last_outcome_at=row["last_outcome_at"],
            karma=row["karma"],
            heartbeats=HeartbeatCounts._make(row[name] for name in HeartbeatCounts._fields),
        )
        for row in result.mappings()
    ]


_PAIRS = page(
    "SELECT md5(jsonb_build_array(book_id, asset, horizon, first, second)::text) AS id, book_id AS book, asset, "  # noqa: S608
    f"horizon, first, second, {', '.join(PairRates.model_fields)}, as_of, policy_hash "
    "FROM producer_correlation WHERE (CAST(:book AS text) IS NULL OR book_id = :book)",
    key="id",
    order="book, asset, horizon, first, second",
)


async def agreement(
    session: AsyncSession, book: str | None, *, last: int | None = None, before: str | None = None
) -> list[PairView]:
    """How pairs of producers agree. See ``pages.page``; ``before``: an id."""
    result = await session.execute(text(_PAIRS), {"book": book, "last": last, "before": before})
    return [PairView.model_validate(dict(row)) for row in result.mappings()]


_BEAT = text(
    "WITH new AS (INSERT INTO producer_heartbeats "
    "(book_id, producer_id, heartbeat_id, at, happened_at, successes, failures, error) VALUES (:book, :producer, :id, "
    "clock_timestamp(), CAST(:at AS timestamptz), CAST(:successes AS integer), CAST(:failures AS integer), "
    "CAST(:error AS text)) ON CONFLICT DO NOTHING RETURNING 1), "
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
    """Count a heartbeat; False if one with this id was counted before, which changes nothing."""
    await execute(session, store.books.creating([heartbeat.book]))
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
    """Delete the ids of heartbeats older than ``days`` days. Their counts stay; sent again, one would count twice."""
    await session.execute(
        text("DELETE FROM producer_heartbeats WHERE at < clock_timestamp() - make_interval(days => :days)"),
        {"days": days},
    )
