"""Producers: scores of their forecasts, calibration, agreement of pairs, and health."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.calibration import ALL, COLUMNS, dense, performance, reliability, with_all
from closeloop.learning.health import assess
from closeloop.models import launches
from closeloop.models.assets import canonical_asset
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.forecasts import canonical_length
from closeloop.models.policy import LearningPolicy, ProducersPolicy
from closeloop.models.producers import (
    HEARTBEATS_KEPT_DAYS,
    CalibrationView,
    HealthView,
    Heartbeat,
    HeartbeatReceipt,
    PairView,
    ProducerView,
    ReliabilityBin,
    Scores,
    Slice,
    SliceScores,
    SpokenOf,
)
from closeloop.services import books
from closeloop.services.cursors import in_book
from closeloop.services.launching import run
from closeloop.store.performance import Abstentions, BinSums, Window
from closeloop.store.producers import HeartbeatCounts, KnownProducer


async def listing(
    session: AsyncSession,
    policy: LearningPolicy,
    now: datetime,
    book: str | None = None,
    *,
    asset: str | None = None,
    horizon: str | None = None,
    regime: str | None = None,
    as_of: datetime | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[ProducerView]:
    """Producers of a book or of all over the rolling window, of a slice, with their health at ``as_of``, else ``now``.

    ``as_of`` computes the window that ended then instead of showing the last one that was written. Any spelling of an
    asset or horizon selects it. Only the ``last`` of those before the producer ``before`` (see ``cursors.in_book``).
    Raises NotOnRecord, NotAcceptable.
    """
    await books.find_if_named(session, book)
    asset, horizon = one_name(asset, horizon)
    if before is not None:
        before = await _cursor(session, book, before)
    known = await store.producers.listing(
        session,
        book,
        asset=asset,
        horizon=horizon,
        regime=regime,
        as_of=as_of,
        heartbeats_since=_health_window(as_of or now, policy.producers),
        last=last,
        before=before,
    )
    if as_of is not None:
        known = await _as_of(session, policy, known, as_of, asset=asset, horizon=horizon, regime=regime)
    return [
        ProducerView(
            **one.scores.model_dump(),
            id=f"{one.book}/{one.producer_id}",
            book=one.book,
            producer_id=one.producer_id,
            asset=asset,
            horizon=horizon,
            regime=regime,
            bins=_bins(one.sums),
            as_of=one.as_of,
            policy_hash=one.policy_hash,
            last_outcome_at=one.last_outcome_at,
            karma=one.karma if as_of is None else None,
            health=_health(one.heartbeats, policy.producers, now, as_of),
        )
        for one in known
    ]


def one_name(asset: str | None, horizon: str | None) -> tuple[str | None, str | None]:
    """The asset and horizon that a slice is recorded under. Raises NotAcceptable where the horizon is none."""
    try:
        return asset and canonical_asset(asset), horizon and canonical_length(horizon)
    except ValueError as error:
        raise NotAcceptable(f"horizon: {error}") from None


async def spoken_of(
    session: AsyncSession, policy: LearningPolicy, book: str | None, as_of: datetime | None, now: datetime
) -> SpokenOf:
    """What the outcomes of the rolling window are of, for who asked for something else."""
    until = as_of or now
    return await store.performance.spoken_of(session, book, until - timedelta(days=policy.producers.window_days), until)


async def _cursor(session: AsyncSession, book: str | None, before: str) -> str:
    of, producer = in_book(book, before)
    if not await store.producers.listing(session, of, producer=producer):
        raise NotOnRecord(f"There is no producer {before}: 'closeloop producers' shows which there are.")
    return f"{of}/{producer}"


async def calibration(
    session: AsyncSession,
    policy: LearningPolicy,
    now: datetime,
    producer: str,
    book: str | None = None,
    *,
    asset: str | None = None,
    horizon: str | None = None,
    regime: str | None = None,
    as_of: datetime | None = None,
) -> CalibrationView:
    """A producer's reliability diagram (share that came true, by stated confidence) and its last recalibration.

    Raises NotOnRecord, and NotAcceptable where several books have a producer of that name.
    """
    views = await listing(session, policy, now, book, asset=asset, horizon=horizon, regime=regime, as_of=as_of)
    found = [view for view in views if view.producer_id == producer]
    if not found:
        raise NotOnRecord(f"There is no producer {producer}: 'closeloop producers' shows which there are.")
    if len(found) > 1:
        raise NotAcceptable(f"Several books have a producer {producer}: say which with --book.")
    maps = await store.recalibration.latest(session, found[0].book, producer, as_of)
    return CalibrationView(
        **found[0].model_dump(include=CalibrationView.model_fields.keys() - {"recalibration"}),
        recalibration=maps[0] if maps else None,
    )


async def agreement(
    session: AsyncSession, book: str | None = None, *, last: int | None = None, before: str | None = None
) -> list[PairView]:
    """How pairs of producers agree, of a book or of all: the ``last`` of those before the pair ``before``.

    Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    if before is not None and before not in {pair.id for pair in await store.producers.agreement(session, book)}:
        raise NotOnRecord(f"There is no pair {before}: 'closeloop producers agreement --json' shows their ids.")
    return await store.producers.agreement(session, book, last=last, before=before)


async def heartbeat(client: Client, message: Heartbeat) -> HeartbeatReceipt:
    """Count a producer's heartbeat in a workflow and wait for it; ``heartbeat_id`` must be set. Raises RunFailed."""
    assert message.heartbeat_id is not None, "the caller names it, so that sent again it is the same"
    counted: bool = await run(client, launches.heartbeat(message))
    return HeartbeatReceipt(counted=counted, heartbeat_id=message.heartbeat_id)


