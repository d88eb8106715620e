"""Producer health: is a producer alive, and how often does it fail? From its heartbeats.

The score is cautious in two ways: it starts from the lower end of the success rate's interval, and it falls when the
last success is longer ago than allowed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from closeloop.learning.intervals import wilson_interval
from closeloop.models.policy import ProducersPolicy

HealthState = Literal["unknown", "healthy", "stale"]


@dataclass(frozen=True)
class Health:
    """What the heartbeats of a producer say.

    ``error_rate`` is the share of failures with its Wilson 95 % interval; ``staleness_minutes`` the time since the last
    success; ``freshness`` 1 while that is at most the allowed time, then falling as allowed time / staleness, and 0
    without any success. ``score`` = (1 - ``error_high``) * ``freshness`` in [0, 1]. On fewer observations than are
    needed it is None and the state ``unknown``: nothing is adjusted on so little. ``stale`` is a producer silent for
    longer than allowed. ``reason`` says why, in words.
    """

    state: HealthState
    observations: int
    error_rate: float | None
    error_low: float | None
    error_high: float | None
    staleness_minutes: float | None
    freshness: float
    score: float | None
    reason: str


def assess(
    successes: int,
    failures: int,
    last_success_at: datetime | None,
    as_of: datetime,
    producers: ProducersPolicy,
) -> Health:
    """Health of a producer at ``as_of`` from its heartbeats until then.

    A success stamped after ``as_of`` (a clock that runs ahead) counts as one of this moment. Raises ValueError for
    negative counts, and where the time of the last success is missing or has no success to belong to.
    """
    if successes < 0 or failures < 0:
        raise ValueError(f"heartbeats cannot be negative: {successes} successes, {failures} failures")
    if (successes > 0) != (last_success_at is not None):
        raise ValueError(f"{successes} successes, the last at {last_success_at}: one of the two is wrong")
    observations = successes + failures
    interval = wilson_interval(failures, observations)
    error_low, error_high = interval if interval else (None, None)
    staleness, freshness, allowed = None, 0.0, producers.health_stale_minutes
    if last_success_at is not None:
        staleness = max(0.0, (as_of - last_success_at).total_seconds() / 60)
        freshness = 1.0 if staleness <= allowed else allowed / staleness
    state: HealthState
    score = None
    if observations < producers.health_min_observations or error_high is None:
        needed = producers.health_min_observations
        state, reason = "unknown", f"{observations} of the {needed} heartbeats that a score needs"
    else:
        score = (1 - error_high) * freshness
        state = "healthy" if freshness == 1.0 else "stale"
        silent = "no success yet" if staleness is None else f"last success {staleness:.0f} min ago"
        reason = f"{failures} of {observations} heartbeats failed; {silent}"
    return Health(
        state=state,
        observations=observations,
        error_rate=failures / observations if observations else None,
        error_low=error_low,
        error_high=error_high,
        staleness_minutes=staleness,
        freshness=freshness,
        score=score,
        reason=reason,
    )
