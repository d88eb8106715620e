"""Forecasts are recorded, resolved once their horizon has elapsed, and learned from."""

import hashlib
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import NOTHING, expect, received
from closeloop.workflows.retries import LONGEST_TRANSACTION, TWO_ATTEMPTS, UNTIL_DONE, UNTIL_NEXT_RUN

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.forecasts import ForecastActivities
    from closeloop.activities.prices import PriceActivities
    from closeloop.activities.producers import ProducerActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.assets import canonical_asset
    from closeloop.models.forecasts import (
        Forecast,
        ForecastReport,
        ResolutionContinuation,
        ResolutionKey,
        ResolutionReport,
        ResolutionRequest,
        ResolvePages,
    )
    from closeloop.models.launches import MARKET_TASK_QUEUE, meta_forecast
    from closeloop.models.meta import MetaReport, MetaRequest
    from closeloop.models.prices import FetchPrices, PricesFetched
    from closeloop.models.producers import Heartbeat, PerformanceRequest

CLOCK_DIFFERENCE = timedelta(minutes=5)  # by which the clock of who asks may be ahead
# Activities of a run before it continues as new, so that its history stays short; each takes about 100,000 forecasts.
MOST_ACTIVITIES = 50


@workflow.defn(name="ForecastResolutionWorkflow")
class ForecastResolutionWorkflow:
    """Every forecast whose horizon has elapsed gets its outcome, once.

    1. *Resolve* what is due from the prices on record.
    2. *Ask* the price source for what is missing, and resolve again; what still has no price stays pending with its
       reason. A source that does not answer delays only these.
    3. *Learn*: performance, agreement, recalibration; then the meta-producer speaks.

    Run twice at once, or killed anywhere and run again, it writes every outcome once.
    """

    def __init__(self) -> None:
        self._activities = 0
        self._ask_again = False

    @workflow.run
    async def run(self, message: ResolutionRequest | None = None) -> ResolutionReport:
        """See the class. Continues as new where the backlog is large."""
        request = expect(message, ResolutionRequest)
        info = workflow.info()
        as_of = request.as_of or scheduled_time()
        if as_of > workflow.now() + CLOCK_DIFFERENCE:
            raise ApplicationError("as_of: must not be in the future", type="ResolutionRefused", non_retryable=True)
        stopped, self._ask_again = request.continued, request.ask_again
        key = ResolutionKey(
            resolution_id=stopped.resolution_id if stopped else f"{info.workflow_id}/{info.first_execution_run_id}",
            as_of=as_of,
            workflow_id=info.workflow_id,
        )
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("forecast-resolution")])
        fetched = stopped.fetched if stopped else None
        left = await self._resolve(key, fetched, stopped)
        while left and (fetched is None or fetched.more):
            fetched = await self._fetch(key, self._ask_again and fetched is None)
            left = await self._resolve(key, fetched)
        report = await workflow.execute_activity_method(
            ForecastActivities.report_resolution,
            key,
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary="What came out",
        )
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        report.failed = await self._learn(as_of)
        if report.failed:
            workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _resolve(
        self, key: ResolutionKey, fetched: PricesFetched | None, stopped: ResolutionContinuation | None = None
    ) -> int:
        """Resolve all pages of what is due; returns how many forecasts have no price."""
        left, after = (stopped.left, stopped.after) if stopped else (0, None)
        while True:
            pages = await workflow.execute_activity_method(
                ForecastActivities.resolve_pages,
                ResolvePages(resolution_id=key.resolution_id, as_of=key.as_of, after=after, fetched=fetched),
                start_to_close_timeout=timedelta(minutes=30),
                heartbeat_timeout=timedelta(seconds=20),
                retry_policy=UNTIL_DONE,
                summary="Resolve from the prices on record" if fetched is None else "Resolve with what the source gave",
            )
            self._activities += 1
            left += pages.left
            after = pages.after
            if after is None:
                return left
            if self._activities > MOST_ACTIVITIES:
                at = ResolutionContinuation(resolution_id=key.resolution_id, after=after, left=left, fetched=fetched)
                workflow.continue_as_new(ResolutionRequest(as_of=key.as_of, ask_again=self._ask_again, continued=at))

    async def _fetch(self, key: ResolutionKey, ask_again: bool) -> PricesFetched:
        """Ask the price source for what is missing. What it does not answer now, the next run asks for."""
        try:
            return await workflow.execute_activity_method(
                PriceActivities.fetch_prices,
                FetchPrices(resolution_id=key.resolution_id, as_of=key.as_of, ask_again=ask_again),
                task_queue=MARKET_TASK_QUEUE,
                schedule_to_start_timeout=timedelta(seconds=15),
                start_to_close_timeout=timedelta(seconds=90),
                heartbeat_timeout=timedelta(seconds=20),
                retry_policy=TWO_ATTEMPTS,
                summary="Ask the price source for what is missing",
            )
        except ActivityError:
            workflow.logger.warning("the price source could not be asked", exc_info=True)
            return PricesFetched(silence="no worker asked the price source in time")

    async def _learn(self, as_of: datetime) -> dict[str, str]:
        """Update what is known of producers, and let the meta-producer speak; returns why a book failed, by book."""
        failed: dict[str, str] = {}
        request = PerformanceRequest(as_of=as_of)
        for activity_, summary in (
            (ProducerActivities.update_performance, "Performance and agreement of producers"),
            (ProducerActivities.update_recalibration, "Recalibration of producers"),
        ):
            try:
                learned = await workflow.execute_activity_method(
                    activity_,
                    request,
                    start_to_close_timeout=timedelta(minutes=30),
                    heartbeat_timeout=timedelta(seconds=30),
                    retry_policy=UNTIL_NEXT_RUN,
                    summary=summary,
                )
            except ActivityError:
                workflow.logger.warning("%s: not this time", summary, exc_info=True)
            else:
                failed |= learned.failed
        launch = meta_forecast(MetaRequest(as_of=as_of))
        try:
            spoken = await workflow.execute_child_workflow(
                launch.workflow,
                launch.message,
                id=launch.id,
                result_type=MetaReport,
                static_summary=launch.summary,
                search_attributes=launch.attributes,
            )
            failed |= spoken.failed
        except WorkflowAlreadyStartedError:
            workflow.logger.info("another resolution of this instant lets the meta-producer speak")
        except ChildWorkflowError:
            # What was resolved stands; the failed child says in the audit trail what was wrong.
            workflow.logger.warning("the meta-producer did not speak", exc_info=True)
        return failed


