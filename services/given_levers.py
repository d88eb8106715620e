"""Levers that are given to an engine and kept on record, so that the close of the position can name them."""

import hashlib
from datetime import UTC, datetime

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.contexts import states_by_dimension
from closeloop.models.errors import NotAcceptable
from closeloop.models.given_levers import LeversGiven
from closeloop.models.market_levers import Levers, LeversRequest
from closeloop.models.policy import LeversPolicy
from closeloop.models.values import utc_text
from closeloop.services import books, market_drivers, market_levers
from closeloop.store.market import states

ID_DIGITS = 32


async def give(
    session: AsyncSession, book: str, request: LeversRequest, instant: datetime, policy: LeversPolicy
) -> LeversGiven:
    """A and E as of an instant, by what was known and in force then, and put on record for a book, in the caller's
    transaction.

    The same request for the same instant is answered with what is on record: levers are never rewritten, whatever is
    known since. Raises NotAcceptable as :func:`market_levers.as_of` does, and for an instant to come; BookArchived.
    """
    market_levers.answer(request, (), policy)  # what cannot be asked is refused before anything is read
    if instant > datetime.now(UTC):
        raise NotAcceptable("Levers cannot be given: as_of must not be in the future.")
    await books.refuse_archived(session, book)
    name = levers_id(book, request, instant)
    row = (await store.given_levers.load(session, [name])).get(name)
    if row is None:
        policy = await market_drivers.policy_of(session, book, policy, instant)
        found = await states.as_of(session, instant, market_levers.ages(policy))
        answer = await market_levers.in_states(session, request, instant, found, policy)
        used = {(each.driver, each.timeframe) for each in answer.contributions}
        row = await store.given_levers.record(
            session,
            {
                "levers_id": name,
                "book_id": book,
                "as_of": instant,
                "request": request.model_dump(mode="json"),
                "answer": answer.model_dump(mode="json", by_alias=False),
                "states": states_by_dimension(found, request.bucket),
                "a_value": answer.A,
                "e_value": answer.E,
                "known_then": all(each.known_then for each in found if (each.driver, each.timeframe) in used),
                "policy_hash": policy.hash,
            },
        )
    return LeversGiven(
        levers_id=name,
        book=book,
        as_of=row["as_of"],
        given_at=row["given_at"],
        known_then=row["known_then"],
        policy_hash=row["policy_hash"],
        **Levers.model_validate(row["answer"]).model_dump(),
    )


def levers_id(book: str, request: LeversRequest, instant: datetime) -> str:
    """The id of levers: a digest of what was asked, for which book and instant. The order of metrics is no matter."""
    asked = request.model_dump(mode="json") | {"intent": dict(sorted(request.intent.items()))}
    digest = hashlib.sha256(to_json([book, utc_text(instant), asked])).hexdigest()
    return f"lv-{digest[:ID_DIGITS]}"
