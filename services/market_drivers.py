"""Weights of the market's drivers in a book's levers: proposed on the evidence, in force once an operator approves."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.learning.market.drivers import level, proposed
from closeloop.models.approvals import ApprovalState, ApprovalView, Decision
from closeloop.models.events import EventType
from closeloop.models.market_drivers import (
    NO_CHANGE,
    DriverProposal,
    DriversAnswer,
    DriversProposed,
    DriversView,
)
from closeloop.models.policy import LearningPolicy, LeversPolicy
from closeloop.services import books
from closeloop.services.approvals import DecisionEffect, approval_launch, start_waiting
from closeloop.services.market_evidence import evidence
from closeloop.services.numbered_proposals import NumberedSubject
from closeloop.services.operator_decisions import record_proposer
from closeloop.store.database import Sessions
from closeloop.store.numbered import NumberedProposals

DRIVERS = "drivers"
PROPOSALS = NumberedProposals(DRIVERS, DriverProposal)


class DriversProposal(NumberedSubject):
    """A proposal to change a book's factors of drivers. Whoever reverts what is in force withdraws what waits."""

    kind = DRIVERS
    proposals = PROPOSALS
    unchanged = "the drivers' weights stay as they are"

    async def carry_out(self, session: AsyncSession, found: ApprovalView, decision: Decision) -> DecisionEffect:
        """See NumberedSubject."""
        row = await PROPOSALS.find(session, found.book, int(found.id))
        assert row is not None, "it was found"
        factors = {each.driver: each.after for each in DriversProposed.model_validate(row["evidence"]).changes}
        await store.market.drivers.put_in_force(
            session, found.book, factors, decision.operator, decision.note, int(found.id)
        )
        return DecisionEffect(
            f"levers for {found.book} weigh its drivers so from now on; "
            f"'closeloop market revert --book {found.book} --by NAME' goes back to the policy's weights"
        )

    def sentence(self, row: RowMapping) -> str:
        """See NumberedSubject."""
        found = DriversProposed.model_validate(row["evidence"])
        moved = [
            f"{each.driver} x {each.before:g} -> x {each.after:g} ({each.reason})"
            for each in found.changes
            if each.after != each.before
        ]
        return (
            f"Weigh the market's drivers otherwise in levers for {row['book']}: {'; '.join(moved)}; "
            f"from {found.counted:,} trades"
        )


async def propose(
    client: Client, sessions: Sessions, policy: LearningPolicy, book: str, as_of: datetime, secret: str | None = None
) -> DriversAnswer:
    """Propose what the evidence of a book's trades that had closed by ``as_of`` says of its drivers' weights, and start
    the workflow that waits for an operator. Commits.

    Nothing is proposed where nothing is to be changed, nor from trades from which something was proposed before. While
    a proposal waits, it is that one. ``secret``: of the token that proposes. Raises NotOnRecord, BookArchived,
    NotAuthenticated, NotAllowed, and NotAcceptable for too many trades.
    """
    async with sessions() as session:
        await books.find_open(session, book)
        shown = await evidence(session, policy, book, None, as_of)
    async with sessions.begin() as session:
        await books.refuse_archived(session, book)
        await store.books.hold(session, book)
        before = await _factors(session, book)
        found = DriversProposed(
            book=book,
            counted=shown.counted,
            first_opened_at=shown.first_opened_at,
            last_opened_at=shown.last_opened_at,
            max_q=level(shown.counted, policy.worth),
            changes=proposed(shown.states, shown.counted, before, policy.levers, policy.worth),
        )
        last = await PROPOSALS.newest(session, book)
        waits = last is not None and last["state"] == ApprovalState.pending
        if not waits and (refusal := _nothing(found, last)):
            return DriversAnswer(sentence=refusal, found=found, evidence=shown)
        now = datetime.now(UTC)
        row = await PROPOSALS.propose(
            session,
            {
                "book_id": book,
                "evidence": found.model_dump(mode="json"),
                "proposed_at": now,
                "deadline": now + timedelta(hours=policy.approvals.hours),
                "policy_hash": policy.policy_hash,
            },
        )
        view = DriversProposal().view(row)
        if secret is not None and not waits:
            await record_proposer(session, view, secret)
    await start_waiting(client, approval_launch(view))
    sentence = f"{'Waits already' if waits else 'Proposed'}: {view.proposal}"
    return DriversAnswer(
        proposal=view.workflow_id, deadline=view.deadline, sentence=sentence, found=found, evidence=shown
    )


