"""The uptrend engine: bars in, states, flags, scores and indicators out (docs/algorithms.md, section 15).

A bar at a time, as bars come in, or a million at once: the same code, and the same results bit for bit.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.market.bars import Bars, Bools, Floats, Ints
from closeloop.learning.market.carry import Carry
from closeloop.learning.market.exhaustion import PARTS, Bars3, exhaustion
from closeloop.learning.market.indicators import NAMES, WILDER, indicators
from closeloop.learning.market.pivots import Confirmation, Pivot, Search, search
from closeloop.learning.market.scores import Memory, levels_by_bar, scores
from closeloop.learning.market.uptrend import Machine, walk
from closeloop.models.market import Flag, MarketState, Timeframe
from closeloop.models.market_policy import MarketPolicy

CHUNK_BARS = 16_384  # memory: about 20 MB while a chunk is worked on
INDICATORS = (*NAMES, "support", "resistance")
"""What is kept of a bar beside its state, flags and scores, in this order."""
STATES = (MarketState.s0, MarketState.s1, MarketState.s2, MarketState.s3, MarketState.s4)


@dataclass(frozen=True, eq=False)
class Rows:
    """What the engine says of n bars, arrays (n,).

    ``index``: of the bar in its series, from 0; ``start``: seconds since 1970. ``state`` and ``prev_state`` are indices
    into STATES, -1 before the engine has begun; ``prev_state`` is that of the bar before. ``published``: whether the
    state may be used; ``provisional``: though slow averages have not yet seen their length. Floats are NaN where there
    is no value. ``support`` and ``resistance``: the nearest level at or below the close, and above it. ``edx_parts`` by
    name; ``pivots``: those that these bars confirm.
    """

    index: Ints
    start: Ints
    state: NDArray[np.int8]
    prev_state: NDArray[np.int8]
    published: Bools
    provisional: Bools
    flags: dict[Flag, Bools]
    ts: Floats
    ox: Floats
    dx: Floats
    edx: Floats
    boost_ema60: Floats
    boost_ema333: Floats
    support: Floats
    resistance: Floats
    edx_parts: dict[str, Floats]
    indicators: dict[str, Floats]
    pivots: list[Pivot] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def state_of(self, row: int) -> MarketState | None:
        """The state of a row; None before the engine has begun."""
        return named(self.state[row])

    def prev_state_of(self, row: int) -> MarketState | None:
        """The state of the bar before that of a row; None before the engine has begun."""
        return named(self.prev_state[row])


def named(state: int) -> MarketState | None:
    """The state that a number of ``Rows.state`` stands for."""
    return STATES[state] if state >= 0 else None


def advance(carry: Carry | None, bars: Bars, timeframe: Timeframe, policy: MarketPolicy) -> tuple[Rows, Carry]:
    """Take the ``bars`` of a series that follow those of ``carry`` (None: there were none), at least one.

    Only bars that :func:`closeloop.learning.market.bars.accept` has accepted: prices are positive, low <= open, close
    <= high. Gaps are no bars. Raises ValueError where bars are not in order and after those of the carry, or where the
    carry is of another timeframe.
    """
    if not len(bars):
        raise ValueError("no bars")
    if carry is not None and carry.timeframe != timeframe:
        raise ValueError(f"the state is of {carry.timeframe}, not of {timeframe}")
    if np.any(np.diff(bars.start) <= 0) or (carry is not None and bars.start[0] <= carry.last_start):
        raise ValueError("bars must be in order, each start once, after those that went before")
    # NaN and infinities are answers here: no indicator yet, or sums beyond what a float holds.
    with np.errstate(all="ignore"):
        rows, carry = _chunk(carry, bars[:CHUNK_BARS], timeframe, policy)
        if len(bars) <= CHUNK_BARS:
            return rows, carry
        whole = {each.name: _room(len(bars), getattr(rows, each.name)) for each in fields(Rows)}
        for at in range(0, len(bars), CHUNK_BARS):
            if at:
                rows, carry = _chunk(carry, bars[at : at + CHUNK_BARS], timeframe, policy)
            for name, values in whole.items():
                _put(values, at, getattr(rows, name))
    return Rows(**whole), carry


def _chunk(carry: Carry | None, bars: Bars, timeframe: Timeframe, policy: MarketPolicy) -> tuple[Rows, Carry]:
    n, seen = len(bars), carry.bars if carry else 0
    found = indicators(carry.averages if carry else None, carry.history if carry else None, bars, seen)
    x = found.values
    ema = {length: x[f"ema{length}"] for length in (20, 30, 60, 144, 250, 333)}
    machine = carry.machine if carry else Machine()
    states = walk(machine, max(0, policy.start_bars - 1 - seen), ema, bars.close, policy.flip_atr * x["atr"])

    begins = min(n, max(0, WILDER - seen))  # the first bar with an ATR
    looking, levels = carry.search if carry else Search(), carry.search.levels if carry else ()
    looking, confirmed = search(looking, bars.close[begins:].tolist(), found.a[begins:].tolist(), seen + begins)
    by_bar = levels_by_bar(n, levels, [(each.pivot.confirmed - seen, each.levels) for each in confirmed])
    compared, higher = _higher_pivots(n, seen, confirmed)
    tired = exhaustion(
        carry.spell if carry else None,
        Bars3(states.age, bars.close, bars.volume, found.u, (x["s250"] + x["s333"]) / 2, found.step, compared, higher),
    )
    said = scores(carry.memory if carry else Memory(), bars.close, found, states, tired.edx, by_bar)
    support, resistance = by_bar.around(bars.close)
    index = np.arange(seen, seen + n)
    published = (index + 1 >= policy.published_bars[timeframe]) & (states.state >= 0)
    rows = Rows(
        index, bars.start, states.state.astype(np.int8), states.previous.astype(np.int8), published,
        published & (index + 1 < policy.settled_bars), said.flags, said.ts, said.ox, said.dx, tired.edx,
        said.boost_ema60, said.boost_ema333, support, resistance, dict(zip(PARTS, tired.parts, strict=True)), x,
        [each.pivot for each in confirmed],
    )  # fmt: skip
    after = Carry(
        timeframe, seen + n, int(bars.start[-1]), found.averages, found.history, states.machine, looking, said.memory,
        tired.spell,
    )  # fmt: skip
    return rows, after


def _higher_pivots(n: int, seen: int, confirmed: list[Confirmation]) -> tuple[Ints, Ints]:
    """By bar: the pivots it confirms that had one of their kind before, and those of them that are higher."""
    compared, higher = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for pivot, _ in confirmed:
        if pivot.higher is not None:
            compared[pivot.confirmed - seen] = 1
            higher[pivot.confirmed - seen] = pivot.higher
    return compared, higher


def _room(n: int, like: Any) -> Any:
    """Room for n bars in the shape of some: arrays, in dictionaries by name, and a list of what is not by bar."""
    if isinstance(like, dict):
        return {key: _room(n, value) for key, value in like.items()}
    return [] if isinstance(like, list) else np.empty(n, dtype=like.dtype)


def _put(whole: Any, at: int, part: Any) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            _put(whole[key], at, value)
    elif isinstance(part, list):
        whole.extend(part)
    else:
        whole[at : at + len(part)] = part
