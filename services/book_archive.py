"""Removing a book: it learns no more, what it has stays to be read, and it can be brought back."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.models.approvals import ApprovalView
from closeloop.models.books import BookChanged
from closeloop.models.bounded import first_names
from closeloop.models.events import EventType
from closeloop.models.weights import CycleKey, RecordRevert
from closeloop.services import books, market_drivers
from closeloop.services.approvals import BOOK_REMOVED, Subjects
from closeloop.services.weight_decisions import revert_to_preset
from closeloop.store.approvals import WaitingPage
from closeloop.store.database import Sessions


async def remove(
    client: Client, sessions: Sessions, subjects: Subjects, name: str, operator: str, note: str = ""
) -> BookChanged:
    """Archive a book. Commits, then tells the workflows that wait for an operator.

    Everything that it has stays on record. Nobody watches what it had learned any more, so that nothing of it stays in
    force: learned weights give way to the preset (the overlay file goes at the next look at the files), overrides end,
    the meta-producer is in shadow, levers weigh drivers by the policy, proposals are withdrawn. A close that was being
    attributed is attributed before.

    Raises NotOnRecord. Of a book that was removed already, nothing changes.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        # As whoever changes lessons and overrides does: this lock before that of the book.
        await store.lessons.hold(session, name)
        held = await store.books.hold_alone(session, name)
        book = held or await books.find(session, name)  # which raises that there is none
        if book.archived_at is not None:
            before = f"by {book.archived_by} on {book.archived_at:%Y-%m-%d %H:%M} UTC"
            return BookChanged(sentence=f"book {name} was removed already, {before}", book=book)
        withdrawn = await _withdraw(session, subjects, name, now)
        overrides = await store.overrides.open_overrides(session, name)
        await store.overrides.end(session, {one.override_id: BOOK_REMOVED for one in overrides}, now)
        undone = await _back_to_preset(session, name, operator, note, now)
        if (mode := await store.meta.mode(session, name)) and mode["live"]:
            await store.meta.set_mode(session, name, False, now, operator, BOOK_REMOVED)
        await market_drivers.back_to_policy(session, name, operator, BOOK_REMOVED)
        await store.failures.forget(session, name)
        await store.books.set_archived(session, name, now, operator)
        changed = BookChanged(
            sentence=f"book {name} is removed: it learns no more, and what it has stays on record. "
            f"'closeloop books restore {name} --by NAME' brings it back",
            book=await books.find(session, name),
            withdrawn=first_names([one.workflow_id for one in withdrawn]),
            overrides=len(overrides),
            preset_restored=undone is not None,
        )
        payload = _payload(changed, operator, note)
        await store.events.append(session, (EventType.book_archived, f"{name}/{now.isoformat()}", payload))
    for workflow in [*(one.waits_in or one.workflow_id for one in withdrawn), *([undone] if undone else [])]:
        with contextlib.suppress(RPCError):  # it may have ended, or Temporal be away: the record decides
            await client.get_workflow_handle(workflow).signal("look")
    return changed


async def restore(sessions: Sessions, name: str, operator: str, note: str = "") -> BookChanged:
    """Bring a removed book back: from now on it takes in, learns and proposes again. Commits.

    What waits in the database (rows of an engine, forecasts that are due) is taken up by the next runs. What was
    refused meanwhile is to be sent again; what ended with the removal stays ended. Raises NotOnRecord.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        book = await store.books.hold_alone(session, name) or await books.find(session, name)
        if book.archived_at is None:
            return BookChanged(sentence=f"book {name} was not removed", book=book)
        await store.books.set_archived(session, name, None, None)
        changed = BookChanged(
            sentence=f"book {name} is back, on its preset: send again what was refused meanwhile",
            book=await books.find(session, name),
        )
        payload = _payload(changed, operator, note) | {"removed_by": book.archived_by, "removed_at": book.archived_at}
        await store.events.append(session, (EventType.book_restored, f"{name}/{now.isoformat()}", payload))
    return changed


async def _withdraw(session: AsyncSession, subjects: Subjects, name: str, now: datetime) -> Sequence[ApprovalView]:
    """Withdraw whatever of the book waits for an operator; returns what did."""
    withdrawn = []
    for subject in subjects:
        for found in await subject.waiting(session, WaitingPage(book=name)):
            await subject.withdraw(session, found, BOOK_REMOVED, now)
            withdrawn.append(found)
    return withdrawn


async def _back_to_preset(session: AsyncSession, name: str, operator: str, note: str, now: datetime) -> str | None:
    """Bring the preset's weights into force where learned ones are; the id of the workflow that watched those."""
    active = await store.weights.active(session, name)
    found = await store.weights.overlay_state(session, name)
    if active is None or found is None or active.source != "learned":
        return None
    cycle = CycleKey(cycle_id=found.cycle_id, book=name)
    why = f"{BOOK_REMOVED}: {note}" if note else BOOK_REMOVED
    await revert_to_preset(
        session, RecordRevert(**cycle.approval.model_dump(), operator=operator, note=why[:4_000], at=now)
    )
    record = await store.weights.cycle(session, found.cycle_id)
    return record.workflow_id if record else None


def _payload(changed: BookChanged, operator: str, note: str) -> dict[str, Any]:
    told = changed.model_dump(mode="json", include={"withdrawn", "overrides", "preset_restored"})
    return {"book": changed.book.book, "operator": operator, "note": note, **told}
