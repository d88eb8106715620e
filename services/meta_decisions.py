"""A book's meta-producer leaves shadow when an operator approves it, and is sent back to shadow at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models.approvals import ApprovalView, Decision
from closeloop.models.events import EventType
from closeloop.models.meta import MetaProposal
from closeloop.models.policy import LearningPolicy
from closeloop.services import books
from closeloop.services.approvals import DecisionEffect, approval_launch, start_waiting
from closeloop.services.numbered_proposals import NumberedSubject
from closeloop.services.operator_decisions import record_proposer
from closeloop.store.database import Sessions
from closeloop.store.numbered import NumberedProposals

META_MODE = "meta"
PROPOSALS = NumberedProposals(META_MODE, MetaProposal)


class LeavingShadow(NumberedSubject):
    """A proposal that a book's meta-producer speaks. The activity that writes what it says locks the book, too."""

    kind = META_MODE
    proposals = PROPOSALS
    unchanged = "the meta-producer stays in shadow"

    async def carry_out(self, session: AsyncSession, found: ApprovalView, decision: Decision) -> DecisionEffect:
        """See NumberedSubject."""
        if not await store.meta.set_mode(session, found.book, True, decision.at, decision.operator, decision.note):
            return DecisionEffect("the meta-producer was live already")
        return DecisionEffect(
            f"the meta-producer of {found.book} speaks from now on; "
            f"'closeloop meta shadow --book {found.book} --by NAME' sends it back"
        )

    def sentence(self, row: RowMapping) -> str:
        """See NumberedSubject."""
        evidence = row["evidence"]
        return f"Let the meta-producer of {row['book']} speak: {record_sentence(evidence)}{_gate(evidence)}"


async def propose_leaving_shadow(
    client: Client,
    sessions: Sessions,
    policy: LearningPolicy,
    book: str,
    evidence: dict[str, Any],
    secret: str | None = None,
) -> ApprovalView:
    """Propose that a book's meta-producer leaves shadow, and start the workflow that waits for an operator.

    Asked again while a proposal waits, it is the same proposal. ``secret``: of the token that proposes. Commits. Raises
    BookArchived, NotAuthenticated, NotAllowed.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        await books.refuse_archived(session, book)
        await store.books.hold(session, book)
        row = await PROPOSALS.propose(
            session,
            {
                "book_id": book,
                "evidence": evidence,
                "proposed_at": now,
                "deadline": now + timedelta(hours=policy.approvals.meta_hours),
                "policy_hash": policy.meta.hash,
            },
        )
        found = LeavingShadow().view(row)
        if secret is not None and row["proposed_at"] == now:
            await record_proposer(session, found, secret)
    await start_waiting(client, approval_launch(found))
    return found


async def back_to_shadow(sessions: Sessions, book: str, operator: str, note: str) -> bool:
    """Send a book's meta-producer back to shadow at once. Needs no approval: shadow is the safe direction.

    False if it was in shadow already. Commits.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        await books.find(session, book)
        await store.books.hold(session, book)
        mode = await store.meta.mode(session, book)
        if not (mode and mode["live"]):
            return False
        await store.meta.set_mode(session, book, False, now, operator, note)
        payload = {"book": book, "operator": operator, "note": note, "at": now, "was_live_since": mode["since"]}
        await store.events.append(session, (EventType.meta_shadowed, f"{book}/{now.isoformat()}", payload))
    return True


def record_sentence(evidence: dict[str, Any]) -> str:
    """A track record in a sentence."""
    shadow = evidence.get("shadow")
    if not shadow:
        return "no track record yet: nothing that it would have said has been resolved"
    others = evidence["producers_meanwhile"]
    beside = (
        f"; the producers it listened to: {others['hit_rate']:.1%}, Brier {others['brier']:.3f}" if others["n"] else ""
    )
    return (
        f"in shadow it was right in {shadow['correct']} of {shadow['n']} ({shadow['hit_low']:.1%} to "
        f"{shadow['hit_high']:.1%}), Brier {shadow['brier']:.3f}{beside}"
    )


def _gate(evidence: dict[str, Any]) -> str:
    if evidence.get("gate_open", True):
        return ""
    needed = evidence["outcomes_needed"]
    return f"; its gate is closed, {evidence['outcomes']} of {needed} outcomes: approved now, it speaks once that opens"
