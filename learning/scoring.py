"""Was a forecast right, and how good was its confidence? Proper scores of single forecasts, over arrays.

Actions are codes: :data:`LONG`, :data:`SHORT`, :data:`FLAT`. An abstention has no code: it is counted, never scored.
"""

from collections.abc import Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, localcontext
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closeloop.models.policy import ForecastsPolicy

LONG: Final = 1
SHORT: Final = -1
FLAT: Final = 0
ACTION_CODES: Final = {"long": LONG, "short": SHORT, "flat": FLAT}

# Sums and products of decimals have as many digits as they need; a quotient is rounded where it is made.
_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)

LOG_SCORE_CLIP: Final = 1e-6
"""A confidence of 0 or 1 that is wrong costs -ln(1e-6) = 13.8, not infinity: one outcome must not decide a mean."""


def returns_pct(p_issue: Sequence[Decimal], p_target: Sequence[Decimal]) -> NDArray[np.float64]:
    """Change of the price from issue to target in percent (5 means 5 %), rounded from the exact value.

    >>> returns_pct([Decimal("40.0")], [Decimal("40.1")]).tolist()
    [0.25]
    """
    with localcontext(_EXACT) as context:
        changes = [100 * (target - issue) for issue, target in zip(p_issue, p_target, strict=True)]
        context.prec = 50
        return np.array([float(c / issue) for c, issue in zip(changes, p_issue, strict=True)], dtype=np.float64)


def correct_by_prices(
    action: NDArray[np.int8], p_issue: Sequence[Decimal], p_target: Sequence[Decimal], forecasts: ForecastsPolicy
) -> NDArray[np.bool_]:
    """As :func:`correct`, decided by the prices themselves, without a rounding: 0.25 % exactly is within 0.25 %.

    >>> correct_by_prices(np.array([FLAT, FLAT], np.int8), [Decimal("40.0")] * 2, [Decimal("40.1"), Decimal("40.11")],
    ...                   ForecastsPolicy()).tolist()
    [True, False]
    """
    with localcontext(_EXACT):
        band = Decimal(repr(forecasts.flat_band_pct))
        right = [
            100 * abs(target - issue) <= band * abs(issue) if said == FLAT else said * (target - issue) * issue > 0
            for said, issue, target in zip(action.tolist(), p_issue, p_target, strict=True)
        ]
    return np.array(right, dtype=np.bool_)


def correct(action: NDArray[np.int8], return_pct: NDArray[np.float64], forecasts: ForecastsPolicy) -> NDArray[np.bool_]:
    """Whether each action was right: long above 0, short below 0, flat within the policy's band (percent, inclusive).

    A small rise makes both long and flat right; no change makes only flat right.

    >>> action, return_pct = np.array([LONG, SHORT, FLAT, FLAT], np.int8), np.array([0.1, 0.1, 0.1, 0.3])
    >>> correct(action, return_pct, ForecastsPolicy()).tolist()
    [True, False, True, False]
    """
    return np.where(action == FLAT, np.abs(return_pct) <= forecasts.flat_band_pct, action * return_pct > 0)


def brier(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Brier score of each forecast (Brier 1950), ``(confidence - correct)**2``: 0 is best, 1 is worst.

    >>> brier(np.array([0.75]), np.array([True])).tolist()
    [0.0625]
    """
    return (confidence - correct) ** 2


def log_score(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Logarithmic score of each forecast (Good 1952): -ln of the probability given to what happened, in nats.

    The confidence is clipped to [1e-6, 1 - 1e-6] first.

    >>> log_score(np.array([0.5, 1.0]), np.array([True, False])).round(4).tolist()
    [0.6931, 13.8155]
    """
    clipped = np.clip(confidence, LOG_SCORE_CLIP, 1 - LOG_SCORE_CLIP)
    return -np.where(correct, np.log(clipped), np.log1p(-clipped))
