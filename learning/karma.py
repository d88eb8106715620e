"""Karma: an exponential moving average of a producer's outcomes."""

from collections.abc import Iterable


def karma_step(karma: float, outcome: int, alpha: float) -> float:
    """One step: ``(1 - alpha) * karma + alpha * outcome``, with outcome +1 or -1 (seed 002, section 3b).

    >>> karma_step(1.0, -1, 0.05)
    0.8999999999999999
    """
    return (1.0 - alpha) * karma + alpha * outcome


def karma_of(outcomes: Iterable[int], start: float, alpha: float) -> float:
    """Karma after these outcomes, oldest first: the order matters.

    >>> karma_of([1, 1, -1], start=1.0, alpha=0.05)
    0.8999999999999999
    """
    karma = start
    for outcome in outcomes:
        karma = karma_step(karma, outcome, alpha)
    return karma
