"""What is said of the luck that a lesson was weighed against, and of what could not be told from luck."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from closeloop.learning.lessons import Lesson
from closeloop.learning.mining import mine
from closeloop.learning.trades import Group
from closeloop.models.lessons import LessonStatus
from closeloop.models.luck import Clustering, LessonEvidence
from closeloop.models.policy import MiningPolicy
from tests.learning.simulated import regimes, symbol_effects
from tests.learning.trades import EIGHT, noise, planted


def lessons_of(group: Group, status: LessonStatus) -> list[Lesson]:
    return [each for each in mine([group], MiningPolicy()).lessons if each.status is status]


def of_baseline(group: Group) -> LessonEvidence:
    [baseline] = lessons_of(group, LessonStatus.baseline)
    assert baseline.evidence is not None
    return baseline.evidence


def test_clusters_are_those_of_the_trades() -> None:
    """Counted by hand: days, and symbols, in the scope of a planted edge and outside it."""
    group = planted([({EIGHT[2]: "v1"}, 0.8)], 2000, 1.0, 3)
    [lesson] = lessons_of(group, LessonStatus.active)
    assert lesson.evidence is not None
    rows = group.rows(lesson.conditions)
    outside = np.setdiff1d(np.arange(group.n), rows)
    said = {each.of: each for each in lesson.evidence.luck}
    assert set(said) == {Clustering.day, Clustering.week, Clustering.four_weeks, Clustering.symbol}, "200 days"
    days, symbols = group.days, group.symbols.codes
    for of, clusters in ((Clustering.day, days), (Clustering.symbol, symbols)):
        assert said[of].clusters == len(np.unique(clusters))
        assert said[of].inside == len(np.unique(clusters[rows]))
        assert said[of].outside == len(np.unique(clusters[outside]))
    assert all(0 <= each.effective <= each.clusters + 1e-9 for each in said.values())
    assert all(0 <= each.share <= 1 for each in said.values())
    assert lesson.evidence.by in said
    assert lesson.evidence.weeks == pytest.approx((days.max() - days.min() + 1) / 7, abs=0.05)
    assert LessonEvidence.model_validate_json(lesson.evidence.model_dump_json()) == lesson.evidence


def test_a_few_symbols_with_effects_are_untold() -> None:
    """Three symbols: conditions on tokens stand out, and there are too few symbols to tell them from luck."""
    evidence = of_baseline(symbol_effects(1, symbols=3))
    assert evidence.untold == evidence.stood_out
    assert evidence.examples
    for each in evidence.examples:
        assert (each.by, each.too_few, each.p, each.times) == (Clustering.symbol, True, 1.0, None)
        [of_symbols] = [luck for luck in each.luck if luck.of is Clustering.symbol]
        assert of_symbols.clusters == 3 < evidence.least_symbols
    assert {each.of: each.clusters for each in evidence.luck}[Clustering.symbol] == 3


def test_regimes_are_untold_by_periods() -> None:
    evidence = of_baseline(regimes(2))
    assert evidence.untold
    assert all(each.by is not Clustering.symbol for each in evidence.examples)
    assert all(each.p > each.p_of_trades for each in evidence.examples)
    by_p = sorted((each for each in evidence.examples if not each.too_few), key=lambda each: each.p)
    times = [each.times or 0.0 for each in by_p]
    assert times == sorted(times), "what is nearer to being told takes less"
    assert 1.0 < times[0] <= times[-1] <= 100.0
    # By hand, of the normal distribution: so much smaller a squared error brings p below the threshold of the family.
    candidates = mine([regimes(2)], MiningPolicy()).candidates
    z = NormalDist().inv_cdf(1 - by_p[0].p / 2) * math.sqrt(times[0])
    assert 2 * (1 - NormalDist().cdf(z)) == pytest.approx(0.05 / candidates, rel=1e-6)


def test_plain_noise_has_nothing_that_stands_out() -> None:
    evidence = of_baseline(noise("normal", 5))
    assert (evidence.stood_out, evidence.untold, evidence.examples) == (0, 0, [])


def test_shadows_have_none() -> None:
    group = planted([({EIGHT[2]: "v1"}, 0.8)], 2000, 1.0, 3)
    assert all(each.evidence is None for each in lessons_of(group, LessonStatus.shadow))
