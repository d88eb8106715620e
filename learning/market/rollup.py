"""Hours and days from accepted minutes."""

import math
from dataclasses import dataclass

import numpy as np

from closeloop.learning.market.bars import Bars, Ints


@dataclass(frozen=True, eq=False)
class Rolled:
    """``bars`` of a longer timeframe by start; of each, how many bars it was made of (``n_source``) and the most
    components that any of them had."""

    bars: Bars
    n_source: Ints
    component_count: Ints | None = None


def rollup(minutes: Bars, seconds: int, component_count: Ints | None = None) -> Rolled:
    """Roll accepted bars, by start and each start once, up to bars of ``seconds``: first open, highest high, lowest
    low, last close, volume added up exactly.

    A bar is stamped with its own start, and is of no use before its end; one that has not ended is made of what there
    is. Gaps stay gaps. The same bars give the same ones, so a bar of late minutes is rolled up again from all of its
    minutes.

    >>> found = rollup(Bars.of([(0, 1.0, 2.0, 1.0, 2.0, 5.0), (120, 2.0, 9.0, 2.0, 3.0, 5.0)]), 3600)
    >>> found.bars.high.tolist(), found.bars.volume.tolist(), found.n_source.tolist()
    ([9.0], [10.0], [2])
    """
    stamps = minutes.start // seconds * seconds
    first = np.flatnonzero(np.append(True, stamps[1:] != stamps[:-1])) if len(stamps) else np.empty(0, np.int64)
    ends = np.append(first[1:], len(stamps)) if len(first) else first
    volume = minutes.volume.tolist()
    bars = Bars(
        stamps[first],
        minutes.open[first],
        np.maximum.reduceat(minutes.high, first) if len(first) else minutes.high,
        np.minimum.reduceat(minutes.low, first) if len(first) else minutes.low,
        minutes.close[ends - 1],
        np.array([math.fsum(volume[a:z]) for a, z in zip(first.tolist(), ends.tolist(), strict=True)], np.float64),
    )
    most = component_count
    if most is not None and len(first):
        most = np.maximum.reduceat(most, first)
    return Rolled(bars, ends - first, most)
