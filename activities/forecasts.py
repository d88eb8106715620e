"""Forecasts: recording what producers say, and resolving it once its horizon has elapsed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import check_open
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.models.bounded import FAILURES, MORE
from closeloop.models.errors import BookArchived, NotAcceptable, NotPossibleNow
from closeloop.models.forecasts import (
    Forecast,
    ForecastAction,
    ForecastReport,
    PagesResolved,
    ResolutionKey,
    ResolutionReport,
    ResolvePages,
)
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import BOOK_ARCHIVED
from closeloop.models.prices import PricesFetched
from closeloop.models.producers import Heartbeat
from closeloop.services import forecasts as services
from closeloop.services.outcome_corrections import score
from closeloop.store.database import Sessions
from closeloop.store.resolution import DueForecast, Unpriced

# The price source is asked again for a forecast without a price after the first of these, then after twice as long each
# time, up to the second.
FIRST_RETRY_AFTER = timedelta(minutes=30)
LONGEST_RETRY_AFTER = timedelta(hours=24)
PROVISIONAL = (
    "the candle before its {when} time may have been going on when its file was written: import an export that holds "
    "it and a later one"
)
FORECAST_CONFLICT = "ForecastConflict"
FORECAST_REFUSED = "ForecastRefused"


class ForecastActivities:
    """Records forecasts and heartbeats, resolves what is due from the prices on record."""

    page_size = 5_000  # forecasts that are resolved in one transaction
    pages = 20  # of one run of the activity; the workflow runs it again for the rest

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.record_forecast, self.record_heartbeat, self.resolve_pages, self.report_resolution]

    @activity.defn(name="record_forecast")
    async def record_forecast(self, forecast: Forecast) -> ForecastReport:
        """Store one forecast. Sent again, it changes nothing; sent again with other content, it is refused."""
        try:
            async with transaction(self._sessions) as session:
                return await services.record(session, forecast, datetime.now(UTC))
        except NotAcceptable as error:
            raise ApplicationError(str(error), type=FORECAST_REFUSED, non_retryable=True) from None
        except BookArchived as error:
            raise ApplicationError(str(error), type=BOOK_ARCHIVED, non_retryable=True) from None
        except NotPossibleNow as error:
            raise ApplicationError(str(error), type=FORECAST_CONFLICT, non_retryable=True) from None

    @activity.defn(name="record_heartbeat")
    async def record_heartbeat(self, heartbeat: Heartbeat) -> bool:
        """Count a producer's sign of life, once."""
        assert heartbeat.heartbeat_id is not None, "the workflow fills it in"
        assert heartbeat.at is not None, "the workflow fills it in"
        async with transaction(self._sessions) as session:
            await check_open(session, heartbeat.book)
            return await store.producers.beat(session, heartbeat, heartbeat.heartbeat_id, heartbeat.at)

    @activity.defn(name="resolve_pages")
    async def resolve_pages(self, request: ResolvePages) -> PagesResolved:
        """Resolve due forecasts page after page, the oldest targets first; each page is one transaction."""
        after, left = request.after, 0
        async with beating():
            for _ in range(self.pages):
                page, left_of_page = await self._resolve_page(request, after)
                left += left_of_page
                if len(page) < self.page_size:
                    return PagesResolved(left=left, after=None)
                after = page[-1].target_at, page[-1].book, page[-1].forecast_id
                activity.heartbeat(after[0].isoformat())
        return PagesResolved(left=left, after=after)

    @activity.defn(name="report_resolution")
    async def report_resolution(self, key: ResolutionKey) -> ResolutionReport:
        """What a resolution did, and what is left."""
        async with transaction(self._sessions) as session:
            counted = await store.resolution.counted(session, key.resolution_id)
            reasons = await store.resolution.pending_reasons(session, due_at(key.as_of, self._policy))
        named, others = list(reasons.items())[:FAILURES], list(reasons.items())[FAILURES:]
        return ResolutionReport(
            as_of=key.as_of,
            workflow_id=key.workflow_id,
            resolved=counted.resolved,
            abstained=counted.abstained,
            pending=sum(reasons.values()),
            unresolvable=counted.given_up,
            reasons=dict(named) | ({MORE: sum(count for _, count in others)} if others else {}),
            candles_fetched=counted.candles,
        )

    async def _resolve_page(
        self, request: ResolvePages, after: store.resolution.DueCursor | None
    ) -> tuple[Sequence[DueForecast], int]:
        policy = self._policy
        async with transaction(self._sessions) as session:
            await store.resolution.lock(session)
            tolerance = timedelta(minutes=policy.forecasts.price_tolerance_minutes)
            due = due_at(request.as_of, policy)
            page = await store.resolution.due_with_prices(session, due, tolerance, after, self.page_size)
            abstained = [one.key for one in page if one.action == ForecastAction.no_forecast]
            priced = [one for one in page if one.action != ForecastAction.no_forecast and one.priced]
            unpriced = [one for one in page if one.action != ForecastAction.no_forecast and not one.priced]
            resolved = await self._settle(session, priced, request)
            if abstained:
                await store.resolution.drop_abstentions(session, abstained)
            fetched = request.fetched
            left = await self._left(session, unpriced, request.as_of, fetched) if fetched else []
            await store.resolution.record_unpriced(session, left)
            given_up = sum(one.given_up for one in left)
            if resolved or abstained or given_up:
                await store.resolution.count(
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

    async def _settle(self, session: AsyncSession, due: Sequence[DueForecast], request: ResolvePages) -> int:
        return await store.resolution.settle(
            session,
            due,
            score(due, self._policy),
            resolved_at=datetime.now(UTC),
            resolved_by=request.resolution_id,
            policy_hash=self._policy.forecasts.hash,
            block=timedelta(hours=self._policy.producers.agreement_block_hours),
        )

    async def _left(
        self, session: AsyncSession, unpriced: Sequence[DueForecast], as_of: datetime, fetched: PricesFetched
    ) -> list[Unpriced]:
        unknown = sorted({one.asset for one in unpriced} & set(fetched.unknown))
        imported = await store.prices.spans(session, unknown) if unknown else {}
        return [why for one in unpriced if (why := self._unpriced(one, as_of, fetched, imported))]

    def _unpriced(
        self,
        one: DueForecast,
        as_of: datetime,
        fetched: PricesFetched,
        imported: Mapping[str, tuple[datetime, datetime]],
    ) -> Unpriced | None:
        """Why a forecast has no price, now that the source was asked; None if the source was not asked for this one."""
        if one.next_attempt_at is not None and one.next_attempt_at > as_of:
            return None
        asset = one.asset
        if not one.certain_at_issue:
            when, instant, price, covered = "issue", one.issued_at, one.price_at_issue, one.covered_at_issue
        else:
            when, instant, price, covered = "target", one.target_at, one.price_at_target, one.covered_at_target
        known = False
        minutes = self._policy.forecasts.price_tolerance_minutes
        if one.provisional_at_issue if when == "issue" else one.provisional_at_target:
            reason = PROVISIONAL.format(when=when)
        elif asset in fetched.unknown:
            reason, known = f"the price source does not know {asset}", True
            first, last = imported.get(asset, (None, None))
            if first is None or last is None:
                reason += ", and no prices of it were imported"
            elif price is None and first <= instant <= last:
                reason += (
                    f"; of the imported candles none ended within {minutes} minutes before its {when} time: the market "
                    "was closed, or they are missing"
                )
            else:
                reason += f", and the imported prices do not say what it was at its {when} time"
        elif asset in fetched.failures:
            reason = fetched.failures[asset]
        elif price is None and covered:
            reason = (
                f"no candle ended within {minutes} minutes before its {when} time: the source has none, the market was "
                "closed"
            )
            known = True
        elif any(start <= instant < end for start, end in fetched.answered.get(asset, ())):
            reason = (
                f"no price at its {when} time"
                if price is None
                else f"no candle yet of the interval before its {when} time"
            )
        elif fetched.silence is not None:
            reason = fetched.silence
        else:
            return None
        since = one.first_attempt_at or as_of
        patience = timedelta(days=self._policy.forecasts.unresolvable_days)
        # Where it is known that there is no price, the days count from the target. Where the source has not answered, a
        # price may still exist: they count from the first attempt.
        begun = one.target_at if known else max(since, one.target_at)
        until = begun + patience
        given_up = as_of >= until
        wait = min(FIRST_RETRY_AFTER * 2 ** min(one.attempts, 10), LONGEST_RETRY_AFTER)
        return Unpriced(
            key=one.key,
            reason=reason[:1_000],
            first_attempt_at=since,
            next_attempt_at=None if given_up else min(as_of + wait, until),
            given_up=given_up,
        )


def due_at(as_of: datetime, policy: LearningPolicy) -> datetime:
    """The latest target that is due at an instant."""
    return as_of - timedelta(minutes=policy.forecasts.grace_minutes)
