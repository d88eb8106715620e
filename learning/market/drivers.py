"""What the evidence says of the weights of the market's drivers (docs/algorithms.md, section 17).

A driver's weight says how much its states move A. Where a state of one of its timeframes is told from noise, it is
asked whether trades did better in the states in which A is higher. Where that is so on one of them and the reverse on
none, its weight goes up a step; where the reverse, down one; otherwise it stays.
"""

import math
from collections.abc import Mapping, Sequence

from closeloop.models.market import Timeframe
from closeloop.models.market_drivers import NO_CHANGE, DriverChange, SeriesSaid, StateSaid
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
        if told:
            covariance, error = _covariance(series, weight, levers)
            low, high = covariance - error, covariance + error
            said.append(SeriesSaid(timeframe=timeframe, covariance=covariance, low=low, high=high, states=told))
    agree = [str(each.timeframe) for each in said if each.low > 0.0]
    against = [str(each.timeframe) for each in said if each.high < 0.0]
    step = numbers.factor_step * (bool(agree) - bool(against))
    if not said:
        reason = "none of its states is told from noise"
    elif not agree and not against:
        reason = "whether trades went with A can be noise"
    else:
        words = ((agree, "with A"), (against, "against A"))
        reason = "trades went " + ", ".join(f"{' and '.join(names)} {word}" for names, word in words if names)
    low, high = NO_CHANGE - numbers.factor_range, NO_CHANGE + numbers.factor_range
    after = round(min(max(before + step, low), high), 12) if step else before
    if step and after == before:
        reason += "; its factor is at its limit"
    return DriverChange(driver=driver, before=before, after=after, reason=reason, series=said)


def _covariance(series: Sequence[StateWorth], weight: float, levers: LeversPolicy) -> tuple[float, float]:
    """Of a driver's points for A and R over the trades of a series, by the states whose interval is known; and how far
    its 95 % interval reaches to either side.

    It is a contrast of the states' means: Σ w (x - x̄) m over states with the share w of trades, x points and the mean m
    of R. A mean's interval is taken to be as wide as that of the state's effect, which is wider, and the means to be
    independent.
    """
    known = [
        (each.n, weight * levers.state_deltas[each.state][0], each.effect * each.n_other / (each.n + each.n_other),
         (each.high - each.low) / 2)
        for each in series
        if each.effect is not None and each.low is not None and each.high is not None
    ]  # fmt: skip
    n = sum(trades for trades, *_ in known)
    mean = math.fsum(trades * points for trades, points, *_ in known) / n
    shares = [(trades / n * (points - mean), r, half) for trades, points, r, half in known]
    return math.fsum(share * r for share, r, _ in shares), math.hypot(*(share * half for share, _, half in shares))
