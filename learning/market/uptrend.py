"""The uptrend engine's states: which bar is in which, from the order of the averages and the price."""

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from closeloop.learning.market.bars import Bools, Floats, Ints

NONE, S0, S1, S2, S3, S4 = -1, 0, 1, 2, 3, 4
_TIE = 1e-9  # of the right-hand side: closer than that is neither above nor below


class Machine(NamedTuple):
    """After the newest bar: its ``state``, and ``age`` in bars since S3 was entered, -1 outside it."""

    state: int = NONE
    age: int = -1


class Walk(NamedTuple):
    """Of n bars, arrays (n,): the ``state`` of each and of the bar before, and the ``age`` of S3 (-1 outside it)."""

    state: Ints
    previous: Ints
    age: Ints
    machine: Machine


def above(x: Floats, y: Floats) -> Bools:
    """x > y, a tie being neither."""
    return x > y + _TIE * np.abs(y)


def below(x: Floats, y: Floats) -> Bools:
    """x < y, a tie being neither."""
    return x < y - _TIE * np.abs(y)


def walk(machine: Machine, waiting: int, ema: Mapping[int, Floats], close: Floats, margin: Floats) -> Walk:
    """The states of n bars, after ``waiting`` ones that have none yet. At most one transition a bar.

    ``ema``: the averages by length, (n,); ``margin`` (n,): by how much the price has to be beyond EMA333 to move
    between S1 and S2, in its units (0 as the seed has it).
    """
    slow = (ema[60], ema[144], ema[250], ema[333])
    bull = above(ema[20], slow[0]) & above(ema[30], slow[0])
    bear = below(ema[20], slow[0]) & below(ema[30], slow[0])
    begins = bull & above(close, slow[0])
    for fast, slower in pairwise(slow):
        bull = bull & above(fast, slower)
        bear = bear & below(fast, slower)
    ends = np.logical_and.reduce([below(ema[length], ema[333]) for length in (20, 30, 60, 144, 250)])
    over, under = above(close, ema[333] + margin), below(close, ema[333] - margin)
    codes = np.zeros(len(close), dtype=np.int64)
    for bit, holds in enumerate((bull, bear, begins, over, under, ends)):
        codes |= holds.astype(np.int64) << bit
    waiting = min(len(close), waiting)
    states = [NONE] * waiting
    states += list(accumulate(codes[waiting:].tolist(), lambda s, code: _NEXT[s][code], initial=machine.state))[1:]
    state = np.array(states, dtype=np.int64)
    previous = np.concatenate(((machine.state,), state[:-1]))
    age = _age(machine.age, state, previous)
    return Walk(state, previous, age, Machine(int(state[-1]), int(age[-1])))


def _age(before: int, state: Ints, previous: Ints) -> Ints:
    """Bars since S3 was entered; the bar that enters it is 0."""
    at = np.arange(len(state))
    entered = np.where((state == S3) & (previous != S3), at, -1)
    start = np.maximum.accumulate(entered)
    age = np.where(start >= 0, at - start, before + 1 + at)
    return np.where(state == S3, age, -1)


def _step(state: int, code: int) -> int:
    """The state after a bar of which ``code`` says what holds. Tested in this order, the first that holds is taken."""
    bull, bear, begins, over, under, ends = (bool(code >> bit & 1) for bit in range(6))
    if state in (NONE, S4):
        return S0 if bear else S3 if bull else S4
    if state == S0:
        return S1 if begins else S0
    if state == S1:
        return S0 if bear else S2 if over else S1
    if state == S2:
        return S0 if bear else S1 if under else S3 if bull else S2
    return S0 if ends else S3


_NEXT = {state: [_step(state, code) for code in range(64)] for state in (NONE, S0, S1, S2, S3, S4)}
