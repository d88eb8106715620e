"""What becomes of the market after decisions: expected values, twice, at once, in pieces; nothing early."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from closeloop.learning.decision_outcomes import accuracy
from closeloop.models.decisions import DecisionMessage, DecisionType
from closeloop.services import decisions
from tests.activities.attributing import attributed
from tests.activities.deciding import BOOK, DAY, GRACE, HALF_HOUR, HOUR, MINUTE, T0, Record, decision, record_on, rising
from tests.closes import closed

EXPECTED = json.loads((Path(__file__).parent / "expected" / "returns.json").read_text())
VALUES = (
    "return_1d",
    "return_7d",
    "return_30d",
    "max_favorable_excursion",
    "max_adverse_excursion",
    "volatility_realized",
    "price_at_evaluation",
    "coverage",
)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.fixture
async def record(dsn: str) -> AsyncIterator[Record]:
    async with record_on(dsn) as record:
        yield record


def expected_candles() -> list[tuple[datetime, float, float, float]]:
    return [(at(start) + HALF_HOUR, high, low, close) for start, _, high, low, close in candles_of_expected()]


def candles_of_expected() -> list[tuple[float, float, float, float, float]]:
    return [(start, open_, high, low, close) for start, open_, high, low, close in EXPECTED["candles"]]


@pytest.mark.parametrize("as_of", sorted({case["as_of"] for case in EXPECTED["cases"]}))
async def test_expected_values(record: Record, as_of: float) -> None:
    cases = {f"d-{n}": case for n, case in enumerate(EXPECTED["cases"]) if case["as_of"] == as_of}
    await record.trade(expected_candles())
    for name, case in cases.items():
        await record.decide(
            {
                "decision_id": name,
                "position_id": name if case["exit_at"] else None,
                "timestamp": at(case["decided_at"]),
                "thesis": {"recommendation": case["decision_type"], "confidence": 0.6},
            }
        )
        if case["exit_at"]:
            opened, shut = at(case["decided_at"]).isoformat(), at(case["exit_at"]).isoformat()
            await attributed(record.sessions, closed(BOOK, name, symbol="X", opened_at=opened, closed_at=shut))
    for page_size in (2_000, 1):
        await record.fill(at(as_of), page_size)
        for name, case in cases.items():
            view = await record.view(name)
            for value in VALUES:
                found, expected = getattr(view, value), case["expected"][value]
                if expected is None:
                    assert found is None, (case["name"], value, found)
                else:
                    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9), (case["name"], value)
            evaluated = case["expected"]["evaluation_date"]
            assert view.evaluation_date == (None if evaluated is None else at(evaluated))
            assert view.position_closed is bool(case["exit_at"])


@pytest.mark.parametrize("case", EXPECTED["correct"])
def test_right_or_wrong(case: dict[str, Any]) -> None:
    kind = DecisionType(case["decision_type"])
    assert accuracy(kind, kind.side, case["return_pct"], case["band"]) == case["expected"]


async def test_nothing_of_later_is_known_earlier(record: Record) -> None:
    """Filled in hour by hour while candles arrive, it is what one fill at the end gives."""
    whole = rising(8)
    changes = [{"decision_id": f"d-{n}", "timestamp": T0 + n * 7 * HOUR} for n in range(12)]
    await record.decide(*changes)
    given = 0
    for day in range(1, 9):
        as_of = T0 + day * DAY
        until = sum(row[0] <= as_of for row in whole)
        await record.trade(whole[given:until])
        given = until
        await record.fill(as_of)
    by_the_day = await record.outcomes()
    async with record_on(record.dsn) as other:
        await other.decide(*changes)
        await other.trade(whole)
        await other.fill(T0 + 8 * DAY)
        assert await other.outcomes() == by_the_day
    assert any(row["return_7d"] is not None for row in by_the_day)


async def test_candles_after_the_instant_change_nothing(record: Record) -> None:
    await record.decide({})
    await record.trade(rising(1))
    await record.trade([(T0 + DAY + n * HALF_HOUR, 1e6, 0.1, 500.0) for n in range(1, 200)])
    await record.fill(T0 + DAY + GRACE)
    view = await record.view()
    assert view.return_1d == pytest.approx(4.8)
    assert view.max_favorable_excursion == pytest.approx(4.85)
    assert view.return_7d is None


async def test_a_second_and_a_concurrent_fill_change_nothing(record: Record) -> None:
    await record.decide(*({"symbol": f"S{n % 5}", "timestamp": T0 + n * MINUTE} for n in range(300)))
    for n in range(5):
        await record.trade(rising(31), asset=f"S{n}")
    as_of = T0 + 31 * DAY
    reports = await asyncio.gather(*(record.fill(as_of, page_size=20) for _ in range(4)))
    first = await record.outcomes()
    assert len(first) == 300
    assert sum(report.filled for report in reports) == 900
    again = await record.fill(as_of)
    assert (again.decisions, again.filled) == (0, 0)
    assert await record.outcomes() == first


async def test_the_days_of_a_return_are_exact(record: Record) -> None:
    await record.decide({})
    await record.trade(rising(1))
    early = await record.fill(T0 + DAY + GRACE - timedelta(seconds=1))
    assert (early.filled, early.pending) == (0, 0)
    assert (await record.fill(T0 + DAY + GRACE)).filled == 1


async def test_a_price_that_comes_late_is_waited_for_a_week_and_then_given_up(record: Record) -> None:
    await record.decide({}, {"symbol": "Y", "decision_id": "d-1"})
    late = await record.fill(T0 + 3 * DAY)
    assert (late.filled, late.pending, late.unresolvable) == (0, 2, 0)
    await record.trade(rising(3))
    assert (await record.fill(T0 + 3 * DAY)).filled == 1
    given_up = await record.fill(T0 + 8 * DAY + GRACE)
    assert given_up.unresolvable == 1
    view = await record.view("d-1")
    assert (view.return_1d, view.unresolvable) == (None, ["return_1d"])
    await record.trade(rising(8), asset="Y")  # too late for the day, in time for the week
    await record.fill(T0 + 8 * DAY + GRACE)
    view = await record.view("d-1")
    assert view.return_1d is None
    assert view.return_7d is not None
    assert (await record.view("d-0")).return_7d is None


async def test_a_close_that_comes_after_the_outcome_is_taken_into_it(record: Record) -> None:
    await record.decide({"position_id": "p-1"})
    await record.trade(rising(40))
    await record.fill(T0 + 40 * DAY)
    before = await record.view()
    assert (before.position_closed, before.return_30d is not None) == (False, True)
    opened, shut = T0.isoformat(), (T0 + 2 * DAY).isoformat()
    await attributed(record.sessions, closed(BOOK, "p-1", symbol="X", opened_at=opened, closed_at=shut))
    report = await record.fill(T0 + 40 * DAY)
    assert report.closed == 1
    after = await record.view()
    assert (after.position_closed, after.exit_reason, after.exit_price) == (True, "roi", 50500)
    assert after.max_favorable_excursion is not None
    assert before.max_favorable_excursion is not None
    assert after.max_favorable_excursion < before.max_favorable_excursion  # the position was closed by then
    assert (after.return_1d, after.return_7d, after.return_30d) == (
        before.return_1d,
        before.return_7d,
        before.return_30d,
    )
    assert (await record.fill(T0 + 41 * DAY)).closed == 0


async def test_sides_and_what_is_scored(record: Record) -> None:
    kinds = list(DecisionType)
    await record.decide(*({"decision_id": kind, "thesis": {"recommendation": kind}} for kind in kinds))
    week_before = [(T0 - 8 * DAY + n * HALF_HOUR, 100.6, 99.4, 100.0 + 0.5 * (n % 3)) for n in range(8 * 48)]
    await record.trade(week_before)
    await record.trade(rising(7))
    await record.fill(T0 + 7 * DAY + GRACE)
    views = {view.decision_id: view for view in await record.views()}
    scores = {kind: views[kind].thesis_accuracy_score for kind in kinds}
    assert scores == {
        DecisionType.BUY: 1.0,
        DecisionType.SELL: 0.0,
        DecisionType.HOLD: 0.0,
        DecisionType.IGNORE: None,
        DecisionType.BUY_MORE: 1.0,
        DecisionType.TRIM: 0.0,
        DecisionType.LIQUIDATE: 0.0,
    }
    buy, sell = views[DecisionType.BUY], views[DecisionType.SELL]
    assert (buy.max_favorable_excursion, buy.max_adverse_excursion) == (
        sell.max_adverse_excursion,
        sell.max_favorable_excursion,
    )
    assert buy.return_7d == sell.return_7d  # the market's, whoever is right


async def test_a_random_market_against_a_plain_computation(record: Record) -> None:
    rng = random.Random(5)
    price, rows = 100.0, []
    for n in range(32 * 48):
        open_ = price
        price *= 1 + rng.gauss(0, 0.004)
        high, low = max(open_, price) * 1.001, min(open_, price) * 0.999
        if rng.random() > 0.01:
            rows.append((T0 + n * HALF_HOUR, round(high, 4), round(low, 4), round(price, 4)))
    await record.trade(rows)
    times = [T0 + timedelta(minutes=rng.randrange(24 * 60)) for _ in range(60)]
    await record.decide(*({"timestamp": time, "decision_id": f"d-{n}"} for n, time in enumerate(times)))
    await record.fill(T0 + 9 * DAY)
    for n, time in enumerate(times):
        view = await record.view(f"d-{n}")

        def price_at(instant: datetime) -> float | None:
            ended = [row for row in rows if instant - HALF_HOUR < row[0] <= instant]
            exactly = [row for row in rows if row[0] == instant - HALF_HOUR]
            found = ended or exactly
            return found[-1][3] if found else None

        first = price_at(time)
        for days, found in ((1, view.return_1d), (7, view.return_7d)):
            then = price_at(time + days * DAY)
            if found is None:
                assert first is None or then is None
            else:
                assert first is not None
                assert then is not None
                assert found == pytest.approx(100 * (then - first) / first, rel=1e-9)
        if view.return_7d is not None and view.coverage is not None and first is not None:
            window = [row for row in rows if row[0] - HALF_HOUR >= time and row[0] <= time + 7 * DAY]
            assert view.coverage == pytest.approx(len(window) * 1800 / (7 * 86_400))
            highest = max(row[1] for row in window)
            assert view.max_favorable_excursion == pytest.approx(max(0.0, 100 * (highest - first) / first))


async def test_what_is_refused_when_decisions_are_added(record: Record) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    given: list[tuple[int, DecisionMessage | str]] = [
        (0, DecisionMessage.model_validate(decision(0))),
        (1, DecisionMessage.model_validate(decision(0))),
        (2, DecisionMessage.model_validate(decision(0) | {"symbol": "Y"})),
        (3, DecisionMessage.model_validate(decision(1) | {"timestamp": ahead})),
        (4, "line 5: it is no JSON"),
        (5, DecisionMessage.model_validate(decision(2) | {"book": "fresh"})),
    ]
    async with record.sessions() as session:
        report = await decisions.add(session, given, datetime.now(UTC))
    assert (report.added, report.already_recorded) == (2, 1)
    assert [one.index for one in report.rejected] == [2, 3, 4]
    async with record.sessions() as session:
        again = await decisions.add(session, given[:1], datetime.now(UTC))
    assert (again.added, again.already_recorded) == (0, 1)
    async with record.sessions() as session:
        other = DecisionMessage.model_validate(decision(0) | {"thesis": {"recommendation": "SELL"}})
        conflict = await decisions.add(session, [(0, other)], datetime.now(UTC))
    assert "differing: thesis" in conflict.rejected[0].reason
