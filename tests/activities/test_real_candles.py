"""Forecasts of simple producers at every candle of five pairs, each against a search without look-ahead."""

import csv
import gzip
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest

from closeloop.models.forecasts import Forecast
from tests.activities.forecasting import DAY, MINUTE, Floor, floor_on, forecast, plain_outcome, price_by_bisection

PAIRS = ("ADA", "ETH", "LTC", "TRX", "XMR")
FIVE = 5 * MINUTE


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        yield floor


def candles(path: Path) -> tuple[list[datetime], list[str]]:
    """When each candle ended, and its close as written."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    return [datetime.fromisoformat(row["date"]) + FIVE for row in rows], [row["close"] for row in rows]


def spoken(asset: str, ends: list[datetime], closes: list[float], rng: random.Random) -> list[Forecast]:
    """At every candle by turns: what rose will rise; will fall; it always rises; a coin. Over an hour or four."""
    names, made = count(), []
    for i in range(12, len(ends)):
        moved = closes[i] / closes[i - 12] - 1
        trend = "long" if moved > 0 else "short" if moved < 0 else "flat"
        against = {"long": "short", "short": "long", "flat": "flat"}[trend]
        coin = rng.choice(["long", "short", "flat"])
        said = [("momentum", trend), ("mean-reversion", against), ("buy-and-hold", "long"), ("coin", coin)]
        producer, action = said[i % 4]
        made.append(
            forecast(
                f"{asset}-{next(names):05}",
                producer_id=producer,
                asset=asset,
                horizon=rng.choice(["1h", "4h"]),
                action=action,
                confidence=round(min(0.95, 0.5 + 20 * abs(moved)), 4),
                issued_at=ends[i] + rng.choice([timedelta(0), timedelta(seconds=rng.randrange(300))]),
                regime="RISING" if moved > 0.005 else "FALLING" if moved < -0.005 else None,
            )
        )
    return made


async def test_every_outcome_is_that_of_an_independent_search(floor: Floor, data: Callable[[str], Path]) -> None:
    folder, rng = data("candles-5m"), random.Random(42)
    wanted, said, last = {}, [], None
    for pair in PAIRS:
        asset = f"{pair}/BTC"
        ends, written = candles(folder / f"{pair}_BTC.csv.gz")
        closes = [float(close) for close in written]
        await floor.trade(asset, dict(zip(ends, map(Decimal, written), strict=True)))
        last = max(last or ends[-1], ends[-1])
        for one in spoken(asset, ends, closes, rng):
            said.append(one)
            issue, target = (price_by_bisection(ends, closes, t) for t in (one.issued_at, one.target_at))
            # Beyond the last candle nothing tells a gap from what is not there yet.
            if issue is not None and target is not None and one.target_at < ends[-1] + FIVE:
                wanted[one.forecast_id] = plain_outcome(one, issue, target)
    for i in range(0, len(said), 5_000):
        await floor.record(*said[i : i + 5_000])
    assert last is not None
    left = await floor.resolve(last + DAY)
    found = await floor.outcomes()
    assert len(said) > 28_000
    assert set(found) == set(wanted)
    assert left == len(said) - len(wanted)
    wrong = [
        name
        for name, outcome in wanted.items()
        if found[name]["direction_correct"] != outcome["direction_correct"]
        or abs(found[name]["return_pct"] - outcome["return_pct"]) > 1e-9
        or abs(found[name]["brier_score"] - outcome["brier_score"]) > 1e-9
    ]
    assert wrong == []

    await floor.perform(last + DAY)
    rows = await floor.sql("SELECT * FROM producer_performance WHERE asset = '' AND horizon = '' AND regime = ''")
    for row in rows:
        own = [o for name, o in wanted.items() if found[name]["producer_id"] == row["producer_id"]]
        assert (row["outcomes"], row["correct"]) == (len(own), sum(o["direction_correct"] for o in own))
        assert row["brier"] == pytest.approx(sum(o["brier_score"] for o in own) / len(own), abs=1e-12)
    assert len(rows) == 4
