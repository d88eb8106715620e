"""Forecasts: recording them, resolving those that are due, and listing them and their outcomes."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models import launches
from closeloop.models.errors import NotAcceptable, NotOnRecord, NotPossibleNow
from closeloop.models.forecasts import (
    Forecast,
    ForecastDetails,
    ForecastKey,
    ForecastReport,
    ForecastsAdded,
    ForecastState,
    ForecastView,
    OutcomeView,
    ResolutionReport,
    ResolutionRequest,
    UnacceptableForecast,
)
from closeloop.models.meta import META
from closeloop.services import books
from closeloop.services.cursors import in_book
from closeloop.services.launching import run

FORECASTS_A_TRANSACTION = 2_000
CLOCK_DIFFERENCE = timedelta(minutes=5)  # by which the clock of who issues a forecast may be ahead
_IN_THE_FUTURE = "issued_at: must not be more than 5 minutes in the future"
_META_IS_RESERVED = f"producer_id: {META} is the name of closeloop's own meta-producer"


async def record(session: AsyncSession, forecast: Forecast, now: datetime) -> ForecastReport:
    """Store one forecast in the caller's transaction. Sent again, it is the same.

    Raises NotAcceptable where it names the meta-producer or is issued in the future, NotPossibleNow where it is on
    record with other content, BookArchived.
    """
    if reason := unacceptable(forecast, now):
        raise NotAcceptable(reason)
    await books.refuse_archived(session, forecast.book)
    recorded = await store.forecasts.record(session, [forecast])
    if fields := recorded.differing.get(forecast.key):
        raise NotPossibleNow(_conflict(fields))
    return ForecastReport(forecast_id=forecast.forecast_id, already_recorded=forecast.key not in recorded.new)


def unacceptable(forecast: Forecast, now: datetime) -> str:
    if forecast.producer_id == META:
        return _META_IS_RESERVED
    return _IN_THE_FUTURE if forecast.issued_at > now + CLOCK_DIFFERENCE else ""


async def add(
    session: AsyncSession, given: Iterable[tuple[int, Forecast | UnacceptableForecast]], now: datetime
) -> ForecastsAdded:
    """Store forecasts, given with their index (from 0) in what was sent; the report names those refused, and why.

    Commits every 2,000, so that what was stored is kept wherever it stops: sent again, they are the same.
    """
    report = ForecastsAdded(added=0, already_recorded=0, rejected=[])
    rest = iter(given)
    while batch := list(islice(rest, FORECASTS_A_TRANSACTION)):
        unsettled: list[tuple[int, Forecast]] = []
        for index, forecast in batch:
            if isinstance(forecast, UnacceptableForecast):
                report.rejected.append(forecast)
            elif reason := unacceptable(forecast, now):
                report.rejected.append(UnacceptableForecast(index=index, reason=reason))
            else:
                unsettled.append((index, forecast))
        while unsettled:
            first = {forecast.key: forecast for _, forecast in reversed(unsettled)}
            repeated: dict[ForecastKey, list[int]] = {}
            for index, forecast in unsettled:
                if forecast == first[forecast.key]:
                    repeated.setdefault(forecast.key, []).append(index)
            async with session.begin():
                archived = await store.books.archived(session, {key.book for key in first})
                taken = [first[key] for key in sorted(first) if key.book not in archived]
                recorded = await store.forecasts.record(session, taken)
            for key in [key for key in first if key.book in archived]:
                del first[key]
            report.rejected += [
                UnacceptableForecast(index=index, reason=books.archived_sentence(archived[forecast.book]))
                for index, forecast in unsettled
                if forecast.book in archived
            ]
            unsettled = [(index, forecast) for index, forecast in unsettled if forecast.book not in archived]
            report.added += len(recorded.new)
            known = sum(len(repeated[key]) for key in first.keys() - recorded.differing.keys())
            report.already_recorded += known - len(recorded.new)
            report.rejected += [
                UnacceptableForecast(index=index, reason=_conflict(fields))
                for key, fields in recorded.differing.items()
                for index in repeated[key]
            ]
            # Forecasts that share a key with an earlier one of the batch and differ from it: the next round compares
            # them with what is on record by then, and reports a conflict.
            unsettled = [(index, forecast) for index, forecast in unsettled if forecast != first[forecast.key]]
    report.rejected.sort(key=lambda one: one.index)
    return report


def _conflict(fields: Sequence[str]) -> str:
    return f"this forecast is on record with other content; differing: {', '.join(fields)}"


async def resolve(client: Client, as_of: datetime) -> ResolutionReport:
    """Run the resolution in a workflow and wait for it, or join the one of the same instant that runs already.

    Prices that the source did not have lately are asked for again now, before their next attempt is due. Raises
    RunFailed.
    """
    launch = launches.forecast_resolution(ResolutionRequest(as_of=as_of, ask_again=True), as_of)
    report: ResolutionReport = await run(client, launch, "The resolution failed")
    return report


async def listing(
    session: AsyncSession,
    book: str | None = None,
    *,
    producer: str | None = None,
    state: ForecastState | None = None,
    last: int | None = None,
    before: str | None = None,
) -> AsyncIterator[ForecastView]:
    """Forecasts with their state by when they were issued, streamed; shadows are left out.

    Only the newest ``last`` of those that come before the forecast ``before`` (see ``cursors.in_book``). Raises
    NotOnRecord, NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = await _cursor(session, book, before)
    rows = store.forecasts.listing(
        session,
        book=book,
        producer=producer,
        state=state,
        last=last,
        before=None if cursor is None else (cursor.issued_at, cursor.book, cursor.forecast_id),
    )
    async for view in rows:
        yield view


async def outcomes(
    session: AsyncSession,
    book: str | None = None,
    *,
    producer: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> AsyncIterator[OutcomeView]:
    """Outcomes of forecasts in the order of their targets, streamed; shadows are left out.

    Only the newest ``last`` of those that come before the outcome of the forecast ``before`` (see ``cursors.in_book``).
    Raises NotOnRecord, NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = await _cursor(session, book, before)
    rows = store.forecasts.outcomes(
        session,
        book=book,
        producer=producer,
        last=last,
        before=None if cursor is None else (cursor.target_at, cursor.book, cursor.forecast_id),
    )
    async for view in rows:
        yield view


async def show(session: AsyncSession, forecast_id: str, book: str | None = None) -> ForecastDetails:
    """A forecast and its outcome, by its id or by BOOK/ID.

    Raises NotOnRecord, and NotAcceptable where several books have one of that name.
    """
    await books.find_if_named(session, book)
    if book is None and "/" in forecast_id and not await store.forecasts.named(session, forecast_id):
        book, forecast_id = in_book(book, forecast_id)
    found = await _find(session, book, forecast_id)
    outcome = await store.forecasts.outcome(session, found.key)
    return ForecastDetails(**found.model_dump(), outcome=outcome)


async def _cursor(session: AsyncSession, book: str | None, before: str | None) -> ForecastView | None:
    if before is None:
        return None
    return await _find(session, *in_book(book, before))


async def _find(session: AsyncSession, book: str | None, forecast_id: str) -> ForecastView:
    found = await store.forecasts.named(session, forecast_id, book)
    if not found:
        raise NotOnRecord(f"There is no forecast {forecast_id}: 'closeloop forecasts list' shows what there is.")
    if len(found) > 1:
        named = ", ".join(one.book for one in found)
        raise NotAcceptable(f"Several books have a forecast {forecast_id} ({named}): say which with --book.")
    return found[0]
