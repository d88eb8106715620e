"""The states of the uptrend engine over a file of candles, as a picture, without a database.

    python examples/market_states.py ADA_BTC.csv.gz 5m market-states.svg "ADA/BTC"

The engine takes bars of any length; the candles are given to it as they are.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from closeloop.cli.market_picture import MarketPicture, draw
from closeloop.gateways.candles import Candle, on_disk, read_candles
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.engine import STATES, advance
from closeloop.models.forecasts import seconds_of
from closeloop.models.market import Timeframe
from closeloop.models.policy import MarketPolicy


def main(source: str, interval: str, picture: str, title: str) -> None:
    """Print how long each state lasted, and draw them."""
    seconds = seconds_of(interval)
    with open(source, "rb") as file:
        candles = [each for each in read_candles(on_disk(file), seconds, datetime.now(UTC)) if isinstance(each, Candle)]
    bars = Bars.of(
        (int(each.start.timestamp()), *map(float, (each.open, each.high, each.low, each.close, each.volume or 0)))
        for each in sorted(candles, key=lambda each: each.start)
    )
    rows, _ = advance(None, bars, Timeframe.m1, MarketPolicy())
    begun = rows.state[rows.state >= 0]
    for number, state in enumerate(STATES):
        print(f"{state:<10} {np.mean(begun == number):.4f}")
    print(f"{'bars':<10} {len(rows)}")
    print(f"{'changes':<10} {np.count_nonzero(begun[1:] != begun[:-1])}")
    used_from = int(rows.start[int(np.argmax(rows.published))])
    draw(
        Path(picture),
        MarketPicture(f"{title}, {interval} candles", seconds, rows.start, bars.close, rows.state, used_from),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