@workflow.defn(name="ForecastWorkflow")
class ForecastWorkflow:
    """Record one forecast, as an engine sends it."""

    @workflow.run
    async def run(self, message: RawValue = NOTHING) -> ForecastReport:
        """See the class. The message is a Forecast."""
        forecast = received(message, Forecast)
        workflow.upsert_search_attributes(
            [
                sa.LIFECYCLE.value_set("forecast"),
                sa.BOOK.value_set(forecast.book),
                sa.SYMBOL.value_set(canonical_asset(forecast.asset)),
                sa.DIRECTION.value_set(forecast.action),
                sa.PRODUCERS.value_set([forecast.producer_id]),
            ]
        )
        try:
            report = await workflow.execute_activity_method(
                ForecastActivities.record_forecast,
                forecast,
                start_to_close_timeout=LONGEST_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary="Record the forecast",
            )
        except ActivityError as error:
            raise error.cause or error from None
        confidence = "" if forecast.confidence is None else f" at {forecast.confidence:.0%}"
        said = f"{forecast.producer_id}: {forecast.asset} {forecast.action}{confidence} over {forecast.horizon}"
        workflow.upsert_memo({"outcome": said})
        return report


@workflow.defn(name="HeartbeatWorkflow")
class HeartbeatWorkflow:
    """Count a producer's sign of life. The same workflow id, or the same heartbeat_id, counts once."""

    @workflow.run
    async def run(self, message: RawValue = NOTHING) -> bool:
        """See the class; false if it was counted before. The message is a Heartbeat."""
        heartbeat = received(message, Heartbeat)
        filled = heartbeat.model_copy(
            update={
                "heartbeat_id": heartbeat.heartbeat_id or _identifier(workflow.info().workflow_id),
                "at": min(heartbeat.at, workflow.now()) if heartbeat.at else workflow.now(),
            }
        )
        return await workflow.execute_activity_method(
            ForecastActivities.record_heartbeat,
            filled,
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary="Count the heartbeat",
        )


def _identifier(workflow_id: str) -> str:
    """The workflow's id as an identifier, or its hash where it has more than 200 bytes."""
    if len(workflow_id.encode()) <= 200:
        return workflow_id
    return hashlib.sha256(workflow_id.encode()).hexdigest()
