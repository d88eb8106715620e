"""The market as a picture: price, states as bands, and A and E where they are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from closeloop.learning.market.bars import Floats, Ints
from closeloop.learning.market.engine import STATES
from closeloop.models.market import MarketState

_COLUMNS = 500  # across: what the eye can tell apart, and a bound on the file
_DAY = 86_400
_BANDS = {
    MarketState.s0: "#f2b8a2",
    MarketState.s1: "#aed4f0",
    MarketState.s2: "#f6eaa0",
    MarketState.s3: "#a3d9bf",
    MarketState.s4: "#dcdcdc",
}


@dataclass(frozen=True, eq=False)
class MarketPicture:
    """What is drawn: bars of ``seconds`` each, arrays (n,): ``start`` in seconds since 1970, ``close``, and ``state``
    as indices into STATES, -1 for none. ``used_from``: the start of the first bar whose state is used. ``levers`` (m,)
    each: instants in seconds since 1970, A, and E. ``marks``: instants that are named in the picture."""

    title: str
    seconds: int
    start: Ints
    close: Floats
    state: Any
    used_from: int | None = None
    levers: tuple[Ints, Floats, Floats] | None = None
    marks: Sequence[tuple[int, str]] = ()


def draw(path: Path, picture: MarketPicture) -> None:
    """Write the picture (SVG, PNG or PDF by the file's ending). However many bars there are, the file stays small: of a
    column, the price's first, lowest, highest and last are drawn, and the state that most of its bars had.

    Raises ValueError for an ending that nothing can be drawn to, or no bars; OSError where the file cannot be written.
    """
    import matplotlib  # half a second: only who draws waits for it

    matplotlib.use("Agg")
    from matplotlib import dates, pyplot
    from matplotlib.patches import Patch

    if not len(picture.start):
        raise ValueError("there are no bars to draw")
    matplotlib.rcParams["svg.hashsalt"] = "closeloop"  # the same picture is the same file
    levers = picture.levers
    heights = (4,) if levers is None else (4, 1.4)
    figure, axes = pyplot.subplots(
        len(heights), 1, figsize=(9, 4 if levers is None else 5.4), height_ratios=heights, sharex=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    above = axes[0, 0]
    edges, column = _columns(picture)
    days = edges / _DAY  # as matplotlib counts: days since 1970
    shown = _bands(above, days, column, picture.state)
    above.plot(*_line(days, column, picture.close), color="#20303f", linewidth=0.8)
    above.set(ylabel="price", title=picture.title, xlim=(days[0], days[-1]))
    above.margins(y=0.05)
    if picture.used_from is not None and picture.used_from > picture.start[0]:
        _mark(above, picture.used_from, "used from here", row=0)
    for instant, name in picture.marks:
        _mark(above, instant, name, row=1)
    figure.legend(
        handles=[Patch(color=colour, label=state.words) for state, colour in _BANDS.items() if state in shown],
        loc="outside lower center", ncols=5, frameon=False, fontsize=8,
    )  # fmt: skip
    if levers is not None:
        instants, a, e = levers
        thin = np.unique(np.linspace(0, len(instants) - 1, min(len(instants), _COLUMNS)).astype(int))
        times = instants[thin] / _DAY
        below = axes[1, 0]
        below.step(times, a[thin], where="post", color="#1f5fa8", linewidth=1, label="A, aggressiveness")
        below.step(times, e[thin], where="post", color="#c25b12", linewidth=1, label="E, readiness to leave")
        below.set(ylim=(-0.03, 1.03), ylabel="A, E")
        below.legend(
            loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, fontsize=7, ncols=2
        )  # above the lines, which may be anywhere
    last = axes[-1, 0]
    last.set_xlabel("time (UTC)")
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    last.xaxis.set_major_locator(locator)
    last.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    finally:
        pyplot.close(figure)


def _mark(axes: Any, instant: int, name: str, row: int) -> None:
    """A dotted line at an instant, with its name in a row from the top."""
    at = instant / _DAY
    axes.axvline(at, color="#20303f", linewidth=0.8, linestyle=":")
    axes.annotate(
        name, (at, 1), xycoords=axes.get_xaxis_transform(), xytext=(3, -3 - 11 * row), textcoords="offset points",
        va="top", fontsize=7, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )  # fmt: skip


def _columns(picture: MarketPicture) -> tuple[Floats, Ints]:
    """The columns' edges (seconds since 1970), at least a bar apart, and the column of each bar."""
    first, end = int(picture.start[0]), int(picture.start[-1]) + picture.seconds
    count = min(_COLUMNS, (end - first) // picture.seconds)
    edges = np.linspace(first, end, count + 1)
    return edges, np.clip(np.searchsorted(edges, picture.start, side="right") - 1, 0, count - 1)


def _bands(axes: Any, days: Floats, column: Ints, state: Any) -> set[MarketState]:
    """Paint the state that most bars of a column had, and say which were painted; columns without a bar stay blank."""
    counts = np.zeros((len(STATES), len(days) - 1), dtype=np.int64)
    known = state >= 0
    np.add.at(counts, (state[known].astype(np.int64), column[known]), 1)
    painted = np.where(counts.any(axis=0), counts.argmax(axis=0), -1)
    begins = np.flatnonzero(np.append(True, painted[1:] != painted[:-1]))
    ends = np.append(begins[1:], len(painted))
    for number, name in enumerate(STATES):
        runs = painted[begins] == number
        spans = [(days[a], days[z] - days[a]) for a, z in zip(begins[runs].tolist(), ends[runs].tolist(), strict=True)]
        if spans:
            axes.broken_barh(
                spans, (0, 1), transform=axes.get_xaxis_transform(), color=_BANDS[name], linewidth=0, zorder=0
            )
    return {STATES[number] for number in set(painted.tolist()) if number >= 0}


def _line(days: Floats, column: Ints, close: Floats) -> tuple[Floats, Floats]:
    """First, lowest, highest and last close of each column; a break where a column has no bar."""
    begins = np.flatnonzero(np.append(True, column[1:] != column[:-1]))
    ends = np.append(begins[1:], len(column)) - 1
    values = np.full((len(days) - 1, 4), np.nan)
    low, high = np.minimum.reduceat(close, begins), np.maximum.reduceat(close, begins)
    values[column[begins]] = np.stack((close[begins], low, high, close[ends]), axis=1)
    places = days[:-1, None] + (days[1] - days[0]) * np.array([0.125, 0.375, 0.625, 0.875])
    return places.ravel(), values.ravel()
