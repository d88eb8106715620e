"""Spans of an asset in buckets: it is in one at a time, and goes on until the next one begins."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from closeloop.models.market import Driver


class Span(NamedTuple):
    """In a bucket from ``begin`` until before ``end`` (None: until further notice)."""

    begin: datetime
    end: datetime | None
    bucket: Driver


def placed(spans: Sequence[Span], new: Span) -> list[Span]:
    """The spans of an asset (in order, apart from each other) once ``new`` is said of it.

    It replaces one that begins at the same instant, ends one that goes on then, and ends itself where the next one
    begins at the latest. Spans of one bucket that touch become one.

    >>> from datetime import UTC
    >>> day = lambda n: datetime(2026, 1, n, tzinfo=UTC)
    >>> moved = placed([Span(day(1), None, Driver.nano)], Span(day(5), None, Driver.small))
    >>> [(span.begin.day, span.end and span.end.day, span.bucket.value) for span in moved]
    [(1, 5, 'nano'), (5, None, 'small')]
    """
    following = min((span.begin for span in spans if span.begin > new.begin), default=None)
    ends = [end for end in (new.end, following) if end is not None]
    kept = [
        span if span.begin > new.begin or (span.end is not None and span.end <= new.begin)
        else span._replace(end=new.begin)
        for span in spans
        if span.begin != new.begin
    ]  # fmt: skip
    joined: list[Span] = []
    for span in sorted([*kept, new._replace(end=min(ends, default=None))], key=lambda span: span.begin):
        if joined and joined[-1].bucket is span.bucket and joined[-1].end == span.begin:
            joined[-1] = joined[-1]._replace(end=span.end)
        else:
            joined.append(span)
    return joined


def first_differences(before: Sequence[Span], after: Sequence[Span]) -> dict[Driver, datetime]:
    """By bucket, the first instant at which an asset belongs to it before and not after, or the other way round."""
    first: dict[Driver, datetime] = {}
    for instant in sorted({edge for span in (*before, *after) for edge in (span.begin, span.end) if edge is not None}):
        was, now = _bucket(before, instant), _bucket(after, instant)
        if was is not now:
            for bucket in (was, now):
                if bucket is not None:
                    first.setdefault(bucket, instant)
    return first


def _bucket(spans: Sequence[Span], instant: datetime) -> Driver | None:
    return next(
        (span.bucket for span in spans if span.begin <= instant and (span.end is None or instant < span.end)), None
    )
