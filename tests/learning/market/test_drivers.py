"""What the evidence says of drivers' weights: one step where all agree, none where they do not, seldom any in noise."""

import numpy as np
import pytest

from closeloop.learning.market.drivers import level, proposed
from closeloop.learning.market.worth import looked_at, worth
from closeloop.models.market import MarketState, Timeframe
from closeloop.models.market_drivers import DriverChange
from closeloop.models.market_worth import StateWorth
from closeloop.models.policy import LeversPolicy, MiningPolicy, WorthPolicy
from closeloop.services.market_evidence import shown_worth
from tests.learning.simulated_market import NOISE, Openings, book

NUMBERS = WorthPolicy()


def said(driver: str, timeframe: str, state: str, effect: float | None, q: float = 1e-6, n: int = 100) -> StateWorth:
    bounds = (None, None) if effect is None else (effect - 0.1, effect + 0.1)
    return StateWorth(
        driver=driver, timeframe=Timeframe(timeframe), dimension="-", state=MarketState(state), n=n, n_other=n,
        spells=9, spells_other=9, effect=effect, low=bounds[0], high=bounds[1], p=q, q=None if effect is None else q,
    )  # fmt: skip


def ahead(timeframe: str, effect: float, q: float = 1e-6) -> list[StateWorth]:
    """Bitcoin in S3, so much better than in S0."""
    return [said("BTC", timeframe, "S3", effect, q), said("BTC", timeframe, "S0", -effect, q)]


def change(driver: str, *states: StateWorth, **before: float) -> DriverChange:
    found = {each.driver: each for each in proposed(states, 1_000, before, LeversPolicy(), NUMBERS)}
    assert list(found) == list(LeversPolicy().driver_weights)
    others = [each for name, each in found.items() if name != driver]
    assert all(each.after == each.before for each in others)
    return found[driver]


@pytest.mark.parametrize(
    ("driver", "better_in", "after"),
    [("BTC", "S3", 1.25), ("BTC", "S0", 0.75), ("USDT.d", "S0", 1.25), ("USDT.d", "S3", 0.75), ("bucket", "S3", 1.25)],
)
def test_a_driver_that_is_right_weighs_more(driver: str, better_in: str, after: float) -> None:
    """S3 has more points for A than S0; of a driver with a negative weight, A is higher in S0."""
    sign = 1 if better_in == "S3" else -1
    found = change(driver, said(driver, "1d", "S3", 0.5 * sign), said(driver, "1d", "S0", -0.5 * sign))
    assert (found.before, found.after) == (1.0, after)
    assert found.reason == f"trades went 1d {'with' if after > 1 else 'against'} A"


def test_the_covariance_is_by_hand() -> None:
    """100 trades in S1 (0.25 points) at a mean of 1 R, 100 in S3 (0.20) and 200 in S0 (-0.30) at 0 R; weight 1.5."""
    states = [
        said("ALT", "1h", "S1", 1.0).model_copy(update={"n": 100, "n_other": 300}),
        said("ALT", "1h", "S3", -1 / 3, q=0.9).model_copy(update={"n": 100, "n_other": 300}),
        said("ALT", "1h", "S0", -0.5, q=0.9).model_copy(update={"n": 200, "n_other": 200}),
        said("ALT", "1h", "S2", None),
        said("ALT", "1d", "S0", 9.0, q=0.9),
    ]
    found = change("ALT", *states)
    points = np.repeat([0.25, 0.20, -0.30], [100, 100, 200])
    rr = np.repeat([1.0, 0.0, 0.0], [100, 100, 200])
    [series] = found.series
    assert series.covariance == pytest.approx(1.5 * ((points - points.mean()) * (rr - rr.mean())).mean())
    assert ([each.state for each in series.states], found.after) == (["S1"], 1.25)


def test_timeframes_that_disagree_change_nothing() -> None:
    found = change("BTC", *ahead("1d", 0.5), *ahead("1h", -0.5))
    assert found.after == 1.0
    assert found.reason == "trades went 1d with A, 1h against A"


def test_what_one_state_was_worth_does_not_say_that_a_was_right() -> None:
    """S2 has about the mean of all points: whether A was right lies with S0 and S3, of which little is known."""
    unsure = [
        said("BTC", "1d", state, effect, q=0.5).model_copy(update={"low": effect - 0.6, "high": effect + 0.6})
        for state, effect in (("S0", -0.2), ("S3", 0.1))
    ]
    found = change("BTC", said("BTC", "1d", "S2", 0.9), *unsure)
    assert (found.after, found.reason) == (1.0, "whether trades went with A can be noise")
    [series] = found.series
    assert series.low < 0.0 < series.covariance < series.high


def test_what_is_not_told_from_noise_at_this_look_says_nothing() -> None:
    limit = level(1_000, NUMBERS)
    assert change("BTC", *ahead("1d", 0.5, limit * 1.01)).after == 1.0
    assert change("BTC", *ahead("1d", 0.5, limit)).after == 1.25


def test_a_factor_has_limits() -> None:
    up = ahead("1d", 0.5)
    assert change("BTC", *up, BTC=1.25).after == 1.5
    found = change("BTC", *up, BTC=1.5)
    assert found.after == 1.5
    assert found.reason.endswith("its factor is at its limit")
    assert change("BTC", *ahead("1d", -0.5), BTC=0.5).after == 0.5


def test_all_looks_together_spend_what_one_may() -> None:
    doublings = [level(66 * 2**k, NUMBERS) for k in range(30)]
    assert sum(doublings) < NUMBERS.max_q
    assert sum(doublings) == pytest.approx(NUMBERS.max_q, rel=0.05)
    assert level(0, NUMBERS) == level(66, NUMBERS)


def moved(openings: Openings) -> dict[str, float]:
    states = [shown_worth(each, NUMBERS) for each in worth(openings, NUMBERS, MiningPolicy())]
    found = proposed(states, len(openings.rr), {}, LeversPolicy(), NUMBERS)
    return {each.driver: each.after for each in found if each.after != each.before}


@pytest.mark.parametrize("case", NOISE)
def test_noise_proposes_nothing(case: str) -> None:
    """At every other look that is taken while the book grows."""
    openings = NOISE[case](0)
    looks = sorted({looked_at(n, NUMBERS) for n in range(66, len(openings.rr) + 1)})
    assert [found for n in looks[::-2][:4] if (found := moved(openings.first(n)))] == []


@pytest.mark.parametrize(("lift", "after"), [(0.9, 1.25), (-0.9, 0.75)])
def test_what_was_planted_is_proposed(lift: float, after: float) -> None:
    """S3 of Bitcoin's hours is worth 0.9 R: A is higher in it, so that its driver weighs more; or the reverse."""
    for seed in range(2):
        openings = book(seed, 2_000, 400, planted=("btc_meso", 3, lift))
        assert moved(openings) == {"BTC": after}
