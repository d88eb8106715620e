"""Closed positions for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from closeloop.models.positions import ClosedPosition

START = datetime(2026, 1, 1, tzinfo=UTC)


def message(book: str, position_id: str = "p-1", **changes: Any) -> dict[str, Any]:
    """The message of the README as plain JSON, with changes."""
    values: dict[str, Any] = {
        "book": book,
        "position_id": position_id,
        "symbol": "BTC/USDT",
        "direction": "long",
        "opened_at": "2026-01-01T00:00:00Z",
        "closed_at": "2026-01-01T06:00:00Z",
        "entry_price": "50000",
        "exit_price": "50500",
        "size": "0.02",
        "realized_pnl": "10.0",
        "currency": "USDT",
        "risk": "5.0",
        "max_drawdown_pct": 0.4,
        "max_favorable_pct": 1.3,
        "regime_at_entry": "BULL",
        "exit_reason": "roi",
        "conviction": {
            "conviction_id": f"c-{position_id}",
            "cycle_id": f"cycle-{position_id}",
            "magnitude": 5.0,
            "domain_scores": {"onchain": 0.8, "social": 0.1},
        },
        "signals": [
            {
                "signal_id": "s-1",
                "producer_id": "ta",
                "domain": "technical",
                "direction": "long",
                "confidence": 0.75,
                "contribution_weight": 1.0,
            }
        ],
        "entry_context": {"timeframe": "1h", "scope": {"chain": "solana"}},
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def closed(book: str, position_id: str = "p-1", **changes: Any) -> ClosedPosition:
    """The same as a model."""
    return ClosedPosition.model_validate(message(book, position_id, **changes))


def series(book: str, count: int, producers: tuple[str, ...] = ("ta", "flow")) -> list[ClosedPosition]:
    """Closes an hour apart; two of three win; the producers take turns, both on every fifth."""
    made = []
    for i in range(count):
        opened = START + timedelta(hours=i)
        names = producers if i % 5 == 0 else (producers[i % len(producers)],)
        made.append(
            closed(
                book,
                f"p-{i:06}",
                opened_at=opened.isoformat(),
                closed_at=(opened + timedelta(hours=2)).isoformat(),
                entry_price=str(50_000 + i),  # each is a trade of its own
                realized_pnl="-4" if i % 3 == 0 else "6",
                signals=[{"signal_id": f"s-{i}-{name}", "producer_id": name} for name in names],
            )
        )
    return made
