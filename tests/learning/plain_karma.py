"""Karma in plain Python: nothing of the project's."""

from collections.abc import Iterable


def karma_of(outcomes: Iterable[int], start: float, alpha: float) -> float:
    """Karma after these outcomes (+1 or -1), oldest first."""
    karma = start
    for outcome in outcomes:
        karma = (1.0 - alpha) * karma + alpha * outcome
    return karma
