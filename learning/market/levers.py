"""Levers: how aggressive to be (A) and how ready to leave (E), from the states of the market (docs/algorithms.md,
section 14).

The regime of a bucket and a traded timeframe is the same for every token: it is made once (:func:`regime_of`), and what
is a token's own is added to it (:func:`levers_in`).
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from closeloop.models.market import BUCKETS, Driver, Flag, MarketState, Timeframe
from closeloop.models.market_levers import BucketContext, ContextSource, Contribution, Levers, Pair, Part
from closeloop.models.market_policy import LeversPolicy

NEUTRAL = 0.5
"""A and E where nothing is known."""
_TIMEFRAMES = (Timeframe.d1, Timeframe.h1, Timeframe.m1)


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The state of a driver on a timeframe: of its newest closed bar, and the state of the bar before it."""

    driver: Driver
    timeframe: Timeframe
    state: MarketState
    prev_state: MarketState | None = None
    flags: frozenset[Flag] = frozenset()


@dataclass(frozen=True)
class Regime:
    """What the drivers say to all tokens of a bucket that are traded on a timeframe."""

    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...]
    total: Pair
    da: tuple[float, ...]
    de: tuple[float, ...]


def levers(
    states: Iterable[ChannelState],
    bucket: str | None,
    timeframe: str,
    intent: Mapping[str, float],
    context: BucketContext | None,
    policy: LeversPolicy,
) -> Levers:
    """A and E of a token in ``bucket`` (None: in none) that is traded on ``timeframe``.

    ``intent``: metrics in [0, 1] by name; ``context``: how the bucket does, if known. Raises ValueError for a bucket,
    timeframe or metric that there is not, a metric outside [0, 1], and a channel that comes twice.

    >>> states = [ChannelState(Driver.btc, Timeframe.d1, MarketState.s3)]
    >>> found = levers(states, "nano", "1h", {"hi_buy": 0.4}, None, LeversPolicy())
    >>> round(found.A, 12), found.contributions[0].weight, found.missing[:2]
    (0.63, 0.15, ('BTC/1h', 'BTC/1m'))
    """
    return levers_in(regime_of(states, bucket, timeframe, policy), intent, context, policy)


def regime_of(states: Iterable[ChannelState], bucket: str | None, timeframe: str, policy: LeversPolicy) -> Regime:
    """What all tokens of a bucket that are traded on a timeframe share; raises as :func:`levers` does."""
    own = None if bucket is None else Driver(_known("bucket", bucket, BUCKETS))
    execution = policy.execution_weights[_known("timeframe", timeframe, policy.execution_weights)]
    newest: dict[tuple[Driver, Timeframe], ChannelState] = {}
    for each in states:
        if (each.driver, each.timeframe) in newest:
            raise ValueError(f"{each.driver}/{each.timeframe} comes twice among the states: give one of them")
        newest[each.driver, each.timeframe] = each
    contributions, missing = [], []
    for name, driver in (("BTC", Driver.btc), ("ALT", Driver.alt), ("bucket", own), ("BTC.d", Driver.btc_d),
                         ("USDT.d", Driver.usdt_d)):  # fmt: skip
        weight = policy.driver_weights[name]
        for horizon in _TIMEFRAMES:
            state = None if driver is None else newest.get((driver, horizon))
            if state is None:
                missing.append(f"{driver or name.upper()}/{horizon}")
            else:
                strength = weight * policy.timeframe_weights[horizon] * execution[horizon] * policy.regime_strength
                contributions.append(_contribution(state, strength, policy))
    da, de = tuple(each.da for each in contributions), tuple(each.de for each in contributions)
    return Regime(tuple(contributions), tuple(missing), Pair(A=math.fsum(da), E=math.fsum(de)), da, de)


def levers_in(
    regime: Regime,
    intent: Mapping[str, float],
    context: BucketContext | None,
    policy: LeversPolicy,
    source: ContextSource = ContextSource.request,
) -> Levers:
    """A and E of a token in a regime, by its own intent metrics and its bucket, of which ``source`` says how it does;
    raises as :func:`levers` does."""
    da, de = _intent(intent, policy)
    # Summed exactly, so that the contributions as they are shown add up to what is shown.
    a_raw, e_raw = math.fsum((NEUTRAL, da, *regime.da)), math.fsum((NEUTRAL, de, *regime.de))
    m = multiplier(context, policy)
    a = _clamped(_clamped(a_raw) * m)
    return Levers.model_validate(
        {
            "A": a,
            "E": _clamped(_clamped(e_raw) / max(m, policy.min_divisor)),
            "A_raw": a_raw,
            "E_raw": e_raw,
            "position_size_frac": policy.base_size + policy.size_slope * a,
            "regime": regime.total,
            "intent": {"A": da, "E": de},
            "bucket_multiplier": m,
            "context": context,
            "context_source": None if context is None else source,
            "contributions": regime.contributions,
            "missing": regime.missing,
        }
    )


def multiplier(context: BucketContext | None, policy: LeversPolicy) -> float:
    """What a bucket's rank and slope make of A (factor); 1 where they are not known, or not with confidence.

    >>> multiplier(BucketContext(rank=1, slope=0.1, confidence=0.8), LeversPolicy())
    1.1600000000000001
    """
    if context is None or context.confidence is None or context.confidence < policy.min_confidence:
        return 1.0
    ranks = policy.rank_adjustments
    adjustment = ranks[context.rank - 1] if context.rank is not None and context.rank <= len(ranks) else 0.0
    raw = 1.0 + adjustment + policy.slope_weight * (context.slope or 0.0)
    return min(max(raw, policy.min_multiplier), policy.max_multiplier)


def _contribution(channel: ChannelState, weight: float, policy: LeversPolicy) -> Contribution:
    state = channel.state
    named = [(str(state), policy.state_deltas[state])]
    flags = []
    for name, deltas in policy.flag_deltas.items() if channel.flags else ():
        of_state, flag = name.split("+")
        if of_state == state and flag in channel.flags:
            flags.append(Flag(flag))
            named.append((name, deltas))
    fall = f"{channel.prev_state}>{state}"
    transition = fall if fall in policy.transition_deltas else None
    if transition is not None:
        named.append((transition, policy.transition_deltas[transition]))
    return Contribution(
        driver=channel.driver,
        timeframe=channel.timeframe,
        state=state,
        flags=tuple(flags),
        transition=transition,
        weight=weight,
        parts=tuple(Part(name=name, da=da, de=de) for name, (da, de) in named),
        da=math.fsum(da for _, (da, _) in named) * weight,
        de=math.fsum(de for _, (_, de) in named) * weight,
    )


def _intent(intent: Mapping[str, float], policy: LeversPolicy) -> tuple[float, float]:
    da, de = [], []
    for name, value in intent.items():
        deltas = policy.intent_deltas[_known("intent metric", name, policy.intent_deltas)]
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"intent metric {name}: must be in [0, 1], is {value}")
        da.append(value * deltas[0])
        de.append(value * deltas[1])
    cap = policy.intent_cap
    return min(max(math.fsum(da), -cap), cap), min(max(math.fsum(de), -cap), cap)


def _known(what: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        raise ValueError(f"there is no {what} {name!r}: it must be one of {', '.join(names)}")
    return name


def _clamped(x: float) -> float:
    return min(max(x, 0.0), 1.0)
