"""What the fault campaign tells closeloop: simulated trades, convictions, forecasts and candles, from a seed."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.closes import message

Message = dict[str, Any]

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
PRODUCERS = ("flow", "news", "onchain", "ta")
DOMAINS = ("curator", "onchain", "tradfi", "social", "technical", "events")
TIMEFRAMES = ("15m", "1h", "4h")
ASSET, CANDLE = "ADA/BTC", timedelta(minutes=5)
GOVERNED_DAYS = 120
"""How long the history is from which the governed book's cycles learn."""


class Told:
    """All that is told in one run; the same seed tells the same."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"told {seed}")
        self._count = 0

    def trade(self, book: str) -> Message:
        """A close with the conviction that it was opened on."""
        chance, i = self.chance, self._count
        self._count += 1
        opened = BEGIN + timedelta(minutes=5 * i + chance.randrange(5))
        closed = opened + timedelta(minutes=chance.randrange(1, 3000))
        won = chance.random() < 0.5
        scores = {domain: round(chance.uniform(-1, 1), 3) for domain in DOMAINS}
        name = f"p-{i:07}"
        conviction: Message = {"conviction_id": f"c-{name}", "cycle_id": f"cycle-{name}", "magnitude": 5.0}
        return message(
            book,
            name,
            symbol=chance.choice(("BTC/USDT", "ETH/USDT", "SOL/USDT")),
            direction=chance.choice(("long", "short")),
            opened_at=opened.isoformat(),
            closed_at=closed.isoformat(),
            realized_pnl=str(Decimal(chance.randint(1, 90_000)) / (10_000 if won else -10_000)),
            risk=None if chance.random() < 0.2 else str(chance.randint(1, 20)),
            max_drawdown_pct=round(chance.uniform(0, 3), 2),
            conviction=conviction | {"domain_scores": scores},
            signals=[
                {"signal_id": f"s-{i}-{producer}", "producer_id": producer}
                for producer in chance.sample(PRODUCERS, chance.randint(1, 3))
            ],
            entry_context={
                "timeframe": chance.choice(TIMEFRAMES),
                "scope": {"chain": chance.choice(("solana", "base"))},
                "actions": [
                    {"pattern_key": "k", "action_category": category, "at": opened.isoformat()}
                    for category in ("entry", "exit")[: chance.randint(1, 2)]
                ],
            },
        )

    def conviction(self, row: Message) -> Message:
        """A close's conviction told apart: most say when it was formed, by the entry or, of one in five, after it."""
        formed = when(row["opened_at"]) + timedelta(minutes=self.chance.choice((-60, -1, 0, 0, 1)))
        told: Message = row["conviction"] | {"book": row["book"], "symbol": row["symbol"]}
        return told if self.chance.random() < 0.2 else told | {"formed_at": formed.isoformat()}

    def history(self, book: str, count: int) -> list[Message]:
        """Trades over ``GOVERNED_DAYS``, in which the score of ``onchain`` told something; the first is the oldest."""
        made = []
        for i in range(count):
            row = self.trade(book)
            closed = BEGIN + timedelta(days=GOVERNED_DAYS * i / count)
            row |= {"opened_at": (closed - timedelta(hours=1)).isoformat(), "closed_at": closed.isoformat()}
            row["direction"], side = ("long", 1) if self.chance.random() < 0.5 else ("short", -1)
            won = Decimal(row["realized_pnl"]) > 0
            row["conviction"]["domain_scores"]["onchain"] = round(
                side * (1 if won else -1) * self.chance.uniform(-0.2, 1), 3
            )
            made.append(row)
        return made

    def candles(self, days: int) -> list[tuple[datetime, float]]:
        """When each candle begins, and its close: a walk that no two steps of are alike."""
        made, price = [], 100.0
        for i in range(int(timedelta(days=days) / CANDLE)):
            price = round(price * (1 + self.chance.gauss(0, 0.002)), 8)
            made.append((BEGIN + i * CANDLE, price))
        return made

    def forecasts(self, count: int, days: int) -> list[Message]:
        """Forecasts of the asset, all due within the candles."""
        made = []
        for _ in range(count):
            self._count += 1
            issued = BEGIN + timedelta(minutes=self.chance.randrange(60, (days - 2) * 24 * 60))
            made.append(
                {
                    "forecast_id": f"f-{self._count:07}",
                    "book": "forecasts",
                    "producer_id": self.chance.choice(PRODUCERS),
                    "asset": ASSET,
                    "horizon": self.chance.choice(("15m", "1h", "4h", "1d")),
                    "action": self.chance.choice(("long", "short", "flat")),
                    "confidence": round(self.chance.uniform(0.3, 0.95), 2),
                    "issued_at": issued.isoformat(),
                }
            )
        return made


def when(text: str) -> datetime:
    """The instant that a message states."""
    return datetime.fromisoformat(text)


def only_named(row: Message) -> Message:
    """The close as a message that names its conviction, which is told apart."""
    return row | {"conviction": {"conviction_id": row["conviction"]["conviction_id"]}}


def csv(candles: list[tuple[datetime, float]]) -> str:
    """As an exchange writes them."""
    rows = [f"{at.isoformat()},{close},{close},{close},{close},1" for at, close in candles]
    return "\n".join(["date,open,high,low,close,volume", *rows]) + "\n"
