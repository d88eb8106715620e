"""Edge score of a lesson: its effect, discounted by how it came about and by how much of it is left.

There are four factors. Each is defined for a single trade of a set of trades (a lesson's, or those of a
regime), in [0, 1], and for the set as the mean over its trades:

- ``time_efficiency``, how quickly a trade is over: m / (m + h) with h the hours that it was held and m the median of
  the group; 1/2 is as quick as the group. 1/2 where both are 0.
- ``field_coherence``, how alike tokens do: of the set's trades in *other* symbols that were entered on the same UTC
  day, the share that did as this one (won or not). 1/2 where there are none.
- ``recurrence``, how soon the pattern comes again: 1 / (1 + days since the trade entered before it in the set); 0 of
  the first.
- ``variance``, how steady it is: s^2 / (s^2 + (rr - mean of the set)^2) with s^2 the variance of the group; 1 where rr
  is the mean.

Which of them matter is learned for each regime signature (:func:`closeloop.learning.scope.regime_signature`): a factor
that goes with the R of the trades of a signature weighs more for these.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.correlation import pearson
from closeloop.learning.trades import Floats, Group, Ints
from closeloop.models.policy import EdgePolicy


@dataclass(frozen=True)
class Factors:
    """The value in [0, 1] of each factor of a lesson, or its weight under a regime signature (the four sum to 1)."""

    time_efficiency: float
    field_coherence: float
    recurrence: float
    variance: float


EQUAL_WEIGHTS = Factors(0.25, 0.25, 0.25, 0.25)


@dataclass(frozen=True)
class SignatureWeights:
    """What was learned of the factors under a regime signature from ``n`` trades with mean ``avg_rr`` (R)."""

    signature: str
    n: int
    avg_rr: float
    weights: Factors


def signature_weights(group: Group, edge: EdgePolicy) -> list[SignatureWeights]:
    """Weights of the factors for every regime signature of the group with enough trades, by signature.

    A factor's weight is ``(1 + r n / (n + shrink_trades)) / (sum over the factors)``, r its Pearson correlation with rr
    over the n trades (0 where undefined): equal where nothing is known, none where a factor is sure to go with losses.
    """
    learned = []
    signatures = group.signatures
    ends = np.cumsum(np.bincount(signatures.codes, minlength=len(signatures.values)))
    order = np.argsort(signatures.codes, kind="stable")
    for signature, rows in zip(signatures.values, np.split(order, ends)[:-1], strict=True):
        n = len(rows)
        if n < edge.min_samples:
            continue
        rr = group.rr[rows]
        x = _factors_of_trades(group, rows)
        r = np.nan_to_num([pearson(factor, rr) for factor in x.T])
        raw = 1.0 + r * n / (n + edge.shrink_trades)
        learned.append(SignatureWeights(signature, n, float(rr.mean()), Factors(*(raw / raw.sum()).tolist())))
    return learned


def factors(group: Group, rows: NDArray[np.int64]) -> Factors:
    """The four factors of the lesson with these trades of the group; raises ValueError without trades."""
    if not len(rows):
        raise ValueError("a lesson needs at least one trade")
    return Factors(*_factors_of_trades(group, rows).mean(axis=0).tolist())


def weights_of(group: Group, rows: NDArray[np.int64], learned: Iterable[SignatureWeights]) -> Factors:
    """Weights for a lesson: the mean over its trades of their signatures' weights, equal ones where none are known."""
    if not len(rows):
        return EQUAL_WEIGHTS
    known = {each.signature: each.weights for each in learned}
    weights = np.array([astuple(known.get(signature, EQUAL_WEIGHTS)) for signature in group.signatures.values])
    counts = np.bincount(group.signatures.codes[rows], minlength=len(weights))
    mean = (weights * counts[:, None]).sum(axis=0) / len(rows)
    return Factors(*(mean / mean.sum()).tolist())


def edge_score(
    factors: Factors, weights: Factors, effect: float, half_life_hours: float | None, hours_since_newest: float
) -> float:
    """(Sum of weight x factor) x effect x decay multiplier, in R.

    The decay multiplier is ``2^(-hours since the lesson's newest trade / half-life)``, 1 where no decay was seen.

    >>> edge_score(Factors(0.5, 0.5, 1.0, 1.0), EQUAL_WEIGHTS, 1.0, 48.0, 48.0)
    0.375
    """
    weighed = sum(f * w for f, w in zip(astuple(factors), astuple(weights), strict=True))
    decay = 1.0 if half_life_hours is None else 2.0 ** (-max(hours_since_newest, 0.0) / half_life_hours)
    return float(weighed * effect * decay)


def _factors_of_trades(group: Group, rows: Ints) -> Floats:
    """(n, 4): the factors of each trade of a set."""
    rr, held, entered = group.rr[rows], group.held_hours[rows], group.entered_at[rows]
    median = group.median_hours
    both = median + held
    time_efficiency = np.where(both > 0, median / np.where(both > 0, both, 1.0), 0.5)

    won, symbol = rr > 0, group.symbols.codes[rows].astype(np.int64)
    day = np.unique(group.days[rows], return_inverse=True)[1]
    _, token = np.unique(day * len(group.symbols.values) + symbol, return_inverse=True)
    others = np.bincount(day)[day] - np.bincount(token)[token]
    winners = np.bincount(day, won)[day] - np.bincount(token, won)[token]
    alike = np.where(won, winners, others - winners)
    field_coherence = np.where(others > 0, alike / np.maximum(others, 1), 0.5)

    order = np.argsort(entered, kind="stable")
    recurrence = np.zeros(len(rows))
    recurrence[order[1:]] = 1.0 / (1.0 + np.diff(entered[order]) / 86_400.0)

    of_group = group.variance
    total = of_group + np.square(rr - rr.mean())
    variance = np.where(total > 0, of_group / np.where(total > 0, total, 1.0), 1.0)
    return np.column_stack((time_efficiency, field_coherence, recurrence, variance))
