"""What the evidence says of the weights of the market's drivers (docs/algorithms.md, section 17).

A driver's weight says how much its states move A. Where a state of one of its timeframes is told from noise, it is
asked whether trades did better in the states in which A is higher. If so on all such timeframes of a driver, its weight
goes up a step, if on none, down one, and otherwise it stays.
"""

import math
from collections.abc import Mapping, Sequence

from closeloop.models.market import Timeframe
from closeloop.models.market_drivers import NO_CHANGE, DriverChange, DriverStep, SeriesSaid, StateSaid
from closeloop.models.market_policy import LeversPolicy, WorthPolicy
from closeloop.models.market_worth import StateWorth


def level(counted: int, numbers: WorthPolicy) -> float:
    """The highest q that is believed at a look at so many trades (probability).

    Evidence is looked at again and again as it grows, and each look is a chance to believe noise. ``max_q`` is spent
    over all of them: 1 / (d (d + 1)) of it while trades double for the d-th time from the first look, which sums to 1.

    >>> [round(0.05 / level(n, WorthPolicy())) for n in (66, 131, 132, 5_000)]
    [2, 2, 6, 56]
    """
    doublings = 1 + max(0, math.floor(math.log2(counted / (2 * numbers.min_trades)))) if counted else 1
    return numbers.max_q / (doublings * (doublings + 1))


def proposed(
    states: Sequence[StateWorth],
    counted: int,
    before: Mapping[str, float],
    levers: LeversPolicy,
    numbers: WorthPolicy,
) -> list[DriverChange]:
    """What the evidence says of each driver of the policy, in its order.

    ``states``: what each has been worth on ``counted`` trades; ``before``: the factors in force by driver, where one is
    missing it is 1. A factor moves by ``numbers.factor_step`` at most ``numbers.factor_range`` away from 1, so that
    nothing that trades said turns a driver around or switches it off.
    """
    return [
        _of_driver(driver, weight, states, level(counted, numbers), before.get(driver, NO_CHANGE), levers, numbers)
        for driver, weight in levers.driver_weights.items()
    ]


def _of_driver(
    driver: str,
    weight: float,
    states: Sequence[StateWorth],
    max_q: float,
    before: float,
    levers: LeversPolicy,
    numbers: WorthPolicy,
) -> DriverChange:
    said = []
    for timeframe in Timeframe:
        series = [each for each in states if (each.driver, each.timeframe) == (driver, timeframe)]
        told = [
            StateSaid(state=each.state, effect=each.effect, low=each.low, high=each.high, q=each.q)
            for each in series
            if each.effect is not None and each.low is not None and each.high is not None
            if each.q is not None and each.q <= max_q
        ]
        covariance = weight * _covariance(series, levers)
        if told and covariance:
            said.append(SeriesSaid(timeframe=timeframe, covariance=covariance, states=told))
    agree = [str(each.timeframe) for each in said if each.covariance > 0.0]
    against = [str(each.timeframe) for each in said if each.covariance < 0.0]
    reasons = [f"{' and '.join(names)} {word}" for names, word in ((agree, "with A"), (against, "against A")) if names]
    reason = "trades went " + ", ".join(reasons) if said else "none of its states is told from noise"
    step = DriverStep.kept if bool(agree) == bool(against) else DriverStep.up if agree else DriverStep.down
    to = {DriverStep.up: 1, DriverStep.down: -1, DriverStep.kept: 0}[step] * numbers.factor_step
    low, high = NO_CHANGE - numbers.factor_range, NO_CHANGE + numbers.factor_range
    after = before if not to else round(min(max(before + to, low), high), 12)
    if to and after == before:
        step, reason = DriverStep.kept, f"{reason}; its factor is at its limit"
    return DriverChange(driver=driver, before=before, after=after, step=step, reason=reason, series=said)


def _covariance(series: Sequence[StateWorth], levers: LeversPolicy) -> float:
    """Of points for A and R over the trades of a series, by the states of which something can be said.

    A state's mean R less that of all is its effect times the share of trades in the others.
    """
    known = [(each, each.effect) for each in series if each.effect is not None]
    n = sum(each.n for each, _ in known)
    if not n:
        return 0.0
    points = [levers.state_deltas[each.state][0] for each, _ in known]
    mean = math.fsum(each.n * point for (each, _), point in zip(known, points, strict=True)) / n
    return math.fsum(
        each.n / n * (point - mean) * effect * each.n_other / (each.n + each.n_other)
        for (each, effect), point in zip(known, points, strict=True)
    )
