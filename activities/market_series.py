"""The market's series, brought up to their bars: a series that fails is reported alone, and the others go on."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.heartbeats import beating
from closeloop.activities.market_stages import Advance
from closeloop.activities.transactions import DATABASE_AWAY, transaction
from closeloop.models.bounded import add_failure
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_series import AdvanceMarket, MarketAdvanced
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions

TASK = "market"
"""The name of the work where a series cannot be advanced; its subject is the driver and the timeframe: BTC/1h."""
BATCH_BARS = 5_000


class MarketSeriesActivities:
    """Computes bars and states of the market from what is on record."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, batch_bars: int = BATCH_BARS) -> None:
        self._sessions = sessions
        self._policy = policy.market
        self._batch_bars = batch_bars

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.advance_market]

    @activity.defn(name="advance_market")
    async def advance_market(self, request: AdvanceMarket) -> MarketAdvanced:
        """Bring the series of a timeframe up to their bars that had ended by then, a batch of each; safe to repeat.

        All of it in one transaction. Where that fails, each series is tried in one of its own, and what is wrong with
        one is told and stands in ``closeloop status`` until it succeeds.
        """
        step = request.timeframe.seconds
        until = datetime.fromtimestamp(int(request.until.timestamp()) // step * step, UTC)
        answer = MarketAdvanced(timeframe=request.timeframe, series=[])
        async with beating():
            try:
                done = await self._together(answer, until)
            except Exception as error:
                _raise_passing(error)
                done = []
            for driver in Driver:
                if driver not in done:
                    await self._alone(answer, driver, until)
        answer.series.sort(key=lambda each: list(Driver).index(each.driver))
        return answer

    async def _together(self, answer: MarketAdvanced, until: datetime) -> list[Driver]:
        """All series in one transaction, but those that failed the last time; returns which."""
        async with transaction(self._sessions) as session:
            failing = await store.failures.subjects(session, TASK)
            drivers = [driver for driver in Driver if _subject(driver, answer.timeframe) not in failing]
            series, more = await self._advance(session, answer.timeframe, until).run(drivers)
        answer.series += series
        answer.more |= more
        return drivers

    def _advance(self, session: AsyncSession, timeframe: Timeframe, until: datetime) -> Advance:
        return Advance(session, timeframe, until, self._policy, self._batch_bars)

    async def _alone(self, answer: MarketAdvanced, driver: Driver, until: datetime) -> None:
        subject = _subject(driver, answer.timeframe)
        try:
            async with transaction(self._sessions) as session:
                series, more = await self._advance(session, answer.timeframe, until).run([driver])
        except Exception as error:  # whatever is wrong with one series, the others are due
            _raise_passing(error)
            reason = error.message if isinstance(error, ApplicationError) else f"{type(error).__name__}: {error}"
            activity.logger.error("the market's series %s failed: %s", subject, reason)
            add_failure(answer.failed, driver, reason)
            async with transaction(self._sessions) as session:
                await store.failures.failed(session, TASK, subject, reason[:300])
        else:
            answer.series += series
            answer.more |= more
            async with transaction(self._sessions) as session:
                await store.failures.succeeded(session, TASK, subject)


def _raise_passing(error: Exception) -> None:
    """Raise what a retry may mend: the database did not answer."""
    if isinstance(error, ApplicationError) and error.type == DATABASE_AWAY:
        raise error


def _subject(driver: Driver, timeframe: Timeframe) -> str:
    return f"{driver}/{timeframe}"
