"""Edge score of a lesson: its effect, weighed by how it came about and by how much of it is left."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning.mining import Group
from models.policy import LearningPolicy


@dataclass(frozen=True)
class Factors:
    """A value in [0, 1] for each meta-factor (of a lesson), or its weight (of a regime; the four sum to 1)."""

    time_efficiency: float
    field_coherence: float
    recurrence: float
    variance: float


EQUAL_WEIGHTS = Factors(0.25, 0.25, 0.25, 0.25)


def regime_signature(scope: Mapping[str, str]) -> str:
    """Such as ``macro=S3|meso=S1|bucket_rank=1`` (seed 004 §1.5); what is absent is left out, nothing known is "".

    ``macro`` and ``meso`` are those of BTC, ``bucket_rank`` is bucket_rank_position.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class RegimeWeights:
    """What was learned of the factors under a regime signature from ``n`` trades with mean ``avg_rr`` (R)."""

    signature: str
    n: int
    avg_rr: float
    weights: Factors


def regime_weights(group: Group, policy: LearningPolicy) -> list[RegimeWeights]:
    """Weights of the factors for every regime signature of the group with enough trades, by signature."""
    raise NotImplementedError


def factors(group: Group, rows: NDArray[np.int64]) -> Factors:
    """The four factors of the lesson with these trades of the group."""
    raise NotImplementedError


def weights_of(group: Group, rows: NDArray[np.int64], learned: Iterable[RegimeWeights]) -> Factors:
    """Weights for a lesson: the mean over its trades of their regimes' weights, equal ones where none were learned."""
    raise NotImplementedError


def edge_score(
    factors: Factors, weights: Factors, effect: float, half_life_hours: float | None, hours_since_newest: float
) -> float:
    """Seed 004 §1.7 with the effect for the raw edge: (sum of weight x factor) x effect x decay multiplier (R)."""
    raise NotImplementedError
