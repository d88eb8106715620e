"""Pattern lessons: which conditions went with better or worse trades, and which of them are more than noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.policy import LearningPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trade:
    """A closed trade within a group.

    ``rr`` in R (trades without R are left out by the caller), ``entered_at`` in seconds since 1970 (UTC),
    ``held_hours`` from entry to exit, ``scope`` as :func:`learning.scope.flatten` gives it.
    """

    trade_id: str
    symbol: str
    rr: float
    entered_at: float
    held_hours: float
    scope: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A dimension: ``codes`` (n,) int32 into the sorted ``values``; -1 where a trade has none."""

    codes: NDArray[np.int32]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The trades of one (pattern_key, action_category), by trade id: the same trades make the same arrays, whatever
    order they came in. All arrays are (n,). Made by :func:`group_of`."""

    pattern_key: str
    action_category: str
    trade_ids: tuple[str, ...]
    rr: Floats
    entered_at: Floats
    held_hours: Floats
    symbols: Column
    columns: Mapping[str, Column]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the group."""
        return self.pattern_key, self.action_category

    @property
    def n(self) -> int:
        """Number of trades."""
        return len(self.trade_ids)

    @property
    def days(self) -> Ints:
        """UTC day of entry, counted from 1970 (n,)."""
        return np.floor(self.entered_at / 86_400.0).astype(np.int64)

    def selected(self, conditions: Mapping[str, str]) -> NDArray[np.bool_]:
        """Which trades satisfy every condition (n,)."""
        raise NotImplementedError


def group_of(pattern_key: str, action_category: str, trades: Iterable[Trade]) -> Group:
    """Collect trades, read once, into a group. A trade id that comes several times counts once."""
    raise NotImplementedError


class Standing(StrEnum):
    """What the selection made of a lesson."""

    baseline = "baseline"
    accepted = "accepted"
    shadow = "shadow"


@dataclass(frozen=True)
class Lesson:
    """What is known of the trades that satisfy ``conditions``; all in R.

    ``n``, ``avg_rr``, ``variance`` (n - 1; None for one trade), ``win_rate`` (share of rr > 0) and ``edge_raw``
    (avg_rr - baseline) describe the trades inside. ``effect`` is the conditional difference to the trades outside with
    its 95 % interval, ``p`` and ``q`` belong to it: as at its acceptance, or, of a shadow, given everything that was
    accepted (None where it can no longer be told from that). ``explained_by``: conditions of the accepted lesson of
    the group that explains a shadow. ``rows``: indices of the trades in the group's arrays, ascending.

    The baseline of a group has no conditions; its effect is its edge, its p that of Student's t test; it has no q.
    """

    pattern_key: str
    action_category: str
    conditions: Mapping[str, str]
    standing: Standing
    n: int
    avg_rr: float
    variance: float | None
    win_rate: float
    edge_raw: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    p: float
    q: float | None
    explained_by: Mapping[str, str] | None
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Mined:
    """``lessons``: by group; first the baseline, then the accepted in the order of acceptance, then the shadows by
    conditions. ``candidates``: size of the family, all groups together. ``left_out``: dimensions of each group beyond
    the policy's limit (those of fewest trades, unknown before known)."""

    lessons: list[Lesson]
    candidates: int
    left_out: Mapping[tuple[str, str], tuple[str, ...]]


def due(trades: int, mined_with: int | None, policy: LearningPolicy) -> bool:
    """Whether a group of that many trades is to be mined (again); ``mined_with``: trades of the last time, if any."""
    raise NotImplementedError


def mine(groups: Sequence[Group], policy: LearningPolicy) -> Mined:
    """All lessons of the groups of one run (of one book): their candidates are one family of tests."""
    raise NotImplementedError
