"""What states have been worth on candles of several pairs: do prices rise after what raises A?

    python examples/market_worth.py 5m 12,48 ADA_BTC.csv.gz ETH_BTC.csv.gz LTC_BTC.csv.gz

For each pair the engine runs over its candles, and each bar has the points that its state and flags add to A (before
weights, of the policy's defaults). They are compared with the log return of the bars that follow: Spearman's rank
correlation, and the mean return after each state and flag less that after all bars (bp). Intervals: 95 %, of 2,000
resamples of whole days, all pairs of a day together, because they move together. ``by chance`` is the range (95 %) of
the correlation where the points are shifted against the returns by a random number of days (1,000 times): what it
comes to where there is nothing to find.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from closeloop.gateways.candles import Candle, on_disk, read_candles
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.engine import STATES, Rows, advance
from closeloop.models.forecasts import seconds_of
from closeloop.models.market import Flag, Timeframe
from closeloop.models.policy import LeversPolicy, MarketPolicy

Array = NDArray[Any]
OfPairs = Sequence[Array]

DAY = 86_400
RESAMPLES = 2_000
SHIFTS = 1_000


def main(interval: str, horizons: str, *files: str) -> None:
    """Print what is found, a line for each question and horizon (in bars)."""
    seconds = seconds_of(interval)
    pairs = [run(file, seconds) for file in files]
    first = min(int(bars.start[0]) for bars, _ in pairs) // DAY
    days = max(int(bars.start[-1]) for bars, _ in pairs) // DAY - first + 1
    rng = np.random.default_rng(3)
    drawn = np.stack([np.bincount(rng.integers(0, days, days), minlength=days) for _ in range(RESAMPLES)])
    print(f"{'':38} {'value':>8} {'95 %':>18} {'by chance':>18} {'bars':>8}")
    for horizon in map(int, horizons.split(",")):
        x, y, day, states = [], [], [], []
        flags: list[dict[Flag, Array]] = []
        for bars, rows in pairs:
            use = np.flatnonzero(rows.published[:-horizon])
            forward = np.log(bars.close[horizon:] / bars.close[:-horizon])
            x.append(points(rows)[use])
            y.append(forward[use])
            day.append(bars.start[use] // DAY - first)
            states.append(rows.state[use])
            flags.append({flag: values[use] for flag, values in rows.flags.items()})
        name = f"rank correlation, {horizon} bars"
        value, low, high = correlation(x, y, day, drawn)
        chance = shifted(x, y, DAY // seconds, rng)
        count = sum(map(len, x))
        print(f"{name:38} {value:8.3f} [{low:8.3f},{high:8.3f}] [{chance[0]:8.3f},{chance[1]:8.3f}] {count:8}")
        groups = {f"{state}": [each == number for each in states] for number, state in enumerate(STATES)}
        groups |= {flag.value: [each[flag] for each in flags] for flag in Flag}
        for group, inside in groups.items():
            if (count := int(sum(each.sum() for each in inside))) >= 100:
                value, low, high = difference(y, inside, day, drawn)
                name = f"after {group}, {horizon} bars (bp)"
                print(f"{name:38} {value:8.1f} [{low:8.1f},{high:8.1f}] {'':19} {count:8}")


def run(file: str, seconds: int) -> tuple[Bars, Rows]:
    """Bars of a file and what the engine says of them; it takes bars of any length as they are."""
    with open(file, "rb") as source:
        read = read_candles(on_disk(source), seconds, datetime.now(UTC))
        candles = sorted((each for each in read if isinstance(each, Candle)), key=lambda each: each.start)
    bars = Bars.of(
        (int(each.start.timestamp()), *map(float, (each.open, each.high, each.low, each.close, each.volume or 0)))
        for each in candles
    )
    return bars, advance(None, bars, Timeframe.m1, MarketPolicy())[0]


def points(rows: Rows) -> Array:
    """What state, flags and a fall into S0 add to A, before weights."""
    policy = LeversPolicy()
    found = np.array([policy.state_deltas[state][0] for state in STATES])[rows.state]
    for name, (da, _) in policy.flag_deltas.items():
        state, flag = name.split("+")
        found = found + da * (rows.flags[Flag(flag)] & (rows.state == STATES.index(state)))
    for name, (da, _) in policy.transition_deltas.items():
        before, after = map(STATES.index, name.split(">"))
        found = found + da * ((rows.prev_state == before) & (rows.state == after))
    return np.asarray(found)


def correlation(x: OfPairs, y: OfPairs, day: OfPairs, drawn: Array) -> tuple[float, float, float]:
    """The mean of the pairs' rank correlations, and its interval; sums by day make a resample a product of matrices."""
    whole, resampled = [], []
    for a, b, when in zip(x, y, day, strict=True):
        a, b = rankdata(a), rankdata(b)
        sums = [np.bincount(when, weights, drawn.shape[1]) for weights in (a * 0 + 1, a, b, a * a, b * b, a * b)]
        whole.append(pearson(*(part.sum() for part in sums)))
        resampled.append(pearson(*(drawn @ part for part in sums)))
    low, high = np.percentile(np.mean(resampled, axis=0), (2.5, 97.5))
    return float(np.mean(whole)), float(low), float(high)


def pearson(n: Any, a: Any, b: Any, aa: Any, bb: Any, ab: Any) -> Any:
    """Pearson's correlation from sums."""
    return (n * ab - a * b) / np.sqrt((n * aa - a * a) * (n * bb - b * b))


def shifted(x: OfPairs, y: OfPairs, bars_a_day: int, rng: np.random.Generator) -> tuple[float, float]:
    """The range of the mean correlation where each pair's points are turned by the same random number of days."""
    ranks = [(rankdata(a), rankdata(b)) for a, b in zip(x, y, strict=True)]
    days = min(map(len, x)) // bars_a_day
    found = []
    for _ in range(SHIFTS):
        offset = int(rng.integers(bars_a_day, (days - 1) * bars_a_day))
        found.append(np.mean([np.corrcoef(np.roll(a, offset), b)[0, 1] for a, b in ranks]))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def difference(y: OfPairs, inside: OfPairs, day: OfPairs, drawn: Array) -> tuple[float, float, float]:
    """The mean return inside less that of all bars (bp), and its interval."""
    returns, within, when = np.concatenate(y), np.concatenate(inside), np.concatenate(day)
    days = drawn.shape[1]
    n, total = np.bincount(when, minlength=days), np.bincount(when, returns, days)
    n_in, total_in = np.bincount(when, within, days), np.bincount(when, returns * within, days)
    with np.errstate(invalid="ignore"):
        resampled = (drawn @ total_in) / (drawn @ n_in) - (drawn @ total) / (drawn @ n)
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    value = total_in.sum() / n_in.sum() - total.sum() / n.sum()
    return 1e4 * float(value), 1e4 * float(low), 1e4 * float(high)


if __name__ == "__main__":
    main(*sys.argv[1:])
