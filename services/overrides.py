"""Overrides: bringing them in line with lessons, listing them, and matching them with an action in a scope."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.overrides import Override, blend
from closeloop.learning.scope import flatten
from closeloop.models import launches
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.overrides import (
    OverrideMatch,
    OverrideMatchRequest,
    OverrideReport,
    OverrideRequest,
    OverrideView,
)
from closeloop.models.policy import LearningPolicy
from closeloop.services import books
from closeloop.services.launching import run


async def materialize(client: Client, request: OverrideRequest) -> OverrideReport:
    """Bring overrides in line with lessons in a workflow and wait for it.

    Raises RunFailed where a book that was asked for by name failed.
    """
    launch = launches.override_materialization(request)
    report: OverrideReport = await run(client, launch, "The overrides stay as they were")
    return report


async def listing(
    session: AsyncSession,
    book: str | None = None,
    *,
    closed: bool = False,
    last: int | None = None,
    before: str | None = None,
) -> list[OverrideView]:
    """Overrides in force and those that wait, of a book or of all; with ``closed`` those that ended, too.

    Only the ``last`` of them, and only what comes before the override ``before``. Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    if before is not None:
        await find(session, before)
    return await store.overrides.listing(session, book, closed, last=last, before=before)


async def find(session: AsyncSession, override_id: str) -> OverrideView:
    """An override. Raises NotOnRecord."""
    view = await store.overrides.find(session, override_id)
    if view is None:
        raise NotOnRecord(f"There is no override {override_id}: 'closeloop overrides list --closed' shows all of them.")
    return view


async def only_book(session: AsyncSession) -> str:
    """The book to match in where none is named. Raises NotAcceptable where several have overrides in force."""
    found = await store.overrides.books(session)
    if len(found) > 1:
        raise NotAcceptable(f"several books have overrides: say which of {', '.join(found[:20])}")
    return found[0] if found else "default"


async def match(
    session: AsyncSession, request: OverrideMatchRequest, at: datetime, policy: LearningPolicy
) -> OverrideMatch:
    """The size multiplier and threshold adjustments of an action in a scope, by the overrides in force at an instant.

    Engines read this before an order. Where no override applies, the multiplier is exactly 1.0. Raises
    NotOnRecord where there is no such book.
    """
    await books.find(session, request.book)
    scope = flatten({"scope": request.scope}, policy.patterns).values
    rows = await store.overrides.matching(
        session, request.book, request.pattern_key, request.action_category, scope, at
    )
    return blend([Override(**row) for row in rows], policy.overrides)
