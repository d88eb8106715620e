"""The health of the whole service: seeds 001 (§10) and 003 (§5), with each figure's meaning settled."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.intervals import wilson_interval
from closeloop.models.door import LATENCY_BOUNDS_MS, READS
from closeloop.models.health import (
    ClientHealth,
    DatabaseHealth,
    DeliveryHealth,
    EffectivenessHealth,
    FlowHealth,
    Interval,
    LearningHealth,
)
from closeloop.models.inbox import Kind
from closeloop.store.health import Hits

FLOWS: Mapping[str, Sequence[Kind]] = {
    "discovery_data_flow": (Kind.discovery_data,),
    "thesis_data_flow": (Kind.thesis_decision,),
    "trade_data_flow": (Kind.trade_outcome, Kind.positions),
}
FEWEST_CLOSES = 20
Counts = Mapping[str, Mapping[str, float]]


async def learning_health(
    session: AsyncSession,
    now: datetime,
    clients: Sequence[ClientHealth] = (),
    connections_in_use: int | None = None,
) -> LearningHealth:
    """Health as of now, over all processes. ``clients`` and ``connections_in_use``: what the asked process knows."""
    began = time.perf_counter()
    size, oldest_row = await store.health.database(session)
    ping_ms = (time.perf_counter() - began) * 1e3
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = await store.inbox.counts(session, midnight)
    hour = await store.inbox.counts(session, now - timedelta(hours=1))
    day = await store.door.sums(session, now - timedelta(hours=24))
    reads_today = (await store.door.sums(session, midnight)).get(READS, {})
    oldest = await store.positions.oldest_unattributed(session)
    forecasts = await store.health.forecasts_right(session, now - timedelta(days=30))
    return LearningHealth(
        as_of=now,
        **{name: _flow(kinds, today, day) for name, kinds in FLOWS.items()},
        intelligence_delivery=_delivery(reads_today),
        learning_effectiveness=await _effectiveness(session, now),
        data_collection_rate=sum(hour.values()) / 60,
        pattern_analysis_latency=None,
        prediction_accuracy=_share(forecasts),
        circuit_breaker_status=list(clients),
        database_health=DatabaseHealth(
            ping_ms=ping_ms,
            connections_in_use=connections_in_use,
            size_bytes=size,
            oldest_inbox_row=oldest_row,
            oldest_unattributed_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
        ),
    )


def _flow(kinds: Sequence[Kind], today: Mapping[str, int], day: Counts) -> FlowHealth:
    counts: dict[str, float] = {}
    for kind in kinds:
        for name, number in day.get(kind, {}).items():
            counts[name] = counts.get(name, 0) + number
    good = counts.get("accepted", 0) + counts.get("duplicate", 0)
    whole = good + counts.get("conflict", 0) + counts.get("refused", 0)
    return FlowHealth(
        collections_today=sum(today.get(kind, 0) for kind in kinds),
        avg_latency_ms=_mean_ms(counts),
        p50_latency_ms=_quantile_ms(counts, 0.5),
        p99_latency_ms=_quantile_ms(counts, 0.99),
        success_rate_24h=good / whole if whole else None,
    )


def _classes(counts: Mapping[str, float]) -> list[tuple[float | None, float]]:
    classes: list[tuple[float | None, float]] = [(bound, counts.get(f"le{bound}", 0)) for bound in LATENCY_BOUNDS_MS]
    return [*classes, (None, counts.get("lemore", 0))]


def _mean_ms(counts: Mapping[str, float]) -> float | None:
    n = sum(number for _, number in _classes(counts))
    return counts.get("ms", 0.0) / n if n else None


def _quantile_ms(counts: Mapping[str, float], share: float) -> float | None:
    """The upper bound of the class that holds the quantile; null where there is none, or where it is the last class."""
    classes = _classes(counts)
    n, seen = sum(number for _, number in classes), 0.0
    for bound, number in classes:
        seen += number
        if n and seen >= share * n:
            return bound
    return None


def _delivery(counts: Mapping[str, float]) -> DeliveryHealth:
    n = sum(number for _, number in _classes(counts))
    return DeliveryHealth(
        requests_today=int(n),
        avg_response_time_ms=_mean_ms(counts),
        cache_hit_rate=min(1.0, counts.get("memory", 0) / n) if n else None,
    )


async def _effectiveness(session: AsyncSession, now: datetime) -> EffectivenessHealth:
    lessons, versions = await store.health.changes(session, now - timedelta(days=7))
    month, before = now - timedelta(days=30), now - timedelta(days=60)
    late = await store.health.hits(session, month, now)
    early = await store.health.hits(session, before, month)
    gain = low = high = None
    if min(late.n, early.n) >= FEWEST_CLOSES:
        gain = late.right / late.n - early.right / early.n
        low, high = _difference(late, early, gain)
    return EffectivenessHealth(
        patterns_discovered_this_week=lessons,
        parameter_adjustments_this_week=versions,
        accuracy_improvement_this_month=gain,
        accuracy_improvement_low=low,
        accuracy_improvement_high=high,
    )


def _difference(late: Hits, early: Hits, gain: float) -> tuple[float, float]:
    """Newcombe's interval of a difference of proportions (1998, method 10), from the two Wilson intervals."""
    (a_low, a_high), (b_low, b_high) = wilson_interval(*late) or (0, 1), wilson_interval(*early) or (0, 1)
    a, b = late.right / late.n, early.right / early.n
    below = ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    above = ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5
    return gain - below, gain + above


def _share(found: Hits) -> Interval:
    bounds = wilson_interval(found.right, found.n)
    return Interval(
        value=found.right / found.n if found.n else None,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n=found.n,
    )
