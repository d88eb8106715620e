"""What simulation says (docs/patterns.md): noise gives no lessons, planted edges are found as they were planted."""

from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from closeloop.learning.mining import mine
from closeloop.learning.significance import benjamini_hochberg
from closeloop.learning.trades import Group
from closeloop.models.lessons import LessonStatus
from closeloop.models.policy import MiningPolicy
from tests.learning import simulated
from tests.learning.simulated import accepted
from tests.learning.trades import EIGHT, noise, planted

SEEDS = range(20)
UNLIMITED = MiningPolicy(max_conditions=None)


@pytest.mark.parametrize("kind", ["normal", "skewed", "day"])
def test_noise_gives_no_lessons(kind: str) -> None:
    found = [len(accepted(noise(kind, seed), UNLIMITED)) for seed in SEEDS]
    assert np.median(found) == 0, found
    assert np.mean(found) <= 0.5, found


def test_days_make_no_lessons_where_most_dimensions_are_regimes() -> None:
    """Half of 16 dimensions are constant within a day: the significant luck of days must not lend its rank."""
    found = [len(accepted(noise("day", seed, n=6000, dimensions=16), MiningPolicy())) for seed in range(4)]
    assert found == [0, 0, 0, 0]


@pytest.mark.parametrize("name", sorted(simulated.PERSISTING.keys() - simulated.HARDER))
def test_a_market_that_persists_without_an_edge_gives_no_lessons(name: str) -> None:
    """Clustering by day alone gives 1 to 8 lessons a run in these (docs/patterns.md)."""
    found = [len(accepted(simulated.PERSISTING[name](seed))) for seed in SEEDS]
    assert np.mean(found) <= 0.1, found


def test_the_luck_of_three_symbols_gives_no_lessons_in_a_small_family() -> None:
    """Few candidates, most of them very significant: the family's threshold lies far above each p. One that days raise
    above the others is still significant, so that the luck of symbols has to be weighed all the same."""
    found = [len(accepted(simulated.small_family(seed))) for seed in SEEDS]
    assert found == [0] * len(found)


@pytest.mark.parametrize(("n", "conditions", "lift"), simulated.POWER)
def test_an_edge_that_varies_within_days_and_symbols_is_found_as_before(n: int, conditions: int, lift: float) -> None:
    found = [simulated.found_exactly(seed, n, conditions, lift) for seed in SEEDS]
    assert np.mean(found) >= 0.8, found


class TestPlanted:
    """Edges are found exactly as planted."""

    TWO: ClassVar = [({EIGHT[0]: "v0", EIGHT[1]: "v3"}, 0.8), ({EIGHT[2]: "v1"}, 0.5)]
    THREE: ClassVar = [
        ({EIGHT[0]: "v0", EIGHT[1]: "v3"}, 0.6),
        ({EIGHT[2]: "v1", EIGHT[3]: "v2"}, 0.6),
        ({EIGHT[4]: "v0", EIGHT[5]: "v1"}, 0.6),
    ]

    @pytest.mark.parametrize(("edges", "n"), [(TWO, 8_000), (THREE, 10_000)])
    def test_found_as_planted(self, edges: list[tuple[dict[str, str], float]], n: int) -> None:
        wanted = [conditions for conditions, _ in edges]
        found = [accepted(planted(edges, n, 1.0, seed), MiningPolicy()) for seed in SEEDS]
        assert sum(all(each in lessons for each in wanted) for lessons in found) >= 19
        assert max(len(lessons) for lessons in found) <= 4

    def test_shadows_are_explained_by_what_casts_them(self) -> None:
        lessons = mine([planted(self.TWO, 8_000, 1.0, 1)], MiningPolicy()).lessons
        shadows = [each for each in lessons if each.status is LessonStatus.shadow]
        assert len(shadows) > 10
        by = [each.conditions for each in lessons if each.status is LessonStatus.active]
        assert all(shadow.explained_by in by for shadow in shadows)
        # What was near the threshold falls by luck, too, as the family of the significant shrinks.
        related = sum(bool(each.explained_by and each.explained_by.keys() & each.conditions.keys()) for each in shadows)
        assert related > 0.9 * len(shadows)


def _every_subset(group: Group) -> list[NDArray[np.float64]]:
    """rr inside each conjunction of at least 33 trades, and outside: what a search without tests finds."""
    found: list[NDArray[np.float64]] = []

    def refine(chosen: NDArray[np.bool_], first: int) -> None:
        for place in range(first, len(EIGHT)):
            for code in range(4):
                inside = chosen & (group.columns[EIGHT[place]].codes == code)
                if inside.sum() >= 33:
                    found.append(inside)
                    refine(inside, place + 1)

    refine(np.ones(group.n, np.bool_), 0)
    return found


def test_the_methods_that_it_replaces_learn_noise() -> None:
    """Every subset past a threshold, on pure noise: thousands of lessons; plain Welch and BH: skewed noise."""
    group = noise("normal", 0)
    subsets = _every_subset(group)
    past = sum(abs(group.rr[inside].mean()) > 0.05 for inside in subsets)
    assert len(subsets) > 4_000
    assert past > 2_000
    skewed = [noise("skewed", seed) for seed in range(3)]
    p_values = [np.array([_welch(each.rr[s], each.rr[~s]) for s in _every_subset(each)]) for each in skewed]
    false = [int((benjamini_hochberg(p) <= 0.05).sum()) for p in p_values]
    assert min(false) >= 1, false


def _welch(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    n1, n0, a, b = len(inside), len(outside), inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
    if a + b == 0:
        return 1.0
    free = (a + b) ** 2 / (a * a / (n1 - 1) + b * b / (n0 - 1))
    return float(2 * stats.t.sf(abs(inside.mean() - outside.mean()) / np.sqrt(a + b), free))
