"""Forward selection: which candidates of all groups are lessons, and which are only shadows of these.

Benjamini & Hochberg's (1995) q over the candidates of all groups together, with the p of whatever is significant raised
to the one with errors clustered by day and the one with the luck of periods and symbols. The best is accepted and
splits its group into cells; everything is tested again within these, so that what only followed from the accepted
lesson, its shadows, disappears.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from closeloop.learning import evidence
from closeloop.learning.candidates import CandidateTests
from closeloop.learning.lessons import Lesson, candidate_lesson
from closeloop.learning.significance import benjamini_hochberg
from closeloop.learning.trades import Bools, Floats
from closeloop.models.lessons import LessonStatus
from closeloop.models.luck import LessonEvidence
from closeloop.models.policy import MiningPolicy


class Selection:
    """Selects lessons among the candidates of several groups, whose tests have run once; :meth:`run` does it.

    ``accepted``: lessons of each group, in the order of acceptance; ``evidence`` of each group, before the first one.
    """

    def __init__(self, groups: Sequence[CandidateTests], mining: MiningPolicy) -> None:
        self.groups, self.mining = groups, mining
        self.accepted: list[list[Lesson]] = [[] for _ in groups]
        self.evidence: list[LessonEvidence] = []
        sizes = [tests.cube.size for tests in groups]
        # Candidates of all groups are numbered through: group i has those from starts[i] to starts[i + 1].
        self._starts = np.cumsum([0, *sizes])
        self._q = np.ones(sum(sizes))
        self._at_first = np.zeros(sum(sizes), np.bool_)
        self._taken = np.zeros(sum(sizes), np.bool_)
        # Of each candidate the place, among the accepted of its group, of the one that explains it.
        self._explained = np.full(sum(sizes), -1)

    def run(self) -> None:
        """Accept the best, split its group's cells, test again, until nothing qualifies."""
        by_trades = _joined(tests.p for tests in self.groups)
        stood_out = (benjamini_hochberg(by_trades) <= self.mining.max_q) & self._large()
        qualifying = self._at_first = self._qualifying()
        p_needed = (
            self.mining.max_q * min((self._q <= self.mining.max_q).sum() + 1, len(self._q)) / max(len(self._q), 1)
        )
        self.evidence = [
            evidence.of_group(tests, by_trades[part], stood_out[part], qualifying[part], p_needed)
            for tests, part in zip(self.groups, map(self._of_group, range(len(self.groups))), strict=True)
        ]
        while qualifying.any():
            place, candidate = min(map(self._located, np.flatnonzero(qualifying).tolist()), key=self._rank)
            tests, of_group = self.groups[place], self._of_group(place)
            number = of_group.start + candidate
            q, of_lesson = float(self._q[number]), evidence.of_candidate(tests, candidate)
            accepted = candidate_lesson(tests, candidate, LessonStatus.active, q, evidence=of_lesson)
            self.accepted[place].append(accepted)
            self._taken[number] = True
            tests.split(candidate)
            qualifying = self._qualifying()
            gone = (self._explained[of_group] == -1) & ~qualifying[of_group]
            self._explained[of_group][gone] = len(self.accepted[place]) - 1

    def shadows(self, place: int) -> Iterator[Lesson]:
        """Of a group: what was significant at first and was not accepted."""
        tests, of_group = self.groups[place], self._of_group(place)
        for candidate in np.flatnonzero(self._at_first[of_group] & ~self._taken[of_group]).tolist():
            number = of_group.start + candidate
            by = int(self._explained[number])
            explained_by = self.accepted[place][by].conditions if by >= 0 else None
            yield candidate_lesson(tests, candidate, LessonStatus.shadow, float(self._q[number]), explained_by)

    def _qualifying(self) -> Bools:
        """What is significant and large enough when days, and the luck of periods and symbols, are taken into account;
        sets q.

        The p of every candidate that is significant is raised. A significant p that were not raised would count as a
        rank, and so raise the threshold for candidates that are significant by luck. As every p only rises, none
        becomes significant by that; and one that has risen above the threshold of as many as were significant never is
        again. (Above the largest p that was significant is not enough: the threshold may lie far above it.)
        """
        p = _joined(tests.p for tests in self.groups)
        significant = benjamini_hochberg(p) <= self.mining.max_q
        limit = self.mining.max_q * int(significant.sum()) / max(len(p), 1) * (1 + 1e-9)  # rounding
        for tests, part in zip(self.groups, np.split(significant, self._starts[1:-1]), strict=False):
            tests.raise_p(np.flatnonzero(part), limit)
        self._q = benjamini_hochberg(_joined(tests.p for tests in self.groups))
        significant = self._q <= self.mining.max_q
        return significant & self._large()

    def _large(self) -> Bools:
        large: Bools = np.abs(_joined(tests.effect for tests in self.groups)) >= self.mining.min_effect
        return large

    def _of_group(self, place: int) -> slice:
        return slice(int(self._starts[place]), int(self._starts[place + 1]))

    def _located(self, number: int) -> tuple[int, int]:
        """The group of a candidate, and its number there."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return place, number - int(self._starts[place])

    def _rank(self, located: tuple[int, int]) -> tuple[float, float, int, int, int]:
        """Smallest p, then largest |t|, fewest conditions, key."""
        place, candidate = located
        tests = self.groups[place]
        size = int(tests.cube.lengths[candidate])
        return float(tests.p[candidate]), -float(tests.t[candidate]), size, place, candidate


def _joined(parts: Iterable[Floats]) -> Floats:
    return np.concatenate([np.empty(0), *parts])
