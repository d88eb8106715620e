"""What states have been worth: counted by hand, silent where there is little, seldom wrong in noise, and found where
something was planted."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from closeloop.learning.market.worth import STATES, Openings, Worth, looked_at, next_look, runs, worth
from closeloop.models.policy import MiningPolicy, WorthPolicy
from tests.learning.simulated_market import NOISE, START, book, power, told

POLICY = WorthPolicy()


def alternating(spells: int, each: int, lift: float = 0.0, seed: int = 1) -> Openings:
    """Trades of BTC in S3 and S0 by turns, a day each; ``lift`` R more in S3."""
    rng = np.random.default_rng(seed)
    n = spells * each
    spell = np.repeat(np.arange(spells), each)
    states = np.where(spell % 2 == 0, 3, 0)
    at = START + 86_400.0 * spell + 3_600.0 * np.tile(np.arange(each), spells)
    rr = rng.normal(0, 1, n) + lift * (states == 3)
    return Openings(rr, at, rng.integers(0, 9, n), np.zeros(n, np.int64), {"btc_macro": states})


def of(found: list[Worth], dimension: str, state: str) -> Worth:
    [one] = [each for each in found if (each.dimension, each.state) == (dimension, state)]
    return one


def test_by_hand() -> None:
    openings = alternating(40, 5, lift=1.5)
    found = of(worth(openings, POLICY, MiningPolicy()), "btc_macro", "S3")
    inside = openings.states["btc_macro"] == STATES.index(found.state)
    assert (found.n, found.n_other, found.spells, found.spells_other) == (100, 100, 20, 20)
    assert found.effect is not None
    assert found.low is not None
    assert found.high is not None
    assert found.effect == pytest.approx(openings.rr[inside].mean() - openings.rr[~inside].mean())
    # The interval is at least as wide as by the means of spells, each one observation (Student's t with 19 degrees).
    by_spell = openings.rr.reshape(40, 5).mean(axis=1)
    error = np.sqrt(by_spell[::2].var(ddof=1) / 20 + by_spell[1::2].var(ddof=1) / 20)
    assert found.high - found.effect == pytest.approx(found.effect - found.low)
    assert found.high - found.effect >= 2.09 * error
    assert found.q is not None
    assert found.q <= 0.05


def test_the_other_state_is_the_mirror_image() -> None:
    found = worth(alternating(40, 5, lift=0.4), POLICY, MiningPolicy())
    s0, s3 = of(found, "btc_macro", "S0"), of(found, "btc_macro", "S3")
    assert s0.effect is not None
    assert s3.effect is not None
    assert s0.effect == pytest.approx(-s3.effect)
    assert s0.p == pytest.approx(s3.p)


@pytest.mark.parametrize(("spells", "each", "too_few"), [(11, 200, "spells"), (12, 5, "trades"), (12, 200, None)])
def test_nothing_is_said_of_little(spells: int, each: int, too_few: str | None) -> None:
    """Thousands of trades in five spells are five pieces of evidence, however much better they went."""
    found = of(worth(alternating(spells, each, lift=3.0), POLICY, MiningPolicy()), "btc_macro", "S0")
    assert found.too_few == too_few
    assert (found.effect is None, found.p is None, found.q is None) == (too_few is not None,) * 3


def test_trades_of_one_spell_are_one_piece_of_evidence() -> None:
    """Spells have luck and trades have none: the same trade fifty times over is no more evidence than once."""
    rng = np.random.default_rng(3)
    once = alternating(60, 2)
    once = replace(once, rr=np.repeat(rng.normal(0, 1, 60) + np.tile([0.15, 0.0], 30), 2))
    often = alternating(60, 100)
    often = replace(often, rr=np.repeat(once.rr[::2], 100))
    few, many = (of(worth(each, POLICY, MiningPolicy()), "btc_macro", "S3") for each in (once, often))
    assert few.p is not None
    assert many.p is not None
    assert many.p_of_trades is not None
    assert many.p_of_trades < 0.01 < few.p
    assert many.p == pytest.approx(few.p, abs=0.05)


def test_too_few_days_have_no_interval() -> None:
    openings = alternating(40, 5)
    openings = replace(openings, opened_at=START + 3_600.0 * np.arange(200) / 4)  # three days
    found = of(worth(openings, POLICY, MiningPolicy()), "btc_macro", "S3")
    assert (found.p, found.low, found.high) == (1.0, None, None)


def test_spells_of_buckets_are_of_each_bucket() -> None:
    """Trades of two buckets by turns, one in S3 and the other in S0, are no switching of states."""
    inside, series = np.array([True, False] * 4), np.array([0, 1] * 4)
    assert len(set(runs(inside, series).tolist())) == 2
    assert len(set(runs(inside, np.zeros(8, np.int64)).tolist())) == 8


def test_unknown_states_are_left_out() -> None:
    openings = alternating(40, 5, lift=1.5)
    gone = np.arange(200) % 5 == 0
    openings.states["btc_macro"][gone] = -1
    found = of(worth(openings, POLICY, MiningPolicy()), "btc_macro", "S3")
    assert (found.n, found.n_other) == (80, 80)


def test_equal_outcomes_are_no_evidence() -> None:
    openings = replace(alternating(40, 5), rr=np.full(200, -1.0))
    found = of(worth(openings, POLICY, MiningPolicy()), "btc_macro", "S3")
    assert (found.effect, found.p) == (0.0, 1.0)


def test_nothing_to_look_at() -> None:
    empty = np.zeros(0)
    codes = np.zeros(0, np.int64)
    assert worth(Openings(empty, empty, codes, codes, {"btc_macro": codes}), POLICY, MiningPolicy()) == []


def test_a_look_only_after_a_tenth_more() -> None:
    looks = sorted({looked_at(n, POLICY) for n in range(66, 1_000)})
    assert all(later > 1.1 * earlier - 1e-6 for earlier, later in pairwise(looks))
    assert [next_look(n, POLICY) for n in looks[:-1]] == looks[1:]


@pytest.mark.parametrize("case", NOISE)
def test_noise(case: str) -> None:
    """One seed of each; 200 are counted by ``make simulate SEEDS=200``, with the share in docs/algorithms.md."""
    assert told(NOISE[case](0)) == []


@pytest.mark.parametrize("horizon", ["meso", "micro"])
def test_what_was_planted_is_found(horizon: str) -> None:
    assert all(power(seed, 1_000, 300, horizon, 0.8) for seed in (0, 1))


def test_a_state_that_came_few_times_is_not_found() -> None:
    """Months of S2 that went 0.8 R better, in a year with four of them: there is nothing to be said."""
    assert "btc_macro" not in {dimension for dimension, _ in told(book(0, planted=("btc_macro", 2, 0.8)))}
