"""The market: what its drivers are made of is collected, and their bars and states are brought up to now."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from closeloop.workflows.messages import expect
from closeloop.workflows.retries import TWO_ATTEMPTS, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.market_series import MarketSeriesActivities
    from closeloop.activities.market_sources import MarketSourceActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.launches import MARKET_TASK_QUEUE
    from closeloop.models.market import Timeframe
    from closeloop.models.market_runs import HELD, NOT_ASKED, MarketReport, MarketRequest
    from closeloop.models.market_series import AdvanceMarket
    from closeloop.models.market_sources import CollectMarket

# Activities of a run before it continues as new, so that its history stays short.
MOST_ACTIVITIES = 100
# How long a series that another run holds is waited for: that run does what this one would.
HELD_WAIT = timedelta(seconds=2)
MOST_WAITS = 30


@workflow.defn(name="MarketWorkflow")
class MarketWorkflow:
    """The series of a timeframe are brought up to now.

    1. *Collect* what the sources have, where the worker's CLOSELOOP_MARKET says so; a source that fails is named, and
       the run goes on without it.
    2. *Advance* the drivers' minutes, of which hours and days are made, then the timeframe. Where minutes were missing
       or came late, hours and days follow at once, whatever the timeframe: they wait for no run of their own.

    Run twice at once, or killed anywhere and run again, it comes to the same.
    """

    def __init__(self) -> None:
        self._report = MarketReport(timeframe=Timeframe.m1, until=workflow.now())
        self._request = MarketRequest()
        self._activities = 0

    @workflow.query
    def so_far(self) -> MarketReport:
        """What came out until now."""
        return self._report

    @workflow.run
    async def run(self, message: MarketRequest | None = None) -> MarketReport:
        """See the class. Continues as new where there is much to catch up."""
        self._request = request = expect(message, MarketRequest)
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("market")])
        self._report = report = request.continued or MarketReport(timeframe=request.timeframe, until=workflow.now())
        await self._collect(report)
        report.until = workflow.now()
        await self._advance(report, Timeframe.m1)
        caught_up = report.of(Timeframe.m1).caught_up
        for timeframe in (Timeframe.h1, Timeframe.d1):
            if caught_up or timeframe == request.timeframe:
                await self._advance(report, timeframe)
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _collect(self, report: MarketReport) -> None:
        """Ask the sources until nothing is due."""
        more = True
        while more:
            try:
                collected = await workflow.execute_activity_method(
                    MarketSourceActivities.collect_market,
                    CollectMarket(),
                    task_queue=MARKET_TASK_QUEUE,
                    # Prices that forecasts lack may be asked for first, for half a minute.
                    schedule_to_start_timeout=timedelta(seconds=45),
                    start_to_close_timeout=timedelta(seconds=90),
                    heartbeat_timeout=timedelta(seconds=10),
                    retry_policy=TWO_ATTEMPTS,
                    summary="Ask the sources for what is due",
                )
            except ActivityError:
                workflow.logger.warning("the sources could not be asked", exc_info=True)
                report.not_asked = NOT_ASKED
                return
            report.collected(collected)
            more = collected.more
            self._count()

    async def _advance(self, report: MarketReport, timeframe: Timeframe) -> None:
        """Bring a timeframe's series up to date, a batch at a time."""
        waits, more = 0, True
        while more:
            advanced = await workflow.execute_activity_method(
                MarketSeriesActivities.advance_market,
                AdvanceMarket(timeframe=timeframe, until=report.until),
                start_to_close_timeout=timedelta(minutes=10),
                heartbeat_timeout=timedelta(seconds=20),
                retry_policy=UNTIL_DONE,
                summary=f"Bars and states of {timeframe}",
            )
            report.advanced(advanced)
            more = advanced.more
            self._count()
            if more and not any(one.bars or one.bars_changed or one.states for one in advanced.series):
                waits += 1
                if waits > MOST_WAITS:
                    report.failed[f"{timeframe}"] = HELD
                    return
                await workflow.sleep(HELD_WAIT)

    def _count(self) -> None:
        """Continue as new where the history is long: the next one asks for what is left."""
        self._activities += 1
        if self._activities >= MOST_ACTIVITIES or workflow.info().is_continue_as_new_suggested():
            workflow.continue_as_new(self._request.model_copy(update={"continued": self._report}))
