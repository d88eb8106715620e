"""Mining: which conditions went with better or worse trades, and which of them are more than noise.

What happens to a group: its trades become columns (``trades``); all conjunctions that enough trades meet are found
(``cube``, over the group-bys of ``group_by``) and tested (``candidates``); those that are accepted (``selection``)
become ``lessons``.

Trades are ordered by trade id and candidates by (conditions, dimension, value), so that the same trades give the same
lessons, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from closeloop.learning.candidates import CandidateTests
from closeloop.learning.cube import iceberg_cube
from closeloop.learning.lessons import Lesson, baseline_lesson
from closeloop.learning.selection import Selection
from closeloop.learning.trades import Group
from closeloop.models.policy import MiningPolicy


@dataclass(frozen=True)
class Mined:
    """``lessons``: by group; first the baseline, then the accepted in the order of acceptance, then the shadows by
    conditions. ``candidates``: size of the family, all groups together. ``left_out``: dimensions of each group beyond
    the policy's limit (unknown ones first, then those of fewest trades)."""

    lessons: list[Lesson]
    candidates: int
    left_out: Mapping[tuple[str, str], tuple[str, ...]]


def is_due(trades: int, mined_with: int | None, mining: MiningPolicy) -> bool:
    """Whether a group of that many trades is to be mined (again); ``mined_with``: trades of the last time, if any.

    >>> is_due(109, 100, MiningPolicy()), is_due(110, 100, MiningPolicy())
    (False, True)
    """
    if mined_with is None:
        return True
    new = trades - mined_with
    return new > 0 and new >= mining.growth * mined_with


def mine(groups: Sequence[Group], mining: MiningPolicy) -> Mined:
    """All lessons of the groups of one run (of one book): their candidates are one family of tests."""
    groups = sorted((group for group in groups if group.n), key=lambda group: group.key)
    tested = [CandidateTests(iceberg_cube(group, mining), mining) for group in groups]
    for tests in tested:
        tests.run()
    selection = Selection(tested, mining)
    selection.run()
    lessons: list[Lesson] = []
    for place, group in enumerate(groups):
        baseline = baseline_lesson(group, mining, selection.evidence[place])
        lessons += [baseline, *selection.accepted[place], *selection.shadows(place)]
    left_out = {tests.cube.group.key: tests.cube.columns.left_out for tests in tested if tests.cube.columns.left_out}
    return Mined(lessons, sum(tests.cube.size for tests in tested), left_out)
