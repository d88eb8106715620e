"""Agreement: how often two producers say the same thing, and who was right when they did not."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.intervals import wilson_intervals
from closeloop.models.policy import ProducersPolicy

_HOUR_US: Final = 3_600_000_000

PAIR_COLUMNS: Final = (
    "samples",
    "agreed",
    "agreed_correct_first",
    "agreed_correct_second",
    "disagreed_correct_first",
    "disagreed_correct_second",
)
"""What is counted of a pair of producers, over blocks; all of it adds up over days."""


@dataclass(frozen=True)
class Agreement:
    """Rates of r pairs with Wilson 95 % intervals, an array (r,) each, NaN where undefined or on too few samples.

    ``hit_agreed``: share right when both said the same, over both producers' own outcomes (they were issued at
    different times of the block, so they may differ); ``hit_*_disagreed``: of each when they did not.
    """

    samples: NDArray[np.int64]
    agreement: NDArray[np.float64]
    agreement_low: NDArray[np.float64]
    agreement_high: NDArray[np.float64]
    hit_agreed: NDArray[np.float64]
    hit_agreed_low: NDArray[np.float64]
    hit_agreed_high: NDArray[np.float64]
    hit_first_disagreed: NDArray[np.float64]
    hit_first_disagreed_low: NDArray[np.float64]
    hit_first_disagreed_high: NDArray[np.float64]
    hit_second_disagreed: NDArray[np.float64]
    hit_second_disagreed_low: NDArray[np.float64]
    hit_second_disagreed_high: NDArray[np.float64]


def agreement(
    counts: NDArray[np.int64],
    horizon_us: NDArray[np.int64],
    producers: ProducersPolicy,
) -> Agreement:
    """Rates from counts (r, len(PAIR_COLUMNS)), which may be sums over days, of pairs with these horizons.

    Blocks shorter than the horizon overlap: intervals count only block / horizon of them. A block in which both were
    right counts once, not twice.
    """
    samples, agreed, first_agreed, second_agreed, first_disagreed, second_disagreed = counts.T
    disagreed = samples - agreed
    apart = np.minimum(1.0, producers.agreement_block_hours * _HOUR_US / horizon_us)

    def rate(
        hits: NDArray[np.float64], of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = np.where(of >= producers.min_outcomes, hits / of, np.nan)
        return rates, *wilson_intervals(rates, np.maximum(1.0, np.floor(of * apart)))

    return Agreement(
        samples,
        *rate(agreed.astype(np.float64), samples),
        *rate((first_agreed + second_agreed) / 2, agreed),
        *rate(first_disagreed.astype(np.float64), disagreed),
        *rate(second_disagreed.astype(np.float64), disagreed),
    )
