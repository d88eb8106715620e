"""EDX: how exhausted an uptrend is, from windows that reach back over the whole of the S3 it is in.

A window of the last w bars is a difference of sums since the bar that entered S3. Those sums are kept, one value a
bar, and go on bar by bar in the same order: a chunk of one bar gives the bits of the whole series.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.market.bars import Floats, Ints
from closeloop.learning.market.indicators import slope
from closeloop.learning.market.squash import sigma

PARTS = ("slow", "structure", "participation", "compression")
_WEIGHTS = (0.30, 0.25, 0.20, 0.10)
_NEUTRAL = 0.5
_LEAST = 10  # bars, of an age and of a window
SUMS = 4  # rows of Spell.sums: slow, price x volume, volume, step of the separation
COUNTS = 2  # rows of Spell.counts: pivots that can be compared, higher ones


@dataclass(frozen=True, slots=True)
class Spell:
    """An S3 after its newest bar: sums since its entry, (SUMS, m) and (COUNTS, m), of the ages ``first`` to ``age``.

    Older ones are no window's base any more. ``entry_close``: prices are summed as what they are above it, so that
    little is lost where sums are subtracted.
    """

    first: int
    entry_close: float
    sums: Floats
    counts: NDArray[np.int32]

    @property
    def age(self) -> int:
        """Bars since S3 was entered."""
        return self.first + int(self.sums.shape[1]) - 1


@dataclass(frozen=True, slots=True)
class Bars3:
    """What EDX takes of n bars, arrays (n,): their ``age`` in S3 (-1 outside), close, volume, ``u``, the mean ``slow``
    slope of EMA250 and EMA333, the ``step`` of the separation; of the pivots that they confirm how many can be
    ``compared`` with one before, and how many are ``higher``."""

    age: Ints
    close: Floats
    volume: Floats
    u: Floats
    slow: Floats
    step: Floats
    compared: Ints
    higher: Ints


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """EDX (n,) and its parts (4, n), NaN outside S3; parts also under an age of 10, where EDX is 0.5. ``spell``: the
    S3 of the newest bar, None outside."""

    edx: Floats
    parts: Floats
    spell: Spell | None


def exhaustion(spell: Spell | None, bars: Bars3) -> Exhaustion:
    """EDX of n bars; ``spell`` is the S3 of the bar before them."""
    n = len(bars.age)
    edx, parts = np.full(n, np.nan), np.full((len(PARTS), n), np.nan)
    inside = np.flatnonzero(bars.age >= 0)
    if not len(inside):
        return Exhaustion(edx, parts, None)
    edx[inside] = _NEUTRAL
    sums, counts, entry, place, spell = _summed(spell, bars, inside)
    old = bars.age[inside] >= _LEAST
    if old.any():
        at = inside[old]
        found = _parts(sums, counts, entry[old], place[old], bars.age[at], bars.u[at])
        parts[:, at] = found
        edx[at] = sum(w * part for w, part in zip(_WEIGHTS, found, strict=True)) / sum(_WEIGHTS)
    return Exhaustion(edx, parts, spell if bars.age[-1] >= 0 else None)


def _summed(spell: Spell | None, bars: Bars3, inside: Ints) -> tuple[Floats, NDArray[np.int32], Floats, Ints, Spell]:
    """The sums (SUMS, m) and counts (COUNTS, m) of the spell before and of the bars ``inside``; of each of these its
    entry's close and its place among the m; and the last spell after them."""
    starts = np.flatnonzero(bars.age[inside] == 0)
    values = np.array(
        (sigma(bars.slow[inside] / (0.015 * bars.u[inside])), bars.close[inside], bars.volume[inside],
         bars.step[inside] / bars.u[inside])
    )  # fmt: skip
    confirmed = np.array((bars.compared[inside], bars.higher[inside]), dtype=np.int32)
    sums, counts, entries = [], [], np.empty(len(inside))
    kept = 0
    cuts = sorted({0, *starts.tolist(), len(inside)})
    for begin, end in pairwise(cuts):
        part, number = values[:, begin:end], confirmed[:, begin:end]
        if bars.age[inside[begin]] == 0 or spell is None:
            entry = float(part[1, 0])
            first, held, held_counts = 0, np.zeros((SUMS, 1)), np.zeros((COUNTS, 1), dtype=np.int32)
            part, number = part[:, 1:], number[:, 1:]
        else:
            entry, first, held, held_counts = spell.entry_close, spell.first, spell.sums, spell.counts
            kept = held.shape[1]
        part = np.array((part[0], (part[1] - entry) * part[2], part[2], part[3]))
        total = np.cumsum(np.concatenate((held[:, -1:], part), axis=1), axis=1)[:, 1:]
        total = np.concatenate((held, total), axis=1)
        total_counts = np.cumsum(np.concatenate((held_counts[:, -1:], number), axis=1), axis=1, dtype=np.int32)[:, 1:]
        total_counts = np.concatenate((held_counts, total_counts), axis=1)
        sums.append(total)
        counts.append(total_counts)
        entries[begin:end] = entry
        newest = Spell(first, entry, total, total_counts)
    place = np.arange(len(inside)) + kept
    return np.concatenate(sums, axis=1), np.concatenate(counts, axis=1), entries, place, _trimmed(newest)


