"""Lessons: what is known of the trades that meet some conditions, against those that do not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from closeloop.learning.candidates import INTERVAL_LEVEL, ROUNDING_SHARE, CandidateTests
from closeloop.learning.intervals import t_half_width
from closeloop.learning.significance import student_p
from closeloop.learning.trades import Group
from closeloop.models.lessons import LessonStatus
from closeloop.models.luck import LessonEvidence
from closeloop.models.policy import MiningPolicy


@dataclass(frozen=True)
class Lesson:
    """What is known of the trades that satisfy ``conditions`` (``Group.rows`` names them); all in R.

    ``n``, ``avg_rr``, ``variance`` (n - 1; None for one trade), ``win_rate`` (share of rr > 0) and ``edge_raw``
    (avg_rr - baseline) describe the trades inside. ``effect`` is the conditional difference to the trades outside with
    its 95 % interval, ``p`` and ``q`` belong to it: as at its acceptance, or, of a shadow, given everything that was
    accepted (None where nothing comparable is left; no interval where too few periods or symbols tell of luck).
    ``explained_by``: conditions of the accepted lesson of the same group that explains a shadow; None of a shadow that
    fell out as the family of tests changed.

    The baseline of a group has no conditions; its effect is its edge, its p that of Student's t test; it has no q.
    ``evidence``: of shadows None, as there are thousands.
    """

    pattern_key: str
    action_category: str
    conditions: Mapping[str, str]
    status: LessonStatus
    n: int
    avg_rr: float
    variance: float | None
    win_rate: float
    edge_raw: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    p: float
    q: float | None
    explained_by: Mapping[str, str] | None
    evidence: LessonEvidence | None


def baseline_lesson(group: Group, mining: MiningPolicy, evidence: LessonEvidence) -> Lesson:
    """All trades of the group against the policy's baseline: Student's t test of one sample."""
    average = float(group.rr.mean())
    edge = average - mining.baseline_rr
    p, half_width = 1.0, None
    if group.n > 1:
        error = math.sqrt(group.variance / group.n)
        half_width = float(t_half_width(error, group.n - 1, INTERVAL_LEVEL))
        t = abs(edge) / error if error > 0 else math.inf if edge else 0.0
        p = float(student_p(t, group.n - 1))
    return Lesson(
        pattern_key=group.pattern_key,
        action_category=group.action_category,
        conditions={},
        status=LessonStatus.baseline,
        n=group.n,
        avg_rr=average,
        variance=group.variance if group.n > 1 else None,
        win_rate=float((group.rr > 0).mean()),
        edge_raw=edge,
        effect=edge,
        effect_low=None if half_width is None else edge - half_width,
        effect_high=None if half_width is None else edge + half_width,
        p=p,
        q=None,
        explained_by=None,
        evidence=evidence,
    )


def candidate_lesson(
    tests: CandidateTests,
    candidate: int,
    status: LessonStatus,
    q: float,
    explained_by: Mapping[str, str] | None = None,
    evidence: LessonEvidence | None = None,
) -> Lesson:
    """A candidate as its tests have it now."""
    cube = tests.cube
    n, total, squares = (float(each) for each in tests.sums[:, candidate])
    deviations = squares - total * total / n
    average = tests.middle + total / n
    effect, half_width = float(tests.effect[candidate]), float(tests.half_width[candidate])
    compared = not math.isnan(effect)
    return Lesson(
        pattern_key=cube.group.pattern_key,
        action_category=cube.group.action_category,
        conditions=cube.named(candidate),
        status=status,
        n=int(n),
        avg_rr=average,
        variance=deviations / (n - 1) if deviations > ROUNDING_SHARE * squares else 0.0,
        win_rate=float(cube.wins[candidate]) / n,
        edge_raw=average - tests.mining.baseline_rr,
        effect=effect if compared else None,
        effect_low=effect - half_width if math.isfinite(half_width) else None,
        effect_high=effect + half_width if math.isfinite(half_width) else None,
        p=float(tests.p[candidate]),
        q=q,
        explained_by=explained_by,
        evidence=evidence,
    )
