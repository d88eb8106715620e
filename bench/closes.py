"""Closes for the benchmarks: two producers, six domains, two actions with their scope, like a real engine's."""

import random
from datetime import UTC, datetime, timedelta

from closeloop.models.positions import ClosedPosition

DOMAINS = ("curator", "onchain", "tradfi", "social", "technical", "events")
DRIVERS = ("btc", "alt", "bucket", "btcd", "usdtd")
HORIZONS = ("macro", "meso", "micro")
STATES = ("S0", "S1", "S2", "S3")
TOKEN = ("curator", "chain", "mcap_bucket", "vol_bucket", "age_bucket", "intent", "market_family")
START = datetime(2026, 1, 1, tzinfo=UTC)


def closes(
    book: str,
    count: int,
    seed: int = 1,
    actions: bool = True,
    start: datetime = START,
    apart: timedelta = timedelta(minutes=3),
) -> list[ClosedPosition]:
    """``count`` closes, the first opened at ``start``; without ``actions`` they have nothing to say of patterns."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        opened = start + i * apart
        won = rng.random() < 0.55
        made.append(
            ClosedPosition.model_validate(
                {
                    "book": book,
                    "position_id": f"b-{i:07}",
                    "symbol": "BTC/USDT",
                    "direction": rng.choice(["long", "short"]),
                    "opened_at": opened,
                    "closed_at": opened + timedelta(hours=3),
                    "entry_price": "100",
                    "exit_price": "101",
                    "size": "1",
                    "realized_pnl": str(round(rng.uniform(1, 9), 4) * (1 if won else -1)),
                    "risk": "5",
                    "conviction": {
                        "conviction_id": f"c-{i:07}",
                        "cycle_id": f"y-{i:07}",
                        "magnitude": 3.0,
                        "domain_scores": {d: round(rng.uniform(-1, 1), 3) for d in DOMAINS},
                    },
                    "entry_context": {"timeframe": "1h"}
                    if not actions
                    else {
                        "timeframe": rng.choice(["5m", "1h", "4h"]),
                        "A_value": round(rng.random(), 2),
                        "E_value": round(rng.random(), 2),
                        "regime_states": {f"{d}_{h}": rng.choice(STATES) for d in DRIVERS for h in HORIZONS},
                        "scope": {name: f"v{rng.randrange(4)}" for name in TOKEN},
                        "actions": [
                            {"pattern_key": "pm.uptrend.S1.buy_flag", "action_category": category, "at": at.isoformat()}
                            for category, at in (("entry", opened), ("exit", opened + timedelta(hours=3)))
                        ],
                    },
                    "signals": [
                        {"signal_id": f"s-{i}-{p}", "producer_id": p, "domain": "technical", "direction": "long"}
                        for p in rng.sample(["a", "b", "c", "d"], 2)
                    ],
                }
            )
        )
    return made
