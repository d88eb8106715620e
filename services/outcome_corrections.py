"""Outcomes whose candles were replaced or deleted: which they are, and computing them again on request."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.scoring import ACTION_CODES, brier, correct_by_prices, log_score, returns_pct
from closeloop.models.policy import LearningPolicy
from closeloop.models.prices import AffectedOutcome, OutcomesRecomputed
from closeloop.services.cursors import in_book
from closeloop.store.resolution import DueForecast, PageScores

OUTCOMES_A_TRANSACTION = 1_000


def score(priced: Sequence[DueForecast], policy: LearningPolicy) -> PageScores:
    """Scores of forecasts that have both prices, in their order."""
    confidence = np.array([one.confidence for one in priced], dtype=np.float64)
    action = np.array([ACTION_CODES[one.action] for one in priced], dtype=np.int8)
    issue = [Decimal(one.price_at_issue or "NaN") for one in priced]
    target = [Decimal(one.price_at_target or "NaN") for one in priced]
    right = correct_by_prices(action, issue, target, policy.forecasts)
    return PageScores(
        return_pct=returns_pct(issue, target).tolist(),
        correct=right.tolist(),
        brier=brier(confidence, right).tolist(),
        log=log_score(confidence, right).tolist(),
    )


async def affected(
    session: AsyncSession, *, asset: str | None = None, last: int | None = None, before: str | None = None
) -> list[AffectedOutcome]:
    """Outcomes to recompute, by (book, forecast): at most the ``last`` before the one named ``before`` (BOOK/ID)."""
    cursor = None if before is None else in_book(None, before)
    return await store.corrections.listing(session, asset, last, cursor)


async def to_be_learned_until(session: AsyncSession, now: datetime) -> datetime | None:
    """As of when a resolution learns all that was corrected; None where nothing is left to learn.

    Not later: scores that stand as of an instant in the past are corrected, not replaced by those of now.
    """
    day = await store.performance.last_due_day(session)
    return None if day is None else min(now, datetime.combine(day, time(), UTC) + timedelta(days=1))


async def recompute(
    session: AsyncSession, policy: LearningPolicy, now: datetime, *, asset: str | None = None
) -> OutcomesRecomputed:
    """Compute affected outcomes again from the prices on record now, page by page; commits each.

    One whose prices are the same stays. One without a price is withdrawn, and its forecast waits for one. What
    producers are worth by them is added up by the next resolution. Interrupted anywhere and run again, or run twice at
    once, each outcome is corrected once.
    """
    done = OutcomesRecomputed()
    tolerance = timedelta(minutes=policy.forecasts.price_tolerance_minutes)
    block = timedelta(hours=policy.producers.agreement_block_hours)
    while True:
        async with session.begin():
            await store.resolution.lock(session)
            page = await store.corrections.page(session, asset, tolerance, OUTCOMES_A_TRANSACTION)
            if not page:
                return done
            priced = [one for one in page if one.priced]
            withdrawn = [one for one in page if not one.priced]
            corrected = await store.corrections.correct(
                session, priced, score(priced, policy), now=now, policy_hash=policy.forecasts.hash, block=block
            )
            await store.corrections.withdraw(session, withdrawn, block=block)
            await store.corrections.unmark(session, page)
        done.corrected += corrected
        done.unchanged += len(priced) - corrected
        done.withdrawn += len(withdrawn)
