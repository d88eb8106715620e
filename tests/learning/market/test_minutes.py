"""The minutes of a driver in pieces, and what is remembered between them."""

import numpy as np
import pytest

from closeloop.learning.market.bars import Bars, accept
from closeloop.learning.market.composite import FOR_EVER
from closeloop.learning.market.minutes import MinutesCarry, minutes
from closeloop.models.market import Driver
from closeloop.models.policy import MarketPolicy

POLICY = MarketPolicy()
NOW = 10**9
N = 300
MEMBERS = {"a": [(0, FOR_EVER)], "b": [(0, 6_000), (9_000, FOR_EVER)], "c": [(0, FOR_EVER)], "d": [(3_000, 12_000)]}


def candles(seed: int) -> Bars:
    """With gaps, a spike, and bars that are refused or mended."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, N)))
    close[rng.integers(20, N, 3)] *= 5
    open_, there = np.append(100.0, close[:-1]), rng.uniform(size=N) > 0.2
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    low[50], high[60], low[70] = -1.0, close[60] * 0.99, np.nan
    return Bars(np.arange(N) * 60, open_, high, low, close, rng.uniform(1, 9, N))[there]


@pytest.mark.parametrize("driver", [Driver.btc, Driver.alt, Driver.nano])
@pytest.mark.parametrize("step", [60, 60 * 17])
def test_in_pieces_it_is_the_same_to_the_bit(driver: Driver, step: int) -> None:
    given = {name: candles(seed) for seed, name in enumerate(MEMBERS) if driver != Driver.btc or name == "a"}
    spans = MEMBERS if driver == Driver.nano else None
    whole = minutes(driver, given, NOW, POLICY, None, spans)
    carry, parts = None, []
    for begin in range(0, N * 60, step):
        piece = {name: bars[(bars.start >= begin) & (bars.start < begin + step)] for name, bars in given.items()}
        made = minutes(driver, piece, NOW, POLICY, carry, spans)
        carry = MinutesCarry.from_bytes(made.carry.to_bytes())
        parts.append(made.bars)
    found = Bars.joined(parts)
    for name in ("start", "open", "high", "low", "close", "volume"):
        assert getattr(found, name).tolist() == getattr(whole.bars, name).tolist()
    assert carry == whole.carry
    assert whole.newest_end == int(max(bars.start[-1] for bars in given.values())) + 60


def test_volumes_of_an_index_are_in_the_quote_currency() -> None:
    given = {name: Bars.of([(0, 2.0, 2.0, 2.0, 2.0, 5.0)]) for name in "abc"}
    assert minutes(Driver.alt, given, NOW, POLICY).bars.volume.tolist() == [30.0]
    assert minutes(Driver.btc, {"a": given["a"]}, NOW, POLICY).bars.volume.tolist() == [5.0]


def test_one_bar_is_accepted_as_many_are() -> None:
    """One that is alone takes a shorter way."""
    for seed in range(5):
        received = candles(seed)
        whole = accept(received, 60, 0.2, NOW)
        carry, counters, starts = None, None, []
        for at in range(len(received)):
            one = accept(received[at : at + 1], 60, 0.2, NOW, carry)
            carry, counters = one.carry, one.counters if counters is None else counters + one.counters
            starts += one.bars.start.tolist()
        assert (starts, carry, counters) == (whole.bars.start.tolist(), whole.carry, whole.counters)


def test_what_is_damaged_is_no_carry() -> None:
    content = minutes(Driver.btc, {"a": candles(1)}, NOW, POLICY).carry.to_bytes()
    for broken in (b"", content[:-1], content[:20] + b"7" + content[21:], b"\x00" * 4 + b"{}"):
        with pytest.raises(ValueError, match="remembered of a driver's minutes"):
            MinutesCarry.from_bytes(broken)
