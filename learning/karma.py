"""Karma: an exponential moving average of a producer's outcomes."""

from closeloop.models.policy import KarmaPolicy


def karma_step(before: float, outcome: int, karma: KarmaPolicy) -> float:
    """One step: ``(1 - alpha) * before + alpha * outcome``, with outcome +1 or -1 (an EWMA; Roberts 1959).

    >>> karma_step(1.0, -1, KarmaPolicy(alpha=0.05))
    0.8999999999999999
    """
    return (1.0 - karma.alpha) * before + karma.alpha * outcome