async def revert(
    client: Client, sessions: Sessions, book: str, operator: str, note: str, proposal: int | None = None
) -> bool:
    """Weigh a book's drivers by the policy again, at once. Needs no approval: it is what nobody's trades changed.

    A proposal that waits is withdrawn, as it would start from other factors. False where the weights are the policy's
    already, or are not those of ``proposal`` where one is named. Commits. Raises NotOnRecord.
    """
    withdrawn = None
    async with sessions.begin() as session:
        await books.find(session, book)
        await store.books.hold(session, book)
        if proposal is not None:
            now_in_force = await store.market.drivers.in_force(session, book)
            if now_in_force is None or now_in_force["proposal"] != proposal:
                return False
        if not await back_to_policy(session, book, operator, note):
            return False
        for row in await PROPOSALS.pending(session, book):
            withdrawn = DriversProposal().view(row)
            reason = f"{operator} went back to the policy's weights"
            await DriversProposal().withdraw(session, withdrawn, reason, datetime.now(UTC))
    if withdrawn is not None:
        with contextlib.suppress(RPCError):  # it may have ended, or Temporal be away: the record decides
            await client.get_workflow_handle(withdrawn.workflow_id).signal("look")
    return True


async def back_to_policy(session: AsyncSession, book: str, operator: str, note: str) -> bool:
    """The same in the caller's transaction, which holds the book, and leaves what waits; tells of it in an event."""
    before = await _factors(session, book)
    if all(factor == NO_CHANGE for factor in before.values()):
        return False
    await store.market.drivers.put_in_force(session, book, {}, operator, note, None)
    now = await store.market.drivers.in_force(session, book)
    assert now is not None, "it was put in force"
    payload = {"book": book, "operator": operator, "note": note, "at": now["since"], "factors": before}
    await store.events.append(session, (EventType.drivers_reverted, f"{book}/{now['version']}", payload))
    return True


async def status(session: AsyncSession, policy: LeversPolicy, book: str, at: datetime) -> DriversView:
    """A book's factors of drivers as of an instant, the weights that follow, and what waits. Raises NotOnRecord."""
    await books.find(session, book)
    row = await store.market.drivers.in_force(session, book, at)
    waiting = [each for each in await PROPOSALS.pending(session, book) if each["proposed_at"] <= at]
    factors = {name: (row["factors"] if row else {}).get(name, NO_CHANGE) for name in policy.driver_weights}
    return DriversView(
        book=book,
        version=row["version"] if row else 0,
        since=row["since"] if row else None,
        operator=row["operator"] if row else None,
        note=row["note"] if row else None,
        proposal=f"{DRIVERS}/{book}/{row['proposal']}" if row and row["proposal"] is not None else None,
        policy_weights=policy.driver_weights,
        factors=factors,
        weights=_weighed(policy, factors).driver_weights,
        waiting=f"{DRIVERS}/{book}/{waiting[0]['number']}" if waiting else None,
        waits_until=waiting[0]["deadline"] if waiting else None,
    )


async def policy_of(session: AsyncSession, book: str, policy: LeversPolicy, instant: datetime) -> LeversPolicy:
    """The policy of a book's levers as of an instant: with the factors of its drivers that were in force then."""
    row = await store.market.drivers.in_force(session, book, instant)
    return policy if row is None else _weighed(policy, row["factors"])


def _weighed(policy: LeversPolicy, factors: Mapping[str, float]) -> LeversPolicy:
    weights = {name: weight * factors.get(name, NO_CHANGE) for name, weight in policy.driver_weights.items()}
    if weights == policy.driver_weights:
        return policy
    # Made anew, since a copy would keep the hash.
    return LeversPolicy.model_validate(policy.model_dump() | {"driver_weights": weights})


async def _factors(session: AsyncSession, book: str) -> dict[str, float]:
    row = await store.market.drivers.in_force(session, book)
    return {} if row is None else dict(row["factors"])


def _nothing(found: DriversProposed, last: RowMapping | None) -> str:
    """Why nothing is proposed; empty if something is."""
    if not found.counted:
        return "Nothing to propose: no trade with a known R says what the market was when it was opened."
    decided = last is not None and last["state"] != ApprovalState.withdrawn
    if last is not None and decided and last["evidence"]["counted"] >= found.counted:
        return (
            f"Nothing to propose: proposal {last['number']}, which was {last['state']}, was made of these "
            f"{found.counted:,} trades already. New ones are needed."
        )
    if all(each.after == each.before for each in found.changes):
        return (
            f"Nothing to propose: {found.counted:,} trades do not tell of any driver that its weight should be another "
            f"one. At so many, a state is believed with q at most {found.max_q:.2g}."
        )
    return ""
