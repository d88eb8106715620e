"""What each rule of going back to the preset costs, and what it saves (docs/algorithms.md has the table)."""

import pytest

from closeloop.learning.weight_walks import Rule
from tests.learning.simulated_weights import FLIP, Gain, mean_gains

SEEDS = range(8)


@pytest.fixture(scope="module")
def stable() -> dict[Rule, Gain]:
    return {rule: mean for rule, (mean, _) in mean_gains(SEEDS, "stable truth").items()}


@pytest.fixture(scope="module")
def flipped() -> dict[Rule, Gain]:
    return {rule: mean for rule, (mean, _) in mean_gains(SEEDS, f"it flips at cycle {FLIP}").items()}


def test_on_a_stable_truth_the_guarded_rule_costs_nothing_and_the_seeds_rule_much(stable: dict[Rule, Gain]) -> None:
    assert stable["guarded"].whole == pytest.approx(stable["none"].whole, abs=0.03)
    assert stable["none"].whole > 0.4, "there is something to lose"
    assert stable["seed"].whole < 0.75 * stable["none"].whole
    assert stable["guarded"].reverts < 0.5 < 1.5 < stable["seed"].reverts


def test_after_a_flip_both_rules_save_what_none_loses(flipped: dict[Rule, Gain]) -> None:
    assert flipped["none"].later < -0.15, "there is something to save"
    assert flipped["seed"].later > flipped["none"].later + 0.15
    assert flipped["guarded"].later > flipped["none"].later + 0.15
    assert flipped["guarded"].later >= flipped["seed"].later
    assert flipped["guarded"].whole > flipped["seed"].whole > flipped["none"].whole


def test_until_the_flip_it_is_the_stable_book(stable: dict[Rule, Gain], flipped: dict[Rule, Gain]) -> None:
    """Both halves are as long as each other."""
    for rule in ("seed", "guarded", "none"):
        before = [2 * each[rule].whole - each[rule].later for each in (stable, flipped)]
        assert before[0] == pytest.approx(before[1], abs=1e-9), rule
