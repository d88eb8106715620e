"""What states of the market have been worth: R of the trades that were opened in a state, less that of the others
(docs/algorithms.md, section 16).

A state lasts for hours or months, and all trades that are opened while it lasts share what happens then: a *spell*, an
uninterrupted run of a state over a book's openings, is one piece of evidence, however many trades it has. The luck of
periods and symbols is weighed as it is in lessons (``learning/luck.py``).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from closeloop.learning import luck
from closeloop.learning.candidates import Periods, by_day, by_luck, compare
from closeloop.learning.contrasts import Clusters, Contrasts
from closeloop.learning.significance import benjamini_yekutieli
from closeloop.learning.trades import Bools, Floats, Ints
from closeloop.models.market import MarketState
from closeloop.models.policy import MiningPolicy, WorthPolicy

STATES = tuple(MarketState)
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Openings:
    """Trades by the time of their opening, arrays (n,): ``rr`` in R, ``opened_at`` in seconds since 1970 (UTC),
    ascending, ``symbols`` a number for each symbol.

    ``states``: by dimension (btc_macro, ...), the place of a trade's state among STATES; -1 where it is not known.
    ``buckets``: a number for each bucket; those of the dimensions ``bucket_*`` are series of their own.
    """

    rr: Floats
    opened_at: Floats
    symbols: Ints
    buckets: Ints
    states: Mapping[str, Ints]

    def first(self, n: int) -> "Openings":
        """The first ``n`` of them."""
        states = {dimension: codes[:n] for dimension, codes in self.states.items()}
        return Openings(self.rr[:n], self.opened_at[:n], self.symbols[:n], self.buckets[:n], states)


@dataclass(frozen=True)
class Worth:
    """What a state has been worth, in R: ``effect``, the mean of the ``n`` trades inside less that of the ``n_other``.

    ``spells``: uninterrupted runs of the state, and of others (``spells_other``). ``low`` to ``high`` is the 95 %
    interval. All of what is estimated is None where too little is there to say anything (``too_few`` says of what).
    ``p`` is 1, and the interval has no bounds, where there are too few days, periods or symbols to tell of luck;
    ``p_of_trades`` is what it would be if trades were independent. ``q`` is over all that were tested.
    """

    dimension: str
    state: MarketState
    n: int
    n_other: int
    spells: int
    spells_other: int
    too_few: str | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_of_trades: float | None = None
    p: float | None = None
    q: float | None = None


def worth(openings: Openings, numbers: WorthPolicy, mining: MiningPolicy) -> list[Worth]:
    """What each state of each dimension has been worth, by dimension and state; of all that are tested, one family.

    Benjamini & Yekutieli (2001), as the states of a driver exclude each other and drivers move together.
    """
    found = [
        _of_state(openings, dimension, codes, state, numbers, mining)
        for dimension, codes in openings.states.items()
        for state in range(len(STATES))
        if (codes == state).any()
    ]
    tested = [place for place, each in enumerate(found) if each.p is not None]
    q = benjamini_yekutieli(np.array([found[place].p for place in tested], np.float64))
    for place, value in zip(tested, q.tolist(), strict=True):
        found[place] = replace(found[place], q=value)
    return found


def looked_at(n: int, numbers: WorthPolicy) -> int:
    """How many of ``n`` trades are counted: evidence is looked at again only when it has grown by ``growth``.

    Each look at noise is another chance to find something. The grid is the same whoever asks, and however often.

    >>> [looked_at(n, WorthPolicy()) for n in (20, 66, 72, 73)]
    [20, 66, 66, 73]
    """
    look = n
    for each in _looks(n, numbers):
        look = each
    return look


def next_look(n: int, numbers: WorthPolicy) -> int:
    """At how many trades evidence of ``n`` is looked at next; below the first look, at the first.

    >>> [next_look(n, WorthPolicy()) for n in (20, 66, 72, 73)]
    [66, 73, 73, 81]
    """
    look = 0
    for each in _looks(n, numbers):
        look = each
    return _grown(look, numbers)


def _looks(n: int, numbers: WorthPolicy) -> Iterator[int]:
    look = 0
    while (look := _grown(look, numbers)) <= n:
        yield look


def _grown(look: int, numbers: WorthPolicy) -> int:
    if look == 0:
        return 2 * numbers.min_trades
    return max(look + 1, math.ceil(look * (1 + numbers.growth) - 1e-9))  # rounding


def runs(inside: Bools, series: Ints) -> Ints:
    """A number for each trade's spell: a run of equal ``inside`` over the trades of one ``series``, in their order.

    >>> runs(np.array([True, True, False, True]), np.array([0, 1, 0, 0])).tolist()
    [0, 3, 1, 2]
    """
    order = np.argsort(series, kind="stable")
    changes = np.flatnonzero(np.diff(inside[order]) | (np.diff(series[order]) != 0)) + 1
    starts = np.zeros(len(order), np.int64)
    starts[changes] = 1
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(starts)
    return numbers


def _of_state(
    openings: Openings, dimension: str, codes: Ints, state: int, numbers: WorthPolicy, mining: MiningPolicy
) -> Worth:
    known = np.flatnonzero(codes >= 0)
    inside = codes[known] == state
    n, n_other = int(inside.sum()), int((~inside).sum())
    series = openings.buckets[known] if dimension.startswith("bucket_") else np.zeros(len(known), np.int64)
    spell = runs(inside, series)
    spells, spells_other = len(np.unique(spell[inside])), len(np.unique(spell[~inside]))
    found = Worth(dimension, STATES[state], n, n_other, spells, spells_other)
    if min(n, n_other) < numbers.min_trades:
        return replace(found, too_few="trades")
    if min(spells, spells_other) < numbers.min_spells:
        return replace(found, too_few="spells")
    mining = mining.model_copy(update={"min_trades": numbers.min_trades, "min_cell_trades": 1})
    return _tested(found, openings, known, inside, spell, numbers.min_spells, mining)


def _tested(
    found: Worth, openings: Openings, known: Ints, inside: Bools, spell: Ints, min_spells: int, mining: MiningPolicy
) -> Worth:
    """With the largest p and the widest interval of all tests."""
    rr = openings.rr[known]
    # Less a middle value, sums of squares keep their last digits.
    y = rr - float(np.partition(rr, len(rr) // 2)[len(rr) // 2])
    rows, cell = np.arange(len(y)), np.zeros(len(y), np.int64)
    chosen = np.flatnonzero(inside)
    of_one = np.zeros(len(chosen), np.int64)
    totals = np.array([[len(y)], [y.sum()], [(y * y).sum()]], np.float64)
    sums = np.array([[[len(chosen)]], [[y[chosen].sum()]], [[(y[chosen] * y[chosen]).sum()]]], np.float64)
    trades = compare(sums, totals, mining)
    contrasts = Contrasts(chosen, of_one, 1, y[chosen], of_one, totals[0], totals[1], mining.min_cell_trades)
    periods = Periods.of(np.floor(openings.opened_at[known] / DAY_SECONDS).astype(np.int64), mining)
    _, symbol = np.unique(openings.symbols[known], return_inverse=True)
    days, symbols, spells = (Clusters.of(code, rows, y, cell, 1) for code in (periods.day, symbol, spell))
    base = luck.Base(trades.effect, trades.variance, trades.freedom, trades.scatter, contrasts.squares)
    tests = (
        trades,
        by_day(contrasts, days, mining.min_days),
        by_day(contrasts, spells, min_spells),
        by_luck(base, contrasts, symbols, days, periods, mining, spells=spells).found,
    )
    p = max(float(each.p[0]) for each in tests)
    half = max(float(each.half_width[0]) for each in tests)
    effect = float(trades.effect[0])
    bounded = math.isfinite(half) and p < 1.0
    return replace(
        found,
        effect=effect,
        low=effect - half if bounded else None,
        high=effect + half if bounded else None,
        p_of_trades=float(trades.p[0]),
        p=p,
    )
