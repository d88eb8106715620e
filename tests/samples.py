"""Small files in the shape of the real data, made by formulas: what a clone without that data is tested with."""

import csv
import gzip
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

PAIRS = ("ADA", "ETH", "LTC", "TRX", "XMR")
FIRST = datetime(2018, 1, 10, 4, 55, tzinfo=UTC)
CANDLES = 5_750
GAP_EVERY = 997  # an exchange that stood still left no candle
GAMES = 8_886
GOLDEN = (math.sqrt(5) - 1) / 2
TRADES = 60


def candles(path: Path) -> None:
    """Candles of five minutes of each pair, with gaps; the price swings over an hour, half a day and a week."""
    path.mkdir(parents=True)
    for number, pair in enumerate(PAIRS, start=1):

        def price(i: int, k: int = number) -> float:
            swing = 0.03 * math.sin(i / 300 / k) + 0.01 * math.sin(i / 23 + k) + 0.004 * math.sin(i * i / 7 + k)
            return round(0.001 * k * math.exp(swing), 8)

        with gzip.open(path / f"{pair}_BTC.csv.gz", "wt", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("date", "open", "high", "low", "close", "volume"))
            for i in range(CANDLES):
                if i % GAP_EVERY == number:
                    continue
                first, last = price(i), price(i + 1)
                high, low = round(max(first, last) * 1.001, 8), round(min(first, last) * 0.999, 8)
                at = FIRST + timedelta(minutes=5 * i)
                rows.writerow((f"{at:%Y-%m-%dT%H:%M:%SZ}", first, high, low, last, round(1000 + 10 * (i % 91), 2)))


def games(path: Path) -> None:
    """Forecasts of games, ten a day, newest first; the team named first wins 5.5 points less often than was said."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("season", "date", "team1", "team2", "prob1", "prob1_outcome", "prob2", "prob2_outcome"))
        for i in reversed(range(GAMES)):
            p = 0.5 + 0.35 * math.sin(i * GOLDEN * 11)
            won = int((i * GOLDEN * GOLDEN * 7) % 1 < p - 0.055)
            day = date(2018, 10, 16) + timedelta(days=i // 10)
            rows.writerow((day.year, day, f"A{i % 30}", f"B{i % 29}", p, won, 1 - p, 1 - won))


def backtest(path: Path) -> None:
    """An export of freqtrade: longs with a stop 10 % below a stake of 0.001 BTC, every tenth of them stopped."""
    strategy = {"trades": [_trade(i) for i in range(TRADES)], "timeframe": "5m"}
    path.write_text(json.dumps({"strategy": {"StrategyTestV3": strategy}}))


def _trade(i: int) -> dict[str, Any]:
    stopped, stake, rate = i % 10 == 9, 0.001, round(1e-4 * (1 + i % 7) + 1e-7 * i, 8)
    opened = datetime(2018, 1, 10, 7, 15, tzinfo=UTC) + timedelta(hours=3 * i)
    minutes = 5 * (1 + i % 12)
    amount = stake / rate
    stop = rate * 0.9
    out = stop if stopped else rate * 1.015
    fees = 0.0025
    return {
        "pair": f"{('TRX', 'XLM', 'ADA')[i % 3]}/BTC",
        "stake_amount": stake,
        "amount": amount,
        "open_date": f"{opened:%Y-%m-%d %H:%M:%S}+00:00",
        "close_date": f"{opened + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S}+00:00",
        "open_rate": rate,
        "close_rate": out,
        "trade_duration": minutes,
        "profit_ratio": round((out * (1 - fees)) / (rate * (1 + fees)) - 1, 8),
        "profit_abs": amount * (out * (1 - fees) - rate * (1 + fees)),
        "exit_reason": "stop_loss" if stopped else "roi",
        "initial_stop_loss_abs": stop,
        "stop_loss_abs": stop,
        "min_rate": stop if stopped else rate * 0.998,
        "max_rate": rate if stopped else out,
        "is_open": False,
        "open_timestamp": opened.timestamp() * 1000,
        "close_timestamp": (opened + timedelta(minutes=minutes)).timestamp() * 1000,
        "is_short": False,
        "leverage": 1.0,
        "enter_tag": "buy_tag" if i == 5 else None,
    }


SAMPLES: dict[str, Callable[[Path], None]] = {
    "candles-5m": candles,
    "fivethirtyeight-nba-games.csv": games,
    "freqtrade-backtest-2018.json": backtest,
}
