"""Pivots of the close, and the levels that they touch: support and resistance."""

from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

PIVOTS_OF_LEVELS = 24
_SWING = 1.2  # of a at the extreme: how far the close must come back from it
_LEAST_BARS = 4  # from the last pivot's bar to the confirmation of the next
_JOINS_WITHIN = 0.5  # of a at the confirmation
LEAST_TOUCHES = 2


Extreme = tuple[int, float, float]
"""A close that may become a pivot: its bar, price, and a there."""


class Pivot(NamedTuple):
    """A turning point, ``side`` 1 of a high, -1 of a low; ``higher`` than the last of its kind, None of the first."""

    confirmed: int
    side: int
    bar: int
    price: float
    higher: bool | None


Level = tuple[float, int]
"""The mean price of some pivots, and how many: its touches."""


class Search(NamedTuple):
    """Where the search stands after the newest bar.

    ``last_bar``: of the newest pivot; before the first, the first bar with an ATR, and -1 before that. ``chains``: for
    each side that is looked for (1: a high), the extreme since the last pivot, then the opposite extreme since that,
    and so on, as far as each is a full swing from the one before: a confirmation that had to wait for its four bars
    leaves the next search where it stands. ``recent``: the newest 24 pivots.
    """

    last_bar: int = -1
    chains: tuple[tuple[int, tuple[Extreme, ...]], ...] = ((1, ()), (-1, ()))
    recent: tuple[Pivot, ...] = ()
    last_high: float | None = None
    last_low: float | None = None
    levels: tuple[Level, ...] = ()


class Confirmation(NamedTuple):
    """A pivot, and the levels from its confirmation on."""

    pivot: Pivot
    levels: tuple[Level, ...]


def search(
    state: Search, closes: Sequence[float], spans: Sequence[float], first_bar: int
) -> tuple[Search, list[Confirmation]]:
    """The pivots that bars ``first_bar`` and on confirm, at most one each; ``spans``: a of each bar, from the first
    ATR on."""
    found: list[Confirmation] = []
    if not closes:
        return state, found
    last_bar, _, recent, last_high, last_low, levels = state
    last_bar = first_bar if last_bar < 0 else last_bar
    chains = [(side, list(chain)) for side, chain in state.chains]
    for bar, (p, a) in enumerate(zip(closes, spans, strict=True), first_bar):
        for side, chain in chains:
            _extend(chain, side, bar, p, a)
        if bar - last_bar < _LEAST_BARS:
            continue
        for side, chain in chains:
            at, price, a_there = chain[0]
            if side * (price - p) >= _SWING * a_there:
                before = last_high if side > 0 else last_low
                pivot = Pivot(bar, side, at, price, None if before is None else price > before)
                last_high, last_low = (price, last_low) if side > 0 else (last_high, price)
                last_bar = at
                recent = (*recent, pivot)[-PIVOTS_OF_LEVELS:]
                levels = levels_of([each.price for each in recent], a)
                found.append(Confirmation(pivot, levels))
                chains = [(-side, chain[1:])]
                break
    kept = tuple((side, tuple(chain)) for side, chain in chains)
    return Search(last_bar, kept, recent, last_high, last_low, levels), found


def levels_of(prices: Sequence[float], a: float) -> tuple[Level, ...]:
    """The levels of pivots' prices, in the order in which they were begun.

    Each joins the nearest level within half of ``a`` (of two as near: the older) and moves it to the mean of its
    touches; else it begins one.

    >>> levels_of([100.0, 104.0, 101.0, 104.5], 2.0)
    ((100.5, 2), (104.25, 2))
    """
    # By price: a level that moves towards what joins it, which is nearer to it than to its neighbour, passes none.
    means: list[float] = []
    held: list[list[float]] = []  # beside each mean: when it was begun, the sum of its touches, their number
    reach = _JOINS_WITHIN * a
    for begun, price in enumerate(prices):
        at = bisect_left(means, price)
        over = means[at] - price if at < len(means) else inf
        under = price - means[at - 1] if at else inf
        if over > reach and under > reach:
            means.insert(at, price)
            held.insert(at, [begun, price, 1])
            continue
        if under < over or (under == over and held[at - 1][0] < held[at][0]):
            at -= 1
        level = held[at]
        level[1] += price
        level[2] += 1
        means[at] = level[1] / level[2]
    held.sort()
    return tuple((total / touches, int(touches)) for _, total, touches in held)


def _extend(chain: list[Extreme], side: int, bar: int, p: float, a: float) -> None:
    """Take a close into the chain: it replaces the first extreme that it exceeds, and what came after that."""
    for at, extreme in enumerate(chain):
        if side * (p - extreme[1]) > 0:
            chain[at:] = [(bar, p, a)]
            return
        side = -side
    if not chain or side * (p - chain[-1][1]) >= _SWING * chain[-1][2]:
        chain.append((bar, p, a))
