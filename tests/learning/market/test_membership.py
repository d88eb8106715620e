"""Spans of an asset in buckets: whatever is said, in whatever order, they lie apart and say it."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from closeloop.learning.market.membership import Span, first_differences, placed
from closeloop.models.market import BUCKETS, Driver

NANO, SMALL = Driver.nano, Driver.small


def day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (Span(day(5), None, NANO), [Span(day(0), None, NANO)]),  # said again, later
        (Span(day(5), day(9), NANO), [Span(day(0), day(9), NANO)]),  # it ends
        (Span(day(0), day(9), NANO), [Span(day(0), day(9), NANO)]),
        (Span(day(5), None, SMALL), [Span(day(0), day(5), NANO), Span(day(5), None, SMALL)]),  # it moves
        (Span(day(0), None, SMALL), [Span(day(0), None, SMALL)]),  # it was said wrongly
        (Span(day(-5), None, NANO), [Span(day(-5), None, NANO)]),  # it began earlier
        (Span(day(-5), None, SMALL), [Span(day(-5), day(0), SMALL), Span(day(0), None, NANO)]),
        (Span(day(-5), day(9), SMALL), [Span(day(-5), day(0), SMALL), Span(day(0), None, NANO)]),
        (Span(day(-5), day(-2), NANO), [Span(day(-5), day(-2), NANO), Span(day(0), None, NANO)]),
    ],
)
def test_what_is_said_of_a_token_in_nano_from_day_0_on(new: Span, expected: list[Span]) -> None:
    assert placed([Span(day(0), None, NANO)], new) == expected
    assert placed(expected, new) == expected, "said twice, it changes nothing more"


def test_spans_lie_apart() -> None:
    rng = random.Random(5)
    for _ in range(300):
        spans: list[Span] = []
        for _ in range(8):
            begin = day(rng.randrange(20))
            end = None if rng.random() < 0.5 else begin + timedelta(days=rng.randrange(1, 9))
            new = Span(begin, end, rng.choice(BUCKETS))
            spans = placed(spans, new)
            assert any(span.begin <= begin and span.bucket is new.bucket for span in spans)
            for one, following in itertools.pairwise(spans):
                assert one.end is not None
                assert one.begin < one.end <= following.begin
                assert one.end < following.begin or one.bucket is not following.bucket


def test_from_where_on_buckets_differ() -> None:
    before = [Span(day(0), day(5), NANO), Span(day(5), None, SMALL)]
    assert first_differences(before, before) == {}
    assert first_differences([], before) == {NANO: day(0), SMALL: day(5)}
    assert first_differences(before, [Span(day(0), day(7), NANO), Span(day(7), None, SMALL)]) == {
        SMALL: day(5), NANO: day(5),
    }  # fmt: skip
    assert first_differences(before, [Span(day(0), day(5), NANO)]) == {SMALL: day(5)}
