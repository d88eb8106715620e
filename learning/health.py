"""Producer health: is a producer alive, and how often does it fail? From its heartbeats of the last days.

Its lifetime is shown beside and moves nothing: 100,000 successes of last year would hide that all fails today. The
score is cautious in two ways: it starts from the lower end of the success rate's interval, and it falls when the last
success is longer ago than allowed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from closeloop.learning.intervals import wilson_interval
from closeloop.models.policy import ProducersPolicy

HealthState = Literal["unknown", "healthy", "failing", "stale"]


@dataclass(frozen=True)
class Health:
    """What the heartbeats of a producer within the window say.

    ``error_rate`` is the share of failures with its Wilson 95 % interval; ``staleness_minutes`` the time since the last
    success, be it before the window; ``freshness`` 1 while that is at most the allowed time, then falling as allowed
    time / staleness, and 0 without any success. ``score`` = (1 - ``error_high``) * ``freshness`` in [0, 1]. On fewer
    observations than are needed it is None and the state ``unknown``: nothing is adjusted on so little. ``failing`` is
    one whose ``error_low`` is above the allowed share, ``stale`` one silent for longer than allowed, however little it
    said within the window. ``reason`` says why, in words.
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
    """Health of a producer at ``as_of`` from its heartbeats within the window that ends then.

    ``last_success_at`` may be before the window. A success stamped after ``as_of`` (a clock that runs ahead) counts as
    one of this moment. Raises ValueError for negative counts, and where the time of a success is missing.
    """
    if successes < 0 or failures < 0:
        raise ValueError(f"heartbeats cannot be negative: {successes} successes, {failures} failures")
    if successes > 0 and last_success_at is None:
        raise ValueError(f"{successes} successes, and no time of the last one")
    observations, days = successes + failures, producers.health_window_days
    interval = wilson_interval(failures, observations)
    error_low, error_high = interval if interval else (None, None)
    staleness, freshness, allowed = None, 0.0, producers.health_stale_minutes
    if last_success_at is not None:
        staleness = max(0.0, (as_of - last_success_at).total_seconds() / 60)
        freshness = 1.0 if staleness <= allowed else allowed / staleness
    state: HealthState
    score = None
    silent = "no success on record" if staleness is None else f"last success {staleness:.0f} min ago"
    if observations < producers.health_min_observations or error_low is None or error_high is None:
        needed = producers.health_min_observations
        state = "stale" if staleness is not None and freshness < 1.0 else "unknown"
        reason = f"{observations} of the {needed} heartbeats of {days} days that a score needs; {silent}"
    else:
        score = (1 - error_high) * freshness
        failing = error_low > producers.health_failing_share
        state = "failing" if failing else "healthy" if freshness == 1.0 else "stale"
        reason = f"{failures} of {observations} heartbeats of {days} days failed; {silent}"
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
