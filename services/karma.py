"""Karma, the trust in each producer: listing it, and rebuilding it from the attributions."""

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models import launches
from closeloop.models.positions import KarmaRebuildReport, KarmaRebuildRequest, ProducerTrust
from closeloop.services import books
from closeloop.services.cursors import in_book
from closeloop.services.launching import run


async def listing(
    session: AsyncSession, book: str | None = None, *, last: int | None = None, before: str | None = None
) -> list[ProducerTrust]:
    """Karma of every producer, book by book, the most trusted first.

    Only the ``last`` of those before the producer ``before``: its id where a book is given, else BOOK/ID. Raises
    NotOnRecord and NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = None if before is None else "/".join(in_book(book, before))
    return await store.karma.listing(session, book, last, cursor)


async def rebuild(client: Client, session: AsyncSession, request: KarmaRebuildRequest) -> KarmaRebuildReport:
    """Recompute karma in a workflow, so that it stands in the audit trail. Raises NotOnRecord, RunFailed."""
    await books.find_if_named(session, request.book)
    report: KarmaRebuildReport = await run(client, launches.karma_rebuild(request), "Karma was not rebuilt")
    return report
