"""Simulated prices and producers for the demo: how well each knows the future is planted, so that it can be found."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from closeloop.models.forecasts import Forecast, ForecastAction

BOOK = "demo-trend"
FIRST = datetime(2026, 4, 1, tzinfo=UTC)
DAYS = 45
UNTIL = FIRST + timedelta(days=DAYS)
ASSETS = ("SIM-A/USD", "SIM-B/USD")
CANDLE = timedelta(minutes=5)
HORIZON = timedelta(hours=1)
EVERY = timedelta(hours=2)


@dataclass(frozen=True)
class SimulatedProducer:
    """``right``: how often its direction comes true. ``says``: the confidence that it states, on average."""

    name: str
    right: float
    says: float


PRODUCERS = (
    SimulatedProducer("sharp", right=0.66, says=0.66),
    SimulatedProducer("boaster", right=0.58, says=0.85),
    SimulatedProducer("coin", right=0.5, says=0.6),
)


def _closes() -> dict[str, list[float]]:
    rng = random.Random(7)  # noqa: S311 (a simulation, not a secret)
    paths = {}
    for asset in ASSETS:
        price, path = 100.0, []
        for _ in range(int((UNTIL - FIRST) / CANDLE)):
            price *= 1 + rng.gauss(0, 0.002)
            path.append(round(price, 4))
        paths[asset] = path
    return paths


def candles() -> Iterator[dict[str, Any]]:
    """Rows of price_history: random walks in steps of five minutes."""
    for asset, path in _closes().items():
        for number, close in enumerate(path):
            price = Decimal(str(close))
            yield {
                "asset": asset,
                "interval_seconds": int(CANDLE.total_seconds()),
                "ends_at": FIRST + CANDLE * (number + 1),
                "open": price,
                "high": price,
                "low": price,
                "close": price,
                "volume": None,
                "source": "simulated",
            }


def forecasts() -> Iterator[Forecast]:
    """What the producers say, the earliest first; they are allowed to look ahead, as often as is planted."""
    rng = random.Random(8)  # noqa: S311 (a simulation, not a secret)
    steps, every = int(HORIZON / CANDLE), int(EVERY / CANDLE)
    paths = _closes()
    for at in range(every, int((UNTIL - FIRST) / CANDLE) - steps, every):
        for asset, path in paths.items():
            # The candle with number n ends at (n + 1) steps: the last one that had ended at step `at` is at - 1.
            rises = path[at + steps - 1] > path[at - 1]
            for producer in PRODUCERS:
                true = rng.random() < producer.right
                yield Forecast(
                    forecast_id=f"demo-{producer.name}-{asset}-{at}",
                    book=BOOK,
                    producer_id=producer.name,
                    asset=asset,
                    horizon="1h",
                    action=ForecastAction.long if rises == true else ForecastAction.short,
                    confidence=round(min(0.99, max(0.01, rng.gauss(producer.says, 0.05))), 3),
                    issued_at=FIRST + CANDLE * at,
                )


def resolutions() -> Iterator[datetime]:
    """Instants to resolve as of: some along the way, shortly after the producers spoke, and the end."""
    for number in range(8, 0, -1):
        yield UNTIL - timedelta(days=2 * number) + timedelta(minutes=10)
    yield UNTIL
