"""Overrides: bounds of what they change, when they end, and how several speak together."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.decay import EffectNow
from closeloop.learning.overrides import Override, blend, expires_at, is_actionable, needs_approval, sizing
from closeloop.models.overrides import OverrideMatch
from closeloop.models.policy import DecayPolicy, MiningPolicy, OverridesPolicy

POLICY = OverridesPolicy()
NOTHING = OverrideMatch(size_multiplier=1.0, threshold_adjustments={}, spoke=[])


def override(name: str, conditions: int, multiplier: float, confidence: float, **adjustments: float) -> Override:
    scope = {f"d{number}": "v" for number in range(conditions)}
    return Override(name, scope, multiplier, adjustments, confidence)


@pytest.mark.parametrize(
    ("effect", "n", "category", "multiplier", "threshold"),
    [
        (0.8, 150, "entry", 1.12, -0.0144),  # shrunk 0.6
        (-0.8, 150, "add", 0.88, 0.0144),
        (0.8, 50, "entry", 1.08, -0.0096),  # believed by half
        (100.0, 150, "entry", 1.5, -0.05),
        (-100.0, 150, "entry", 0.5, 0.05),
        (0.8, 150, "trim", 1.12, None),
        (0.8, 150, "exit", 1.12, None),
    ],
)
def test_sizing(effect: float, n: int, category: str, multiplier: float, threshold: float | None) -> None:
    found = sizing(effect, n, category, POLICY)
    assert found.size_multiplier == pytest.approx(multiplier)
    assert found.threshold_adjustments == ({} if threshold is None else {"ts_threshold": pytest.approx(threshold)})
    assert found.confidence == n / (n + 50)


@pytest.mark.parametrize(
    ("accepted", "q", "effect", "half_life", "wanted"),
    [
        (True, 0.05, 0.05, None, True),
        (True, 0.05, -0.05, 72.0, True),
        (False, 0.01, 0.5, None, False),
        (True, 0.051, 0.5, None, False),
        (True, 0.01, 0.049, None, False),
        (True, 0.01, 0.5, 71.9, False),
        (True, None, 0.5, None, False),  # the baseline
        (True, 0.01, None, None, False),
    ],
)
def test_what_may_change_sizes(
    accepted: bool, q: float | None, effect: float | None, half_life: float | None, wanted: bool
) -> None:
    now = None if half_life is None or effect is None else EffectNow(effect, 0.9 * effect, 1.1 * effect)
    assert is_actionable(accepted, q, effect, half_life, now, MiningPolicy(), DecayPolicy()) is wanted


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        ((0.05, 0.01, 0.09), True),
        ((0.049, 0.04, 0.06), False),  # too little is left
        ((0.3, -0.01, 0.61), False),  # it may be nothing
        ((-0.3, -0.4, -0.2), False),  # the fit says the opposite of the lesson
    ],
)
def test_what_has_faded_changes_no_size(now: tuple[float, float, float], wanted: bool) -> None:
    assert is_actionable(True, 0.01, 0.5, 300.0, EffectNow(*now), MiningPolicy(), DecayPolicy()) is wanted
    assert is_actionable(True, 0.01, 0.5, None, None, MiningPolicy(), DecayPolicy())


@pytest.mark.parametrize(("multiplier", "asked"), [(1.25, False), (0.75, False), (1.2501, True), (0.7499, True)])
def test_large_moves_wait_for_an_operator(multiplier: float, asked: bool) -> None:
    assert needs_approval(multiplier, POLICY) is asked


def test_when_an_override_ends() -> None:
    newest = datetime(2026, 3, 1, tzinfo=UTC)
    assert expires_at(newest, 100.0, POLICY) == newest + timedelta(hours=200)
    assert expires_at(newest, 1000.0, POLICY) == newest + timedelta(days=30), "no later than one that does not fade"
    assert expires_at(newest, None, POLICY) == newest + timedelta(days=30)


def test_without_a_match_nothing_changes() -> None:
    assert blend([], POLICY) == NOTHING


def test_one_alone_says_exactly_what_it_says() -> None:
    match = blend([override("a", 3, 1.1, 0.37, ts_threshold=-0.013)], POLICY)
    assert (match.size_multiplier, match.threshold_adjustments) == (1.1, {"ts_threshold": -0.013})
    assert [(voice.override_id, voice.weight) for voice in match.spoke] == [("a", pytest.approx(0.37 * 4**1.5))]


def test_the_more_exact_one_is_heard_more() -> None:
    """Weights 0.5 x 2^1.5 and 0.5 x 4^1.5 are as 1 to 2.828."""
    match = blend([override("b", 3, 1.2, 0.5), override("a", 1, 0.8, 0.5, ts_threshold=0.02)], POLICY)
    assert [voice.override_id for voice in match.spoke] == ["a", "b"]
    assert [voice.weight for voice in match.spoke] == pytest.approx([0.5 * 2**1.5, 0.5 * 4**1.5])
    assert match.size_multiplier == pytest.approx((0.8 + 8**0.5 * 1.2) / (1 + 8**0.5))
    assert match.threshold_adjustments == {"ts_threshold": 0.02}  # of those that adjust it


def test_no_confidence_is_no_voice() -> None:
    assert blend([override("a", 1, 1.5, 0.0)], POLICY) == NOTHING


_OVERRIDES = st.lists(
    st.tuples(st.integers(1, 4), st.floats(0.5, 1.5), st.floats(0.01, 0.99), st.floats(-0.05, 0.05)),
    min_size=1,
    max_size=6,
)


@given(_OVERRIDES)
def test_a_blend_lies_between_and_is_the_same_in_any_order(said: list[tuple[int, float, float, float]]) -> None:
    overrides = [override(str(i), k, m, c, ts_threshold=t) for i, (k, m, c, t) in enumerate(said)]
    match = blend(overrides, POLICY)
    assert min(m for _, m, _, _ in said) <= match.size_multiplier <= max(m for _, m, _, _ in said)
    for shuffled in itertools.islice(itertools.permutations(overrides), 10):
        assert blend(shuffled, POLICY) == match
