"""How buckets do against each other: rank, slope, confidence and leader."""

import math

import numpy as np
import pytest

from closeloop.learning.market.bars import Bars
from closeloop.learning.market.buckets import HOUR, Move, standing
from closeloop.models.market_levers import BucketContext
from closeloop.models.policy import LeversPolicy

POLICY = LeversPolicy()
NOW = 1_000 * HOUR + 59  # within an hour that has not ended
UP = {"a": Move(1.0, 1.1), "b": Move(1.0, 1.3), "c": Move(1.0, 1.2)}


def index(a_day: float, hours: int = 24, noise: float = 0.0) -> Bars:
    """An index that rises by ``a_day`` (ln) a day, over the newest hours."""
    start = HOUR * np.arange(1_000 - hours, 1_000)
    level = a_day * (start - start[0] + HOUR) / 86_400 + noise * np.random.default_rng(0).normal(size=hours)
    close = 100 * np.exp(level)
    open_ = np.append(100.0, close[:-1])
    return Bars(start, open_, np.maximum(open_, close), np.minimum(open_, close), close, np.ones(hours))


def of(bucket: str, indices: dict[str, Bars], members: dict[str, Move] = UP) -> BucketContext | None:
    return standing(bucket, indices, members, NOW, POLICY)


def test_of_four_buckets() -> None:
    indices = {"nano": index(0.1), "small": index(-0.2), "mid": index(0.3), "big": index(0.0)}
    found = {bucket: of(bucket, indices) for bucket in indices}
    assert {bucket: each.rank for bucket, each in found.items() if each} == {"mid": 1, "nano": 2, "big": 3, "small": 4}
    assert {bucket: each.slope for bucket, each in found.items() if each} == pytest.approx(
        {"nano": 0.1, "small": -0.2, "mid": 0.3, "big": 0.0}, abs=1e-9
    )
    assert found["nano"] == BucketContext(rank=2, slope=found["nano"].slope, confidence=1.0, leader="b")


def test_equals_come_in_the_order_of_buckets() -> None:
    indices = {"big": index(0.1), "nano": index(0.1)}
    assert [each.rank for bucket in ("nano", "big") if (each := of(bucket, indices))] == [1, 2]


@pytest.mark.parametrize(
    ("members", "confidence", "leader"),
    [
        ({}, 0.0, None),
        ({"a": Move(1.0, 1.0)}, 0.0, "a"),
        ({"a": Move(1.0, 2.0)}, 1.0, "a"),
        ({"a": Move(1.0, 0.5), "b": Move(1.0, 0.9)}, 1.0, "b"),
        ({"a": Move(1.0, 2.0), "b": Move(1.0, 0.9), "c": Move(1.0, 2.0), "d": Move(2.0, 3.0)}, 0.5, "a"),
    ],
)
def test_members_have_to_agree(members: dict[str, Move], confidence: float, leader: str | None) -> None:
    found = of("nano", {"nano": index(0.1)}, members)
    assert found is not None
    assert (found.confidence, found.leader) == (confidence, leader)


def test_an_index_with_holes_is_trusted_less_and_then_not_at_all() -> None:
    whole = index(0.1)
    found = of("nano", {"nano": whole[::2]})
    assert found is not None
    assert found.confidence == 0.5
    assert of("nano", {"nano": whole[::3]}) is None
    assert of("nano", {}) is None
    assert of("nano", {"mid": whole}) is None


def test_what_has_not_ended_or_is_too_old_says_nothing() -> None:
    rising = index(0.1, hours=72)
    latest = Bars.of([(1_000 * HOUR, 1.0, 9e9, 1.0, 9e9, 1.0)])
    assert of("nano", {"nano": Bars.joined([rising, latest])}) == of("nano", {"nano": rising[-24:]})


def test_a_slope_has_a_limit() -> None:
    found = [of("nano", {"nano": index(way)}) for way in (5.0, -5.0)]
    assert [each.slope for each in found if each] == [1.0, -1.0]


def test_scale_means_nothing() -> None:
    noisy = index(0.1, noise=0.01)
    scaled = Bars(noisy.start, *(getattr(noisy, name) * 7e3 for name in ("open", "high", "low", "close")), noisy.volume)
    one, other = of("nano", {"nano": noisy}), of("nano", {"nano": scaled})
    assert one is not None
    assert other is not None
    assert (one.rank, one.confidence) == (other.rank, other.confidence)
    assert one.slope is not None
    assert other.slope == pytest.approx(one.slope)
    days, y = noisy.start / 86_400, np.log(noisy.close)
    assert one.slope == pytest.approx(np.polyfit(days - days[0], y, 1)[0])
    assert math.isfinite(one.slope)
