"""The market's engine over recorded candles: the code that runs live, over bars that lie in a file."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from closeloop.gateways.candles import Candle, RefusedRow
from closeloop.learning.market.bars import Bars, Counters, accept
from closeloop.learning.market.engine import Rows, advance, named
from closeloop.learning.market.rollup import rollup
from closeloop.models.market import DOMINANCES, Driver, Timeframe
from closeloop.models.policy import MarketPolicy

_MINUTE = 60


@dataclass(frozen=True)
class Replayed:
    """``bars`` that were accepted, what the engine says of them (``rows``; None of no bars), and what was refused:
    ``unreadable`` rows of the file, and by reason in ``counters``."""

    timeframe: Timeframe
    bars: Bars
    rows: Rows | None
    counters: Counters
    unreadable: list[RefusedRow]


def replay(
    candles: Iterable[Candle | RefusedRow],
    interval_seconds: int,
    driver: Driver,
    timeframe: Timeframe,
    as_of: datetime,
    policy: MarketPolicy,
) -> Replayed:
    """Candles of a file, as they are written, through validation, spikes and the engine.

    ``interval_seconds``: the candles' length; shorter ones than the timeframe's are rolled up to it. A bar that had not
    ended by ``as_of`` is refused. Spikes are of minutes: what moves within an hour or a day may be far.
    """
    received, unreadable = _columns(candles)
    limit = spike_limit(driver, policy) if interval_seconds == _MINUTE else math.inf
    accepted = accept(received, interval_seconds, limit, int(as_of.timestamp()), None)
    bars, counters = accepted.bars, accepted.counters
    if interval_seconds < timeframe.seconds and len(bars):
        known_until = int(bars.start[-1]) + interval_seconds
        bars = rollup(bars, timeframe.seconds).bars
        if bars.start[-1] + timeframe.seconds > known_until:
            bars = bars[:-1]
            counters = replace(counters, unfinished=counters.unfinished + 1)
    rows = advance(None, bars, timeframe, policy)[0] if len(bars) else None
    return Replayed(timeframe, bars, rows, counters, unreadable)


def spike_limit(driver: Driver, policy: MarketPolicy) -> float:
    """How far a driver's minute may move (log return). Composites have none: their components' minutes have."""
    if driver == Driver.btc:
        return policy.spike_limits["major"]
    return policy.spike_limits["dominance"] if driver in DOMINANCES else math.inf


def as_json(replayed: Replayed) -> Iterator[dict[str, Any]]:
    """A document for each bar, in order; null is what there is no value of."""
    rows = replayed.rows
    if rows is None:
        return
    ends = (rows.start + replayed.timeframe.seconds).tolist()
    for at in range(len(rows)):
        yield {
            "bar": int(rows.index[at]),
            "bar_end": datetime.fromtimestamp(ends[at], UTC),
            "state": named(int(rows.state[at])),
            "prev_state": named(int(rows.prev_state[at])),
            "published": bool(rows.published[at]),
            "provisional": bool(rows.provisional[at]),
            "flags": {flag.value: bool(values[at]) for flag, values in rows.flags.items()},
            "scores": {name: _number(getattr(rows, name)[at]) for name in ("ts", "ox", "dx", "edx")},
            "levels": {name: _number(getattr(rows, name)[at]) for name in ("support", "resistance")},
            "indicators": {name: _number(values[at]) for name, values in rows.indicators.items()},
        }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _columns(candles: Iterable[Candle | RefusedRow]) -> tuple[Bars, list[RefusedRow]]:
    start, numbers, unreadable = array("q"), array("d"), []
    for each in candles:
        if isinstance(each, RefusedRow):
            unreadable.append(each)
            continue
        start.append(int(each.start.timestamp()))
        numbers.extend(map(float, (each.open, each.high, each.low, each.close, each.volume or 0)))
    columns = np.frombuffer(numbers, dtype=np.float64).reshape(-1, 5).T if start else np.empty((5, 0))
    return Bars(np.array(start, dtype=np.int64), *columns.copy()), unreadable
