"""Activities of overlay files: they follow the weights in force, and a deleted one is an operator's revert."""

import contextlib

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import each_book, on_record
from closeloop.activities.transactions import transaction
from closeloop.gateways.overlay import OverlayFolder
from closeloop.models.approvals import ApprovalAnswer, ApprovalState
from closeloop.models.bounded import BOOKS
from closeloop.models.weights import CycleKey, OverlayReport, RecordRevert
from closeloop.services.weight_decisions import revert_to_preset
from closeloop.store.database import Sessions
from closeloop.store.weights import OverlayState

OVERLAY_DELETED = "overlay file deleted"
"""The operator's name in the audit trail where a file was deleted: who deleted it is not known."""


TASK = "overlay"  # its name where an overlay file cannot be looked at or written


class OverlayActivities:
    """Makes each book's overlay file say what is in force. A write holds the book, so that there is one at a time."""

    def __init__(self, sessions: Sessions, overlays: OverlayFolder, client: Client) -> None:
        self._sessions = sessions
        self._overlays = overlays
        self._client = client

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.write_overlay, self.check_overlays, self.revert_deleted_overlay]

    @activity.defn(name="write_overlay")
    async def write_overlay(self, key: CycleKey) -> None:
        """Write the weights in force to the book's overlay file, or remove it where the preset is. Safe to repeat."""
        with contextlib.suppress(OSError):  # on record as due: the watch tries again
            async with on_record(self._sessions, TASK, key.book), transaction(self._sessions) as session:
                await store.books.hold(session, key.book)
                await self._bring_up_to_date(session, key.book)

    async def _bring_up_to_date(self, session: AsyncSession, book: str) -> None:
        found = await store.weights.overlay_state(session, book)
        if found is not None and found.overlay == "due" and self._was_deleted_before(book, found):
            # An operator's revert, or the policy itself, put learned weights in force before a deletion was noticed.
            # They are not written: no person approved them since.
            await revert_to_preset(session, self._deletion(book, found.cycle_id))
        active = await store.weights.active(session, book)
        if active is None:
            return
        folder = self._overlays.ensure_identity()
        if active.source == "learned":
            self._overlays.write(active)
            await store.weights.mark_overlay(session, book, active.version, "written", folder)
        else:
            self._overlays.remove(book)
            await store.weights.mark_overlay(session, book, active.version, "removed", folder)

    @activity.defn(name="check_overlays")
    async def check_overlays(self) -> OverlayReport:
        """Write overlays that are due; find those on record as written, in this very folder, that somebody deleted."""
        report = OverlayReport()
        async with transaction(self._sessions) as session:
            books = await store.weights.books_with_versions(session)

        async def look(book: str) -> None:
            async with transaction(self._sessions) as session:
                await store.books.hold(session, book)
                found = await store.weights.overlay_state(session, book)
                if found is None:
                    return
                if found.overlay == "due":
                    await self._bring_up_to_date(session, book)
                    if len(report.repaired) < BOOKS:
                        report.repaired.append(book)
                elif len(report.deleted) < BOOKS and self._is_deleted(book, found):  # the next look finds the others
                    report.deleted.append(CycleKey(cycle_id=found.cycle_id, book=book))

        report.failed = await each_book(self._sessions, TASK, books, look)
        return report

    def _was_deleted_before(self, book: str, found: OverlayState) -> bool:
        """Whether what is due to be written was approved by no person, and the file that it replaces was deleted."""
        return (
            found.replaced == "written"
            and found.replaced_folder == self._overlays.identity()
            and not self._overlays.exists(book)
        )

    def _deletion(self, book: str, cycle_id: str) -> RecordRevert:
        return RecordRevert(
            **CycleKey(cycle_id=cycle_id, book=book).approval.model_dump(),
            operator=OVERLAY_DELETED,
            note=f"{self._overlays.path(book).name} was deleted",
            at=activity.info().scheduled_time,
        )

    def _is_deleted(self, book: str, found: OverlayState) -> bool:
        """Whether the overlay in force is on record as written, in this very folder, and is not there."""
        return (
            found.overlay == "written"
            and found.overlay_folder == self._overlays.identity()
            and not self._overlays.exists(book)
        )

    @activity.defn(name="revert_deleted_overlay")
    async def revert_deleted_overlay(self, key: CycleKey) -> ApprovalAnswer:
        """Somebody deleted the book's overlay file: the preset is in force until an operator approves weights again."""
        word = self._deletion(key.book, key.cycle_id)  # of the first attempt: a retry is the same decision
        async with on_record(self._sessions, TASK, key.book), transaction(self._sessions) as session:
            await store.books.hold(session, key.book)
            found = await store.weights.overlay_state(session, key.book)
            if found is None or found.cycle_id != key.cycle_id or not self._is_deleted(key.book, found):
                # Since it was seen missing, another version came into force, or the file came back.
                if found is not None and found.overlay == "due":
                    await self._bring_up_to_date(session, key.book)
                reason = "the file is not missing any more"
                return ApprovalAnswer(accepted=False, state=ApprovalState.approved, reason=reason)
            answer = await revert_to_preset(session, word)
            await self._bring_up_to_date(session, key.book)
            record = await store.weights.cycle(session, key.cycle_id)
        if record is not None:
            with contextlib.suppress(RPCError):  # the cycle may have ended: then nobody watches it
                await self._client.get_workflow_handle(record.workflow_id).signal("look")
        return answer
