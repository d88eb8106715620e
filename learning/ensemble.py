"""The ensemble: what usually followed when the latest forecasts of all producers were what they are now.

Times are microseconds since 1970 (UTC), actions the codes of :mod:`closeloop.learning.scoring`.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.intervals import wilson_interval
from closeloop.learning.scoring import FLAT, LONG, SHORT, correct
from closeloop.models.policy import ForecastsPolicy, MetaPolicy

Abstention = Literal["insufficient_data", "low_confidence", "shadow_mode"]

_HOUR_US: Final = 3_600_000_000
_DIRECTIONS: Final = (LONG, SHORT, FLAT)


@dataclass(frozen=True)
class History:
    """Long, short and flat forecasts of one asset and horizon, an array each, in any order.

    ``return_pct`` is NaN where a forecast is not resolved: it still shows where its producer stood.
    """

    producer: NDArray[np.int64]
    issued_at: NDArray[np.int64]
    target_at: NDArray[np.int64]
    action: NDArray[np.int8]
    return_pct: NDArray[np.float64]


@dataclass(frozen=True)
class Emission:
    """What the meta-producer says of one asset and horizon, or why it abstains.

    ``direction`` (a code) was realised in ``k`` of ``n`` episodes, ``share`` = k/n with the Wilson 95 % lower bound
    ``wilson_low``, against ``base_rate`` over the whole history; ``confidence`` = (k + 1)/(n + 2) (Laplace's rule).
    None where there are no episodes. ``abstention`` None: emitted. With ``shadow_mode`` it would have been emitted.
    """

    direction: int | None
    k: int
    n: int
    share: float | None
    wilson_low: float | None
    base_rate: float | None
    confidence: float | None
    abstention: Abstention | None


def state(history: History, as_of: int, meta: MetaPolicy, *, itself: int | None = None) -> dict[int, int]:
    """The action of each producer's latest forecast issued in ``(as_of - state_hours, as_of]``, by producer.

    ``itself``, the meta-producer's code, is left out. Of two forecasts of one instant the later in the arrays counts.
    """
    seen = (history.issued_at <= as_of) & (history.issued_at > as_of - _state_us(meta))
    order = np.flatnonzero(seen)
    order = order[np.argsort(history.issued_at[order], kind="stable")]
    latest = dict(zip(history.producer[order].tolist(), history.action[order].tolist(), strict=True))
    return {producer: action for producer, action in latest.items() if producer != itself}


def emission(
    history: History,
    state: Mapping[int, int],
    as_of: int,
    horizon_us: int,
    outcomes_of_book: int,
    meta: MetaPolicy,
    forecasts: ForecastsPolicy,
    *,
    itself: int | None = None,
    shadow: bool = True,
) -> Emission:
    """What followed, in the history that had elapsed by ``as_of``, when every producer of ``state`` stood as it does.

    An episode is an instant of issue at which the latest forecast of each producer of the state, at most
    ``state_hours`` old, took the same action; others may have said anything. Episodes are taken from the earliest on,
    each at least max(``state_hours``, horizon) after the one before. A direction is realised where a forecast of it
    would have been scored as right, so that the confidence means what it is scored on; ties go to long, then short,
    then flat. The base rate counts every resolved instant of the history once, however many producers spoke then.
    ``outcomes_of_book`` counts the resolved outcomes of the book, of any asset and horizon.

    Emitted with at least ``min_outcomes`` in all, ``min_episodes``, a share of ``min_share``, and a Wilson lower bound
    above the base rate. An empty state abstains for insufficient data.
    """
    state = {producer: action for producer, action in state.items() if producer != itself}
    mine = np.zeros(len(history.producer), np.bool_) if itself is None else history.producer == itself
    state_us = _state_us(meta)
    resolved = np.flatnonzero((history.target_at <= as_of) & ~np.isnan(history.return_pct) & ~mine)
    # Forecasts of one instant, asset and horizon have one return: any of them stands for the instant.
    instants, first = np.unique(history.issued_at[resolved], return_index=True)
    returns = history.return_pct[resolved[first]]
    realised = np.stack([correct(np.full(len(returns), d, np.int8), returns, forecasts) for d in _DIRECTIONS])
    episodes = _spaced(instants, _match_state(history, state, instants, state_us), max(state_us, horizon_us))
    n = len(episodes)
    if n == 0 or not state:
        return Emission(None, 0, 0, None, None, None, None, "insufficient_data")
    hits = realised[:, episodes].sum(axis=1)
    best = int(np.argmax(hits))
    k = int(hits[best])
    interval = wilson_interval(k, n)
    low = interval[0] if interval else 0.0
    base_rate = float(realised[best].mean())
    abstention: Abstention | None = "shadow_mode" if shadow else None
    if outcomes_of_book < meta.min_outcomes or n < meta.min_episodes:
        abstention = "insufficient_data"
    elif k / n < meta.min_share or low <= base_rate:
        abstention = "low_confidence"
    return Emission(_DIRECTIONS[best], k, n, k / n, low, base_rate, (k + 1) / (n + 2), abstention)


def _state_us(meta: MetaPolicy) -> int:
    return round(meta.state_hours * _HOUR_US)


def _match_state(
    history: History, state: Mapping[int, int], instants: NDArray[np.int64], state_us: int
) -> NDArray[np.bool_]:
    """At which of the instants (n,) the latest forecast of every producer of the state had the action of the state."""
    matched = np.ones(len(instants), np.bool_)
    for producer, action in state.items():
        own = np.flatnonzero(history.producer == producer)
        own = own[np.argsort(history.issued_at[own], kind="stable")]
        times = history.issued_at[own]
        last = np.searchsorted(times, instants, side="right") - 1
        spoke = last >= 0
        last, at = last[spoke], instants[spoke]
        matched[~spoke] = False
        matched[spoke] &= (at - times[last] < state_us) & (history.action[own[last]] == action)
    return matched


def _spaced(instants: NDArray[np.int64], chosen: NDArray[np.bool_], distance: int) -> list[int]:
    """Positions of chosen instants, from the earliest on, each at least ``distance`` after the one before."""
    places = np.flatnonzero(chosen).tolist()
    times = instants[places].tolist()
    episodes = []
    at = 0
    while at < len(times):
        episodes.append(places[at])
        at = bisect_left(times, times[at] + distance, at + 1)
    return episodes
