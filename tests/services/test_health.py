"""The health of the service against figures computed by hand, on an empty database too."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import norm

from closeloop import store
from closeloop.models.health import ClientHealth
from closeloop.models.inbox import Kind
from closeloop.services.health import learning_health
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.closes import closed
from tests.store.databases import scratch_database, sessions_on

NOW = datetime(2026, 5, 20, 12, 30, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield sessions


async def count(own: Sessions, at: datetime, kind: str, process: str = "p", **counts: float) -> None:
    async with own.begin() as session:
        await store.door.count(session, [{"minute": at, "kind": kind, "process": process, "counts": counts}])


async def receive(own: Sessions, at: datetime, kind: Kind, number: int) -> None:
    rows = [
        {
            "book_id": "b",
            "kind": kind,
            "message_id": f"{at.isoformat()}-{n}",
            "received_at": at,
            "message": None,
            "token_id": None,
            "request_id": "r",
        }
        for n in range(number)
    ]
    async with own.begin() as session:
        await store.inbox.add(session, rows)


async def test_of_nothing_nothing_is_told(own: Sessions) -> None:
    async with own() as session:
        found = await learning_health(session, NOW)
    for flow in (found.discovery_data_flow, found.thesis_data_flow, found.trade_data_flow):
        assert flow.collections_today == 0
        assert (flow.avg_latency_ms, flow.p99_latency_ms, flow.success_rate_24h) == (None, None, None)
    assert (found.intelligence_delivery.requests_today, found.intelligence_delivery.cache_hit_rate) == (0, None)
    assert found.learning_effectiveness.accuracy_improvement_this_month is None
    assert (found.prediction_accuracy.value, found.prediction_accuracy.n) == (None, 0)
    assert found.pattern_analysis_latency is None
    assert found.circuit_breaker_status == []
    assert found.data_collection_rate == 0
    assert found.database_health.oldest_inbox_row is None
    assert found.database_health.oldest_unattributed_seconds is None
    assert found.database_health.size_bytes > 1_000_000


async def test_flows_over_all_processes(own: Sessions) -> None:
    await receive(own, NOW - 10 * MINUTE, Kind.thesis_decision, 6)
    await receive(own, NOW - 5 * MINUTE, Kind.positions, 3)
    await receive(own, NOW - DAY, Kind.positions, 9)
    recent, older, yesterday = NOW - 3 * MINUTE, NOW - timedelta(hours=20), NOW - timedelta(hours=25)
    await count(own, recent, "thesis-decision", accepted=6, duplicate=2, refused=1, ms=40, le5=7, le10=1)
    await count(own, recent, "thesis-decision", "q", accepted=2, conflict=1, ms=960, le1000=2)
    await count(own, recent, "thesis-decision", accepted=1, ms=5, le5=1)  # the same minute, flushed again
    await count(own, older, "positions", accepted=3, ms=9, le5=3)
    await count(own, yesterday, "positions", refused=100)
    async with own() as session:
        found = await learning_health(session, NOW)
    thesis, trade = found.thesis_data_flow, found.trade_data_flow
    assert (thesis.collections_today, trade.collections_today) == (6, 3)
    assert thesis.success_rate_24h == pytest.approx((6 + 2 + 2 + 1) / 13)
    assert thesis.avg_latency_ms == pytest.approx((40 + 960 + 5) / 11)
    assert (thesis.p50_latency_ms, thesis.p99_latency_ms) == (5, 1000)
    assert (trade.success_rate_24h, trade.avg_latency_ms) == (1.0, 3.0)
    assert found.data_collection_rate == pytest.approx(9 / 60)
    assert found.database_health.oldest_inbox_row == NOW - DAY


async def test_reads_and_clients(own: Sessions) -> None:
    await count(own, NOW - MINUTE, "reads", ms=30, le5=8, le10=2, memory=7)
    await count(own, NOW - DAY, "reads", ms=30, le5=8, memory=8)
    told = ClientHealth(name="engine", state="open", opens=2, spooled=5, refused=0, seen_at=NOW)
    async with own() as session:
        found = await learning_health(session, NOW, [told], 3)
    delivery = found.intelligence_delivery
    assert (delivery.requests_today, delivery.avg_response_time_ms, delivery.cache_hit_rate) == (10, 3.0, 0.7)
    assert found.circuit_breaker_status == [told]
    assert found.database_health.connections_in_use == 3


@pytest.mark.parametrize(("late", "early"), [(40, 40), (19, 40), (40, 19)])
async def test_the_hit_rate_of_a_month_against_the_one_before(own: Sessions, late: int, early: int) -> None:
    for number, days, won in ((late, 10, 0.75), (early, 40, 0.5)):
        for n in range(number):
            at = NOW - days * DAY + n * MINUTE
            pnl = "5" if n < won * number else "-5"
            opened, shut = (at - MINUTE).isoformat(), at.isoformat()
            await attributed(own, closed("b", f"{days}-{n}", opened_at=opened, closed_at=shut, realized_pnl=pnl))
    async with own() as session:
        found = (await learning_health(session, NOW)).learning_effectiveness
    if min(late, early) < 20:
        assert found.accuracy_improvement_this_month is None
        return
    gain, low, high = (
        found.accuracy_improvement_this_month,
        found.accuracy_improvement_low,
        found.accuracy_improvement_high,
    )
    assert gain == pytest.approx(0.25)
    assert low is not None
    assert high is not None
    # Newcombe's interval, with the bounds of each share as the roots of its score equation.
    (a_low, a_high), (b_low, b_high) = score_bounds(30, 40), score_bounds(20, 40)
    below, above = np.hypot(0.75 - a_low, b_high - 0.5), np.hypot(a_high - 0.75, 0.5 - b_low)
    assert (low, high) == (pytest.approx(0.25 - below, abs=1e-6), pytest.approx(0.25 + above, abs=1e-6))


def score_bounds(right: int, n: int) -> tuple[float, float]:
    """The shares that a two-sided score test at 5 % does not refuse: (p - x)^2 = z^2 x (1 - x) / n."""
    p, zz = right / n, norm.ppf(0.975) ** 2 / n
    low, high = sorted(np.roots([1 + zz, -(2 * p + zz), p**2]))
    return float(low), float(high)
