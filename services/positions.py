"""Closing positions."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

from closeloop import store
from closeloop.models.errors import BookArchived, NotAcceptable, NotPossibleNow, RunFailed, ServiceError
from closeloop.models.launches import position_close, position_close_id, received_closes
from closeloop.models.positions import (
    BOOK_ARCHIVED,
    CURRENCY_CONFLICT,
    POSITION_CONFLICT,
    POSITION_REFUSED,
    ClosedPosition,
    CloseReport,
    ClosesReport,
    PositionKey,
    RejectedClose,
)
from closeloop.models.unreadable import UnreadablePositionView
from closeloop.services import books
from closeloop.services.launching import start

CLOSES_AT_ONCE = 20
_REFUSALS: Mapping[str | None, type[ServiceError]] = {
    BOOK_ARCHIVED: BookArchived,
    CURRENCY_CONFLICT: NotPossibleNow,
    POSITION_CONFLICT: NotPossibleNow,
    POSITION_REFUSED: NotAcceptable,
}


async def start_close(client: Client, position: ClosedPosition) -> WorkflowHandle[object, CloseReport]:
    """Start a position's workflow. Raises WorkflowAlreadyStartedError while one of it runs."""
    return await start(client, position_close(position))


async def start_received(client: Client) -> None:
    """Have the received closes that have no attribution attributed together, also those that come meanwhile."""
    await start(client, received_closes(), signal="more")


async def close(client: Client, position: ClosedPosition) -> CloseReport:
    """Run a position's workflow and wait for its report.

    If a workflow of this close is running already, it is waited for and then asked again, because the one under way
    may have been sent with other content. Raises NotPossibleNow where other content is on record or the book's money is
    in another currency, NotAcceptable where
    the close cannot be, RunFailed where the workflow failed otherwise.
    """
    while True:
        try:
            handle = await start_close(client, position)
            break
        except WorkflowAlreadyStartedError:
            with contextlib.suppress(WorkflowFailureError):
                await client.get_workflow_handle(position_close_id(position)).result()
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause: BaseException = error
        while isinstance(cause, WorkflowFailureError | ActivityError) and cause.cause is not None:
            cause = cause.cause
        if isinstance(cause, ApplicationError):
            raise _REFUSALS.get(cause.type, RunFailed)(cause.message) from None
        raise RunFailed(str(cause)) from None


async def close_all(client: Client, positions: Mapping[int, ClosedPosition]) -> ClosesReport:
    """Close positions, each named by its place in what was sent, some at once. One that is refused stops no other.

    Of several closes of one position the first one sent stays, and of several currencies in one book: these are closed
    in turn, as they were sent.
    """
    currencies: defaultdict[str, set[str]] = defaultdict(set)
    for position in positions.values():
        currencies[position.book] |= {position.currency} if position.currency else set()
    turns: defaultdict[str | PositionKey, list[tuple[int, ClosedPosition]]] = defaultdict(list)
    for index, position in positions.items():
        together = position.book if len(currencies[position.book]) > 1 else position.key
        turns[together].append((index, position))
    slots = asyncio.Semaphore(CLOSES_AT_ONCE)

    async def one(index: int, position: ClosedPosition) -> CloseReport | RejectedClose:
        async with slots:
            try:
                return await close(client, position)
            except ServiceError as error:
                return RejectedClose(index=index, position_id=position.position_id, reason=str(error))

    async def in_turn(closes: Sequence[tuple[int, ClosedPosition]]) -> dict[int, CloseReport | RejectedClose]:
        return {index: await one(index, position) for index, position in closes}

    answered: dict[int, CloseReport | RejectedClose] = {}
    for some in await asyncio.gather(*(in_turn(closes) for closes in turns.values())):
        answered |= some
    answers = [answered[index] for index in positions]
    return ClosesReport(
        closed=[answer for answer in answers if isinstance(answer, CloseReport)],
        rejected=[answer for answer in answers if isinstance(answer, RejectedClose)],
    )


async def unreadable(
    session: AsyncSession, *, book: str | None = None, last: int | None = None, before: str | None = None
) -> list[UnreadablePositionView]:
    """Positions that an engine wrote and that cannot be read as closes, by book and position.

    At most the ``last`` of those before ``before`` (BOOK/POSITION). Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    return await store.unreadable.listing(session, book, last, before)


async def read_again(session: AsyncSession, book: str | None = None) -> int:
    """Let the next catch-up read such positions again, as after an upgrade; returns how many. Commits.

    Raises NotOnRecord.
    """
    async with session.begin():
        await books.find_if_named(session, book)
        return await store.unreadable.forget(session, book)