async def _as_of(
    session: AsyncSession,
    policy: LearningPolicy,
    known: Sequence[KnownProducer],
    as_of: datetime,
    *,
    asset: str | None,
    horizon: str | None,
    regime: str | None,
) -> list[KnownProducer]:
    """The producers with the scores that they had at an instant, computed now."""
    window = Window(after=as_of - timedelta(days=policy.producers.window_days), until=as_of)
    wanted = (asset or "", horizon or "", regime or "")
    found: dict[tuple[str, str], SliceScores] = {}
    for book in sorted({one.book for one in known}):
        sums = await store.performance.window_sums(session, book, window)
        abstained = await store.performance.abstentions(session, book, window)
        for one in scores_of_slices(sums, abstained, policy.producers):
            if one.slice[1:] == wanted:
                found[book, one.slice.producer_id] = one
    views_then = []
    for producer in known:
        scores_then = found.get((producer.book, producer.producer_id))
        views_then.append(
            replace(producer, scores=Scores(), sums=[], as_of=as_of, policy_hash=None)
            if scores_then is None
            else replace(
                producer,
                scores=scores_then.scores,
                sums=scores_then.sums,
                as_of=as_of,
                policy_hash=policy.producers.hash,
            )
        )
    return views_then


def scores_of_slices(
    sums: Sequence[BinSums], abstained: Sequence[Abstentions], producers: ProducersPolicy
) -> list[SliceScores]:
    """Scores of every slice, those of all assets, horizons and regimes included, from a window's sums by bin."""
    streams = list(dict.fromkeys(row.slice for row in sums))
    number = {stream: i for i, stream in enumerate(streams)}
    names: list[list[str]] = [sorted({stream[i] for stream in streams}) for i in range(4)]
    codes = [{name: code for code, name in enumerate(known)} for known in names]
    keys = np.array([[codes[i][s[i]] for i in range(4)] for s in streams], dtype=np.int64).reshape(-1, 4)
    group = np.array([number[row.slice] for row in sums], dtype=np.int64)
    values = np.array([row.sums for row in sums], dtype=np.float64).reshape(-1, len(COLUMNS))
    bins = np.array([row.bin for row in sums], dtype=np.int64)
    all_keys, all_sums = with_all(keys, dense(group, bins, values, len(streams)))
    scores = performance(all_sums, producers)
    abstentions_left = _abstentions(abstained)
    found: list[SliceScores] = []
    for i, codes_of in enumerate(all_keys.tolist()):
        part = Slice._make("" if code == ALL else names[j][code] for j, code in enumerate(codes_of))
        if codes_of[3] != ALL and part.regime == "":
            continue  # forecasts that name no regime have no row of their own, only their share of all regimes'
        known = {name: plain_number(array[i]) for name, array in vars(scores).items()}
        found.append(
            SliceScores(part, Scores(**known, abstentions=abstentions_left.pop(part, 0)), all_sums[i].tolist())
        )
    return found + [SliceScores(part, Scores(abstentions=n), []) for part, n in sorted(abstentions_left.items())]


def _abstentions(rows: Sequence[Abstentions]) -> Counter[Slice]:
    """Abstentions of each slice, and of all assets, horizons and regimes."""
    counts: Counter[Slice] = Counter()
    for (producer, asset, horizon, regime), count in rows:
        for part in {Slice(producer, a, h, r) for a in (asset, "") for h in (horizon, "") for r in (regime, "")}:
            counts[part] += count
    return counts


def plain_number(value: Any) -> Any:
    """A NumPy number as JSON has it; None where it is undefined."""
    plain = value.item()
    return None if isinstance(plain, float) and plain != plain else plain


def _bins(sums: Sequence[Sequence[float]]) -> list[ReliabilityBin]:
    """The reliability diagram of a slice."""
    return [ReliabilityBin(**asdict(b)) for b in reliability(np.array(sums, dtype=np.float64))] if sums else []


EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def _health_window(until: datetime, policy: ProducersPolicy) -> datetime:
    """Where the window of health that ends at ``until`` begins."""
    return max(until, EARLIEST) - timedelta(days=policy.health_window_days)


def _health(counts: HeartbeatCounts, policy: ProducersPolicy, now: datetime, as_of: datetime | None) -> HealthView:
    days = policy.health_window_days
    gone = _health_window(as_of or now, policy) < now - timedelta(days=HEARTBEATS_KEPT_DAYS)
    if gone or (as_of is not None and counts.uncounted):
        nothing = dict.fromkeys(HealthView.model_fields)
        why = (
            f"how heartbeats had gone by then is not on record any more: they are kept for {HEARTBEATS_KEPT_DAYS} days"
        )
        return HealthView.model_validate(nothing | {"state": "unknown", "window_days": days, "reason": why})
    found = assess(counts.recent_successes, counts.recent_failures, counts.last_success_at, as_of or now, policy)
    ever = (counts.successes or 0) + (counts.failures or 0)
    return HealthView(
        **asdict(found),
        window_days=days,
        successes=counts.successes,
        failures=counts.failures,
        lifetime_error_rate=(counts.failures or 0) / ever if ever else None,
        last_success_at=counts.last_success_at,
        last_failure_at=counts.last_failure_at,
        last_error=counts.last_error,
    )