def _trimmed(spell: Spell) -> Spell:
    """Without the ages that no later bar looks back to: two thirds of its own age back, and its last ten values."""
    first = max(spell.first, min(-(-spell.age // 3), spell.age - (_LEAST - 1)))
    if first == spell.first:
        return spell
    cut = first - spell.first
    return Spell(first, spell.entry_close, spell.sums[:, cut:].copy(), spell.counts[:, cut:].copy())


def _parts(sums: Floats, counts: NDArray[np.int32], entry: Floats, place: Ints, age: Ints, u: Floats) -> Floats:
    """The parts (4, n) of bars with an age of 10 or more."""
    longest = _window(sums, counts, entry, place, age, u, None)
    two = _middle(sums, counts, entry, place, 2 * age // 3, u)
    three = _middle(sums, counts, entry, place, age // 3, u)
    second = np.where(two > longest, 0.3 * longest + 0.7 * two, (longest + two) / 2)
    third = np.where((three > two) & (two > longest), 0.2 * longest + 0.3 * two + 0.5 * three, second)
    return np.where(np.isnan(two), longest, np.where(np.isnan(three), second, third))


def _middle(sums: Floats, counts: NDArray[np.int32], entry: Floats, place: Ints, width: Ints, u: Floats) -> Floats:
    """The parts by a shorter window (4, n), NaN where it is too short to be one."""
    found = np.full((len(PARTS), len(place)), np.nan)
    there = width >= _LEAST
    if there.any():
        at, wide = place[there], width[there]
        found[:, there] = _window(sums, counts, entry[there], at, wide, u[there], at - wide)
    return found


def _window(
    sums: Floats, counts: NDArray[np.int32], entry: Floats, place: Ints, width: Ints, u: Floats, base: Ints | None
) -> Floats:
    """The parts (4, n) by the last ``width`` bars, whose sums begin after ``base``; None: with the spell's own zero."""
    zero = np.zeros((SUMS, 1))
    before = zero if base is None else sums[:, base]
    slow, _, _, step = sums[:, place] - before
    pivots, higher = counts[:, place] - (0 if base is None else counts[:, base])
    structure = np.where(pivots >= 2, 1.0 - higher / np.maximum(pivots, 1), 0.5)
    last = place[:, None] + np.arange(1 - _LEAST, 1)
    volume = sums[2][last] - before[2][:, None]
    traded = (volume > 0).all(axis=1)
    anchored = (sums[1][last] - before[1][:, None]) / np.where(volume > 0, volume, 1.0)  # above the entry's close
    gain = slope(anchored)[:, 0] / (entry + anchored[:, -1]) / u
    participation = np.where(traded, sigma(-gain / 0.02), 0.5)
    return np.array((1.0 - slow / width, structure, participation, sigma(-(step / width) / 0.006)))
