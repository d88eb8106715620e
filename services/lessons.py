"""Lessons: building them, listing them, and explaining one by the trades in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models import launches
from closeloop.models.errors import NotOnRecord
from closeloop.models.lessons import (
    LessonExplanation,
    LessonPeriod,
    LessonReport,
    LessonRequest,
    LessonTrade,
    LessonView,
    NothingAccepted,
    TradesSummary,
)
from closeloop.models.retention import Leaving
from closeloop.models.sentences import strongest_untold
from closeloop.services import books
from closeloop.services.launching import run

PERIODS_SHOWN = 6


async def build(client: Client, request: LessonRequest) -> LessonReport:
    """Build lessons in a workflow and wait for it. Raises RunFailed where a book asked for by name was not built."""
    report: LessonReport = await run(client, launches.lesson_building(request), "The lessons were not built")
    return report


async def listing(
    session: AsyncSession,
    book: str | None = None,
    *,
    shadows: bool = False,
    last: int | None = None,
    before: str | None = None,
) -> list[LessonView]:
    """Accepted lessons of a book or of all, by group the largest effect first; with ``shadows`` the others after them.

    Only the ``last`` of them, and only what comes before the lesson ``before``. Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    if before is not None:
        await find(session, before)
    return await store.lessons.listing(session, book, shadows=shadows, last=last, before=before)


async def nothing_accepted(session: AsyncSession, book: str | None = None) -> NothingAccepted:
    """Of a book without lessons, or of all: what stood out where groups were mined, and could not be told from luck."""
    groups, untold, evidence = await store.lessons.untold(session, book)
    return NothingAccepted(groups=groups, untold=untold, strongest=strongest_untold([evidence] if evidence else []))


async def find(session: AsyncSession, lesson_id: str) -> LessonView:
    """A lesson. Raises NotOnRecord."""
    view = await store.lessons.find(session, lesson_id)
    if view is None:
        raise NotOnRecord(f"There is no lesson {lesson_id}: 'closeloop lessons list' shows them.")
    return view


async def explain(session: AsyncSession, lesson_id: str) -> LessonExplanation:
    """A lesson with the trades in it, what they came to beside those outside, by time and by version.

    Raises NotOnRecord.
    """
    view = await find(session, lesson_id)
    explained_by = await store.lessons.find(session, view.explained_by) if view.explained_by else None
    inside: list[LessonTrade] = []
    outside: list[float] = []
    rule = await store.lessons.same_trade(session, view.book, view.version)
    group = view.book, view.pattern_key, view.action_category
    async for row in store.patterns.trades_of(session, *group, view.as_of, rule):
        if _in_scope(row, view.scope):
            inside.append(LessonTrade.model_validate(dict(row)))
        else:
            outside.append(row["rr"])
    return LessonExplanation(
        lesson=view,
        explained_by=explained_by,
        inside=_summary([trade.rr for trade in inside]),
        outside=_summary(outside),
        periods=_periods(inside, outside),
        history=await store.lessons.history(session, lesson_id),
        history_left_before=await store.retention.left_until(session, Leaving.lesson_history),
        evidence=await store.lessons.evidence(session, lesson_id),
        trades=inside,
    )


def _in_scope(row: RowMapping, scope: dict[str, str]) -> bool:
    of_trade: dict[str, Any] = row["scope"]
    return all(of_trade.get(dimension) == value for dimension, value in scope.items())


def _summary(rr: Sequence[float]) -> TradesSummary:
    values = np.array(rr)
    n = len(rr)
    return TradesSummary(
        n=n,
        avg_rr=float(values.mean()) if n else None,
        standard_error=float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        win_rate=float((values > 0).mean()) if n else None,
    )


def _periods(inside: Sequence[LessonTrade], outside: Sequence[float]) -> list[LessonPeriod]:
    """The lesson's trades in order of closing, cut into periods of as many trades each."""
    outside_mean = float(np.mean(outside)) if outside else 0.0
    parts = [part for part in np.array_split(np.arange(len(inside)), PERIODS_SHOWN) if len(part)]
    return [
        LessonPeriod(
            start=inside[part[0]].closed_at,
            end=inside[part[-1]].closed_at,
            n=len(part),
            excess_rr=float(np.mean([inside[i].rr for i in part])) - outside_mean,
        )
        for part in parts
    ]
