"""A simulated trading engine for the demo. Nothing here is a market: the truth is planted, so that it can be found."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from closeloop.models.positions import ClosedPosition

FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 120
DOMAINS = ("curator", "onchain", "tradfi", "social", "technical", "events")


@dataclass(frozen=True)
class SimulatedBook:
    """A strategy with its planted truth.

    ``domains``: how strongly a domain's score leans to what will come true, 0 (noise) to 1. ``producers``: the share of
    winners among the trades that a producer signals, where half of all trades win.
    """

    name: str
    positions: int
    seed: int
    symbols: tuple[str, ...]
    domains: dict[str, float]
    producers: dict[str, float]


BOOKS = (
    SimulatedBook(
        name="demo-trend",
        positions=240,
        seed=11,
        symbols=("BTC/USDT", "ETH/USDT", "SOL/USDT"),
        domains={"onchain": 0.45, "technical": 0.35},
        producers={"breakout": 0.68, "flow": 0.56, "chatter": 0.42},
    ),
    SimulatedBook(
        name="demo-carry",
        positions=160,
        seed=23,
        symbols=("ADA/USDT", "XMR/USDT"),
        domains={"tradfi": 0.5},
        producers={"funding": 0.64, "basis": 0.5, "rumour": 0.38},
    ),
)


@dataclass(frozen=True)
class PlantedEdge:
    """Circumstances in which trades earn ``lift`` R more; with a half-life, that much of it only on the first day."""

    scope: dict[str, str]
    lift: float
    half_life_hours: float | None = None

    def at(self, hours: float) -> float:
        """What is left of it (R) after that many hours."""
        return self.lift if self.half_life_hours is None else self.lift * 2 ** (-hours / self.half_life_hours)


PATTERN_BOOK = "demo-patterns"
PATTERN = "pm.uptrend.S1.buy_flag"
PATTERN_TRADES = 1_500
PATTERN_DAYS = 60
LASTING = PlantedEdge({"chain": "solana", "mcap_bucket": "nano"}, lift=0.8)
FADING = PlantedEdge({"intent": "breakout"}, lift=2.4, half_life_hours=360)
_SCOPES = {
    "chain": ("solana", "base", "ethereum"),
    "mcap_bucket": ("nano", "micro", "small"),
    "age_bucket": ("new", "young", "old"),
    "vol_bucket": ("thin", "normal", "heavy"),
    "intent": ("breakout", "dip", "trend", "reversal"),
}


def pattern_trades() -> Iterator[ClosedPosition]:
    """Two months of entries on one pattern in changing circumstances, with the two planted edges; always the same."""
    rng = random.Random(31)  # noqa: S311 (a simulation, not a secret)
    for number in range(PATTERN_TRADES):
        hours = 24 * PATTERN_DAYS * number / PATTERN_TRADES
        opened_at = FIRST_DAY + timedelta(hours=hours)
        closed_at = opened_at + timedelta(hours=rng.uniform(1, 12))
        scope = {dimension: rng.choice(values) for dimension, values in _SCOPES.items()}
        edges = [edge.at(hours) for edge in (LASTING, FADING) if edge.scope.items() <= scope.items()]
        rr = rng.gauss(0, 1) + sum(edges)
        yield ClosedPosition.model_validate(
            {
                "book": PATTERN_BOOK,
                "position_id": f"{PATTERN_BOOK}-{number:04}",
                "symbol": rng.choice(("BONK/USDT", "WIF/USDT", "POPCAT/USDT")),
                "direction": "long",
                "opened_at": opened_at,
                "closed_at": closed_at,
                "entry_price": "1",
                "exit_price": "1",
                "size": "100",
                "realized_pnl": str(round(10 * rr, 4)),
                "risk": "10",
                "entry_context": {
                    "timeframe": rng.choice(("15m", "1h", "4h")),
                    "scope": scope,
                    "actions": [{"pattern_key": PATTERN, "action_category": "entry", "at": opened_at.isoformat()}],
                },
            }
        )


def positions(book: SimulatedBook) -> Iterator[ClosedPosition]:
    """The book's closes over the simulated days, the earliest first; the same ones in every run."""
    rng = random.Random(book.seed)  # noqa: S311 (a simulation, not a secret)
    for number in range(book.positions):
        closed_at = FIRST_DAY + timedelta(days=DAYS * (number + rng.random()) / book.positions)
        held = timedelta(hours=rng.uniform(1, 30))
        side = rng.choice((1, -1))
        won = rng.random() < 0.5
        market = side if won else -side
        risk = round(rng.uniform(20, 60), 2)
        r = rng.expovariate(1 / 1.3) + 0.1 if won else -min(1.0, rng.uniform(0.3, 1.2))
        pnl = round(r * risk, 2)
        entry = round(rng.uniform(10, 100), 4)
        size = round(risk / (entry * 0.02), 6)
        position_id = f"{book.name}-{number:04}"
        # A producer with hit rate h signals winners h : (1 - h) as often as losers.
        signals = [
            {"signal_id": f"{position_id}-{name}", "producer_id": name, "direction": "long" if side > 0 else "short"}
            for name, hit_rate in book.producers.items()
            if rng.random() < (hit_rate if won else 1 - hit_rate)
        ]
        yield ClosedPosition.model_validate(
            {
                "book": book.name,
                "position_id": position_id,
                "symbol": rng.choice(book.symbols),
                "direction": "long" if side > 0 else "short",
                "opened_at": closed_at - held,
                "closed_at": closed_at,
                "entry_price": str(entry),
                "exit_price": str(round(entry + side * pnl / size, 6)),
                "size": str(size),
                "realized_pnl": str(pnl),
                "risk": str(risk),
                "max_drawdown_pct": round(rng.uniform(0, 2), 3),
                "max_favorable_pct": round(rng.uniform(0, 2) + max(0.0, 2 * r), 3),
                "regime_at_entry": rng.choice(("BULL", "BEAR", "CHOP")),
                "conviction": {
                    "conviction_id": f"c-{position_id}",
                    "cycle_id": f"y-{position_id}",
                    "magnitude": round(rng.uniform(1, 9), 2),
                    "domain_scores": {d: _score(rng, book.domains.get(d, 0.0), market) for d in DOMAINS},
                },
                "signals": signals,
            }
        )


def _score(rng: random.Random, lean: float, market: int) -> float:
    """A score in [-1, 1], bullish positive, that leans to where the market will go."""
    return round(max(-1.0, min(1.0, lean * market * rng.random() + rng.gauss(0, 0.35))), 3)
