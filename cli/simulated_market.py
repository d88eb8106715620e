"""A simulated market for the demo: where its drivers turn is planted, so that it can be found.

It lies in a time before there was a Bitcoin: no candle of a real market can be of it.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from closeloop.models.market import DOMINANCES, Driver, MarketState
from closeloop.models.market_tokens import TokenSpan
from closeloop.models.positions import ClosedPosition

BOOK = "demo-market"
FIRST = datetime(2008, 1, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURS = 48 * 24
UNTIL = FIRST + HOURS * HOUR
TOKENS = ("SIM-1/USDT", "SIM-2/USDT", "SIM-3/USDT", "SIM-4/USDT")
BUCKET = Driver.nano
FLIP_ATR = 0.5
"""The policy's flip_atr in the demo: fewer changes between S1 and S2."""
TRADED = "1h"
ENTRIES = 40
_SIGMA = 0.006  # of an hour's log return
_DRIFT = 0.3 * _SIGMA


@dataclass(frozen=True)
class Switch:
    """From an hour on, everything tends up or down. ``state``: what a driver comes to where that is found."""

    hour: int
    up: bool

    @property
    def at(self) -> datetime:
        """When."""
        return FIRST + self.hour * HOUR

    @property
    def state(self) -> MarketState:
        """The state that says so."""
        return MarketState.s3 if self.up else MarketState.s0


SWITCHES = (Switch(0, False), Switch(340, True), Switch(660, False), Switch(880, True))


def rising(at: datetime) -> bool:
    """Whether the market was planted to tend up."""
    return [switch for switch in SWITCHES if switch.at <= at][-1].up


def _course(rng: random.Random, common: list[float], own: float) -> list[float]:
    """Log prices by the hour: what all have in common, and noise of its own."""
    level, course = 0.0, []
    for step in common:
        level += step + rng.gauss(0, own * _SIGMA)
        course.append(level)
    return course


def _common(rng: random.Random) -> list[float]:
    return [(_DRIFT if rising(FIRST + hour * HOUR) else -_DRIFT) + rng.gauss(0, 0.7 * _SIGMA) for hour in range(HOURS)]


def candles(majors: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of price_history of these assets and of the tokens: the last minute of every hour."""
    rng = random.Random(41)  # noqa: S311 (a simulation, not a secret)
    common = _common(rng)
    for asset in (*majors, *TOKENS):
        before = price = 100.0
        for hour, level in enumerate(_course(rng, common, 0.7)):
            price = 100.0 * math.exp(level)
            wick = 1 + abs(rng.gauss(0, 0.2 * _SIGMA))
            yield {
                "asset": asset,
                "interval_seconds": 60,
                "ends_at": FIRST + (hour + 1) * HOUR,
                "open": _price(before),
                "high": _price(max(before, price) * wick),
                "low": _price(min(before, price) / wick),
                "close": _price(price),
                "volume": _price(1_000 * math.exp(rng.gauss(0, 0.5))),
                "source": "simulated",
            }
            before = price


def dominances() -> dict[Driver, list[tuple[int, float]]]:
    """Shares in percent, by the hour: when (seconds since 1970, the start of a minute) and how much. They fall where
    the market rises."""
    rng = random.Random(43)  # noqa: S311 (a simulation, not a secret)
    common = [-0.3 * step for step in _common(random.Random(41))]  # noqa: S311
    return {
        driver: [
            (int((FIRST + (hour + 1) * HOUR).timestamp()) - 60, start * math.exp(level))
            for hour, level in enumerate(_course(rng, common, 0.2))
        ]
        for driver, start in zip(DOMINANCES, (55.0, 6.0), strict=True)
    }


def tokens() -> list[TokenSpan]:
    """The tokens, in their bucket from the first hour on, and no longer than the simulation."""
    return [TokenSpan(asset=asset, bucket=BUCKET, valid_from=FIRST, valid_to=UNTIL) for asset in TOKENS]


def entries() -> list[datetime]:
    """When positions are opened: from the first state that is used on."""
    rng = random.Random(47)  # noqa: S311 (a simulation, not a secret)
    return [FIRST + hour * HOUR for hour in sorted(rng.sample(range(340, HOURS - 24), ENTRIES))]


def close(number: int, opened_at: datetime, levers_id: str) -> ClosedPosition:
    """The close of an entry: long, for six hours, with a result by chance. It names its levers and says nothing of the
    market itself."""
    rng = random.Random(number)  # noqa: S311 (a simulation, not a secret)
    rr = rng.gauss(0.1, 1)
    return ClosedPosition.model_validate(
        {
            "book": BOOK,
            "position_id": f"{BOOK}-{number:03}",
            "symbol": rng.choice(TOKENS),
            "direction": "long",
            "opened_at": opened_at,
            "closed_at": opened_at + 6 * HOUR,
            "entry_price": "1",
            "exit_price": "1",
            "size": "100",
            "realized_pnl": str(round(10 * rr, 4)),
            "risk": "10",
            "entry_context": {"levers_id": levers_id, "timeframe": TRADED, "bucket": BUCKET.value},
        }
    )


def _price(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")
