"""Forecasts: recording what producers say, and resolving it once its horizon has elapsed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.learning.scoring import ACTION_CODES, brier, correct, log_score, returns_pct
from closeloop.models.forecasts import (
    Action,
    Forecast,
    ForecastKey,
    ForecastReport,
    PagesResolved,
    ResolutionKey,
    ResolutionReport,
    ResolvePages,
)
from closeloop.models.meta import META
from closeloop.models.policy import LearningPolicy
from closeloop.models.prices import PricesFetched
from closeloop.models.producers import Heartbeat
from closeloop.store.database import Sessions
from closeloop.store.forecasts import Left

FIRST_WAIT = timedelta(minutes=30)
LONGEST_WAIT = timedelta(hours=24)
CONFLICT = "ForecastConflict"
NOT_META = f"producer_id: {META} is the name of closeloop's own meta-producer"


class ForecastActivities:
    """Records forecasts and heartbeats, resolves what is due from the prices on record."""

    page_size = 5_000
    pages = 20

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.record_forecast, self.record_heartbeat, self.resolve_pages, self.report_resolution]

    @activity.defn(name="record_forecast")
    async def record_forecast(self, forecast: Forecast) -> ForecastReport:
        """Store one forecast. Sent again, it is the same; with other content it is refused."""
        if forecast.producer_id == META:
            raise ApplicationError(NOT_META, type="ForecastRefused", non_retryable=True)
        async with transaction(self._sessions) as session:
            recorded = await store.forecasts.record(session, [forecast])
        if fields := recorded.differing.get(forecast.key):
            raise ApplicationError(conflict(fields), type=CONFLICT, non_retryable=True)
        return ForecastReport(forecast_id=forecast.forecast_id, already_recorded=forecast.key not in recorded.new)

    @activity.defn(name="record_heartbeat")
    async def record_heartbeat(self, heartbeat: Heartbeat) -> bool:
        """Count a producer's sign of life, once."""
        assert heartbeat.heartbeat_id is not None, "the workflow fills it in"
        assert heartbeat.at is not None, "the workflow fills it in"
        async with transaction(self._sessions) as session:
            return await store.producers.beat(session, heartbeat, heartbeat.heartbeat_id, heartbeat.at)

    @activity.defn(name="resolve_pages")
    async def resolve_pages(self, request: ResolvePages) -> PagesResolved:
        """Page after page, oldest targets first; what became of a forecast is stored with its page."""
        after, left = request.after, 0
        async with beating():
            for _ in range(self.pages):
                page, left_of_page = await self._resolve_page(request, after)
                left += left_of_page
                if len(page) < self.page_size:
                    return PagesResolved(left=left, after=None)
                after = _cursor_of(page[-1])
                activity.heartbeat(after[0].isoformat())
        return PagesResolved(left=left, after=after)

    @activity.defn(name="report_resolution")
    async def report_resolution(self, key: ResolutionKey) -> ResolutionReport:
        """What a resolution did, and what is left."""
        async with transaction(self._sessions) as session:
            counted = await store.forecasts.counted(session, key.resolution_id)
            reasons = await store.forecasts.pending_reasons(session, due_at(key.as_of, self._policy))
        report = ResolutionReport(
            as_of=key.as_of, workflow_id=key.workflow_id, pending=sum(reasons.values()), reasons=reasons
        )
        if counted:
            report.resolved, report.abstained = counted["resolved"], counted["abstained"]
            report.unresolvable, report.candles_fetched = counted["given_up"], counted["candles"]
        return report

    async def _resolve_page(
        self, request: ResolvePages, after: store.forecasts.Cursor | None
    ) -> tuple[Sequence[RowMapping], int]:
        policy = self._policy
        async with transaction(self._sessions) as session:
            await store.forecasts.take_turns(session)
            tolerance = timedelta(minutes=policy.forecasts.price_tolerance_minutes)
            due = due_at(request.as_of, policy)
            page = await store.forecasts.due_with_prices(session, due, tolerance, after, self.page_size)
            abstained = [_key(row) for row in page if row["action"] == Action.no_forecast]
            said = [row for row in page if row["action"] != Action.no_forecast]
            priced = [row for row in said if row["certain_at_issue"] and row["certain_at_target"]]
            resolved = await self._settle(session, priced, request)
            if abstained:
                await store.forecasts.drop_abstentions(session, abstained)
            unpriced = [row for row in said if not (row["certain_at_issue"] and row["certain_at_target"])]
            fetched = request.fetched
            left = [one for row in unpriced if (one := self._left(row, request.as_of, fetched))] if fetched else []
            await store.forecasts.leave(session, left)
            given_up = sum(one.given_up for one in left)
            if resolved or abstained or given_up:
                await store.forecasts.count(
                    session,
                    request.resolution_id,
                    request.as_of,
                    resolved=resolved,
                    abstained=len(abstained),
                    given_up=given_up,
                )
        meter = activity.metric_meter()
        meter.create_counter("closeloop_forecasts_resolved", "Forecasts resolved").add(resolved)
        return page, len(unpriced)

    async def _settle(self, session: AsyncSession, rows: Sequence[RowMapping], request: ResolvePages) -> int:
        if not rows:
            return 0
        confidence = np.array([row["confidence"] for row in rows], dtype=np.float64)
        action = np.array([ACTION_CODES[row["action"]] for row in rows], dtype=np.int8)
        returns = returns_pct(
            np.array([row["price_at_issue"] for row in rows], dtype=np.float64),
            np.array([row["price_at_target"] for row in rows], dtype=np.float64),
        )
        right = correct(action, returns, self._policy.forecasts)
        new = await store.forecasts.settle(
            session,
            [_key(row) for row in rows],
            [(row["price_at_issue"], row["price_at_target"]) for row in rows],
            returns.tolist(),
            right.tolist(),
            brier(confidence, right).tolist(),
            log_score(confidence, right).tolist(),
            resolved_at=datetime.now(UTC),
            resolved_by=request.resolution_id,
            policy_hash=self._policy.policy_hash,
            block=timedelta(hours=self._policy.producers.agreement_block_hours),
        )
        return sum(new.values())

    def _left(self, row: RowMapping, as_of: datetime, fetched: PricesFetched) -> Left | None:
        """Why a forecast has no price, now that the source has been asked; None if it has not been asked for it."""
        if row["next_attempt_at"] is not None and row["next_attempt_at"] > as_of:
            return None
        asset = row["asset"]
        when = "issue" if not row["certain_at_issue"] else "target"
        instant = row["issued_at" if when == "issue" else "target_at"]
        unpriced = row[f"price_at_{when}"] is None
        known = False
        if asset in fetched.unknown:
            reason, known = f"the price source does not know {asset}", True
        elif asset in fetched.failures:
            reason = fetched.failures[asset]
        elif unpriced and row[f"covered_at_{when}"]:
            minutes = self._policy.forecasts.price_tolerance_minutes
            reason = f"no candle ended within {minutes} minutes before its {when} time: the source has none"
            known = True
        elif any(start <= instant < end for start, end in fetched.answered.get(asset, ())):
            reason = (
                f"no price at its {when} time" if unpriced else f"no candle yet of the interval before its {when} time"
            )
        elif fetched.silence is not None:
            reason = fetched.silence
        else:
            return None
        first = row["first_attempt_at"] or as_of
        patience = timedelta(days=self._policy.forecasts.unresolvable_days)
        # While the source is silent, time alone does not tell that there is no price: count from the first attempt.
        begun = row["target_at"] if known else max(first, row["target_at"])
        last = begun + patience
        given_up = as_of >= last
        wait = min(FIRST_WAIT * 2 ** min(row["attempts"], 10), LONGEST_WAIT)
        return Left(
            key=_key(row),
            reason=reason[:1_000],
            first_attempt_at=first,
            next_attempt_at=None if given_up else min(as_of + wait, last),
            given_up=given_up,
        )


def due_at(as_of: datetime, policy: LearningPolicy) -> datetime:
    """The latest target that is due at an instant."""
    return as_of - timedelta(minutes=policy.forecasts.grace_minutes)


def conflict(fields: Sequence[str]) -> str:
    """Why a forecast is refused that is on record with other content."""
    return f"this forecast is on record with other content; differing: {', '.join(fields)}"


def _key(row: RowMapping) -> ForecastKey:
    return ForecastKey(row["book_id"], row["forecast_id"])


def _cursor_of(row: RowMapping) -> store.forecasts.Cursor:
    return row["target_at"], row["book_id"], row["forecast_id"]
